// Package seal answers: was this cookie value made by one of our routers? Pure.
//
// A sealed value is the value, a dot, and the first 128 bits of HMAC-SHA256 (RFC 2104, RFC 6234) over the cookie's name and
// the value, in base64url without padding (RFC 4648 section 5).
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"sync"
)

const (
	// MinKey and MaxKey are the fewest and most bytes of a key.
	MinKey, MaxKey = 32, 256
	// MaxKeys is the most keys at a time.
	MaxKeys = 8
	// MaxValue is the most bytes of a sealed value; longer ones are not looked at.
	MaxValue = 256

	tag  = 16              // bytes of a seal
	text = (tag*8 + 5) / 6 // the same in base64
)

// purpose sets these seals apart from whatever else the same key may be used for.
const purpose = "twotier persistence cookie\x00"

var encoding = base64.RawURLEncoding.Strict() // one seal has one spelling

// Keys seal values with the first of them, and know the seals of all. Any goroutine may use them.
type Keys struct{ makers []*sync.Pool }

// maker makes seals with one key.
type maker struct {
	hash.Hash
	scratch []byte
	sum     [sha256.Size]byte
}

// Parse reads keys, one a line: any text of MinKey to MaxKey bytes. Empty lines and those that begin with # do not count.
func Parse(file []byte) (*Keys, error) {
	k := &Keys{}
	for i, line := range bytes.Split(file, []byte{'\n'}) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) < MinKey || len(line) > MaxKey {
			return nil, fmt.Errorf("line %d: want a key of %d to %d bytes, got %d", i+1, MinKey, MaxKey, len(line))
		}
		key := bytes.Clone(line)
		k.makers = append(k.makers, &sync.Pool{New: func() any { return &maker{Hash: hmac.New(sha256.New, key)} }})
	}
	if len(k.makers) == 0 || len(k.makers) > MaxKeys {
		return nil, fmt.Errorf("want 1 to %d keys, got %d", MaxKeys, len(k.makers))
	}
	return k, nil
}

// seal puts the seal of a value into m.sum.
func (m *maker) seal(name string, value []byte) {
	m.Reset()
	m.scratch = append(append(append(append(m.scratch[:0], purpose...), name...), 0), value...)
	_, _ = m.Write(m.scratch) // a hash takes everything
	m.Sum(m.sum[:0])
}

// Append seals the value that dst ends with, from a place on.
func (k *Keys) Append(dst []byte, name string, from int) []byte {
	m := k.makers[0].Get().(*maker)
	m.seal(name, dst[from:])
	dst = append(dst, '.')
	dst = encoding.AppendEncode(dst, m.sum[:tag])
	k.makers[0].Put(m)
	return dst
}

// Open returns what is sealed in a value; false: it bears no seal of ours. The time that it takes tells nothing about seals.
func (k *Keys) Open(name string, sealed []byte) (value []byte, ok bool) {
	at := len(sealed) - text - 1
	if at < 0 || len(sealed) > MaxValue || sealed[at] != '.' {
		return nil, false
	}
	var given [tag + 2]byte
	if n, err := encoding.Decode(given[:], sealed[at+1:]); err != nil || n != tag {
		return nil, false
	}
	for _, makers := range k.makers {
		m := makers.Get().(*maker)
		m.seal(name, sealed[:at])
		ok = hmac.Equal(m.sum[:tag], given[:tag]) || ok
		makers.Put(m)
	}
	return sealed[:at], ok
}
