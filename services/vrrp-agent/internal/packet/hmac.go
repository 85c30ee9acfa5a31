package packet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
	"time"
)

// The trailer of keepalived 2.4.2 and newer (auth_hmac; draft-cassen-vrrp-auth-hmac) stands behind the advert, inside the
// IP packet but outside of VRRP's checksum: type, key, two reserved bytes, a time of the wall clock in seconds and
// 1/65536 s, a counter, and the first 16 bytes of HMAC-SHA256 over a pseudo-header {4 or 6, version, virtual router, 0,
// source address in 16 bytes}, the advert with its checksum taken as zero, and the trailer with its code taken as zero.
const (
	trailerLength = 28
	trailerCodeAt = 12
	trailerType   = 1
	trailerKeyAt  = 1
	trailerTimeAt = 4
	codeLength    = trailerLength - trailerCodeAt

	// MinKey and MaxKey are the lengths of a key in bytes.
	MinKey = 32
	MaxKey = 64
	// MaxKeys is the most keys at a time; two are enough for a change of keys.
	MaxKeys = 8
)

// Key is one key of a ring.
type Key struct {
	// ID by which the trailer names it.
	ID uint8
	// Secret of MinKey to MaxKey bytes.
	Secret []byte
}

// Ring is the keys that trailers are made and checked with. nil is none. One goroutine may use it at a time.
type Ring struct {
	active uint8
	keys   map[uint8]hash.Hash
	last   uint64 // sequence of the last trailer that was made
	pseudo [20]byte
	sum    [sha256.Size]byte
}

// NewRing makes a ring. Trailers are made with the key whose identifier is active.
func NewRing(active uint8, keys []Key) *Ring {
	r := &Ring{active: active, keys: map[uint8]hash.Hash{}}
	for _, k := range keys {
		r.keys[k.ID] = hmac.New(sha256.New, k.Secret)
	}
	return r
}

// Sequence of a trailer: seconds of the wall clock in the upper 32 bits, then 1/65536 s, then a counter. It is ordered as
// serial numbers are (RFC 1982), so that it may wrap.
type Sequence uint64

// after tells whether s comes after t.
func (s Sequence) after(t Sequence) bool { return int64(s-t) > 0 }

// SequenceOf is the first sequence of that time.
func SequenceOf(now time.Time) Sequence {
	return Sequence(uint64(uint32(now.Unix()))<<32 | uint64(now.Nanosecond())<<16/1_000_000_000<<16)
}

// Sign fills in the trailer at the end of an advert that was written with room for it. It allocates nothing.
func (r *Ring) Sign(advert []byte, f Format, now time.Time) {
	if s := SequenceOf(now); s.after(Sequence(r.last)) {
		r.last = uint64(s)
	} else {
		r.last++
	}
	trailer := advert[len(advert)-trailerLength:]
	clear(trailer)
	trailer[0], trailer[trailerKeyAt] = trailerType, r.active
	binary.BigEndian.PutUint64(trailer[trailerTimeAt:], r.last)
	if mac := r.keys[r.active]; mac != nil { // a code of zeros is believed by nobody
		r.code(mac, f.Source, advert)
		copy(trailer[trailerCodeAt:], r.sum[:])
	}
}

// code calculates the code of an advert with its trailer into r.sum.
func (r *Ring) code(mac hash.Hash, source netip.Addr, signed []byte) {
	clear(r.pseudo[:])
	r.pseudo[0], r.pseudo[1], r.pseudo[2] = 4, signed[0]>>4, signed[1]
	if source.Is6() {
		r.pseudo[0] = 6
		raw := source.As16()
		copy(r.pseudo[4:], raw[:])
	} else if source.Is4() {
		raw := source.As4()
		copy(r.pseudo[4:], raw[:])
	}
	mac.Reset()
	mac.Write(r.pseudo[:]) // a hash never fails
	mac.Write(signed[:checksumAt])
	mac.Write(zeros[:2])
	mac.Write(signed[checksumAt+2 : len(signed)-codeLength])
	mac.Write(zeros[:])
	mac.Sum(r.sum[:0])
}

var zeros [codeLength]byte

// verify checks an advert with its trailer.
func (r *Ring) verify(source netip.Addr, signed []byte) (Sequence, bool) {
	trailer := signed[len(signed)-trailerLength:]
	mac := r.keys[trailer[trailerKeyAt]]
	if trailer[0] != trailerType || trailer[2] != 0 || trailer[3] != 0 || mac == nil {
		return 0, false
	}
	r.code(mac, source, signed)
	if !hmac.Equal(r.sum[:codeLength], trailer[trailerCodeAt:]) {
		return 0, false
	}
	return Sequence(binary.BigEndian.Uint64(trailer[trailerTimeAt:])), true
}

// replayMost bounds the senders that are remembered; only those with a key get that far.
const replayMost = 32

// Replay remembers what was heard last of each sender.
type Replay struct {
	last map[netip.Addr]Sequence
}

// Take tells whether a sequence is new and of this time, within the window, and remembers it.
func (p *Replay) Take(from netip.Addr, s Sequence, now time.Time, window time.Duration) bool {
	away := time.Duration(int32(uint32(s>>32)-uint32(now.Unix()))) * time.Second
	if away > window || away < -window {
		return false
	}
	last, known := p.last[from]
	if known && !s.after(last) {
		return false
	}
	if p.last == nil {
		p.last = map[netip.Addr]Sequence{}
	}
	if !known && len(p.last) >= replayMost {
		oldest := from
		for a, t := range p.last {
			if o, ok := p.last[oldest]; !ok || o.after(t) {
				oldest = a
			}
		}
		delete(p.last, oldest)
	}
	p.last[from] = s
	return true
}
