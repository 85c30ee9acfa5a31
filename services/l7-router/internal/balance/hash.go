package balance

import (
	"bytes"
	"hash/crc32"
	"math/bits"
	"net/netip"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// The hashes are HAProxy's, bit by bit, so that a client stays on its server when a router takes HAProxy's place or stands
// beside it (configuration manual, "hash-type").

// Mix spreads every bit of a over the whole word: Bob Jenkins' full avalanche function, times a large odd number (HAProxy:
// avalanche).
func Mix(a uint32) uint32 {
	a = a + 0x7ed55d16 + a<<12
	a = a ^ 0xc761c23c ^ a>>19
	a = a + 0x165667b1 + a<<5
	a = (a + 0xd3a2646c) ^ a<<9
	a = a + 0xfd7046c5 + a<<3
	a = a ^ 0xb55a4f09 ^ a>>16
	return a * 3221225473
}

// OfAddress is the hash of a client's address: its 32-bit words, added without carry. An IPv4 address in IPv6 clothes is an
// IPv4 address.
func OfAddress(b *spec.Balance, a netip.Addr) uint32 {
	a = a.Unmap()
	var h uint32
	if a.Is4() {
		four := a.As4()
		h = word(four[:])
	} else {
		sixteen := a.As16()
		for i := 0; i < 16; i += 4 {
			h ^= word(sixteen[i:])
		}
	}
	return mixed(b, h)
}

func word(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// OfTarget is the hash of a request's target, or of the part of it that counts.
func OfTarget(b *spec.Balance, target []byte) uint32 {
	if b.PathOnly && len(target) > 0 && target[0] != '/' {
		_, behind, _ := bytes.Cut(target, []byte("://"))
		target = nil // the authority form and * have no path
		if path := bytes.IndexByte(behind, '/'); path >= 0 {
			target = behind[path:]
		}
	}
	if b.Length > 0 && len(target) > b.Length {
		target = target[:b.Length]
	}
	if !b.Whole {
		if query := bytes.IndexByte(target, '?'); query >= 0 {
			target = target[:query]
		}
	}
	if b.Depth > 0 {
		slashes := 0
		for i, c := range target {
			if c != '/' {
				continue
			}
			if slashes++; slashes == b.Depth+1 {
				target = target[:i]
				break
			}
		}
	}
	return OfText(b, target)
}

// OfText is the hash of text, such as the value of a header field.
func OfText(b *spec.Balance, text []byte) uint32 {
	var h uint32
	switch b.Function {
	case spec.DJB2:
		h = hashDJB2(text)
	case spec.WT6:
		h = hashWT6(text)
	case spec.CRC32:
		h = hashCRC32(text)
	default:
		for _, c := range text {
			h = uint32(c) + h<<6 + h<<16 - h
		}
	}
	return mixed(b, h)
}

func mixed(b *spec.Balance, h uint32) uint32 {
	if b.Avalanche {
		return Mix(h)
	}
	return h
}

func hashDJB2(text []byte) uint32 {
	h := uint32(5381)
	for _, c := range text {
		h = h<<5 + h + uint32(c)
	}
	return h
}

func hashCRC32(text []byte) uint32 { return crc32.ChecksumIEEE(text) }

func hashWT6(text []byte) uint32 {
	h0, h1 := uint32(0xa53c965a), uint32(0x5ca6953a)
	step0, step1 := 6, 18
	for _, c := range text {
		h0 = ^(h0 ^ uint32(c))
		h1 = ^(h1 + uint32(c))
		t := bits.RotateLeft32(h1, step0)
		h1 = bits.RotateLeft32(h0, step1)
		h0 = t
		t = (h0>>16 ^ h1) & 0xffff
		step0, step1 = int(t&0x1f), int(t>>11)
	}
	return h0 ^ h1
}
