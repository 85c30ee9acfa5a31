package ipvsmsg

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	attributeLen = 4      // struct nlattr
	maxText      = 16     // IP_VS_SCHEDNAME_MAXLEN, IP_VS_PENAME_MAXLEN, IP_VS_IFNAME_MAXLEN: with the 0 at its end
	kindMask     = 0x3fff // NLA_TYPE_MASK: without the bits for nested and for network byte order
)

// attributes are those of one level, being written.
type attributes []byte

func (a attributes) bytes(kind uint16, value []byte) attributes {
	a = binary.NativeEndian.AppendUint16(a, uint16(attributeLen+len(value)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, value...)
	return append(a, make([]byte, aligned(len(value))-len(value))...)
}

func (a attributes) u8(kind uint16, v uint8) attributes { return a.bytes(kind, []byte{v}) }

func (a attributes) u16(kind uint16, v uint16) attributes {
	return a.bytes(kind, binary.NativeEndian.AppendUint16(nil, v))
}

func (a attributes) be16(kind uint16, v uint16) attributes {
	return a.bytes(kind, binary.BigEndian.AppendUint16(nil, v))
}

func (a attributes) u32(kind uint16, v uint32) attributes {
	return a.bytes(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (a attributes) text(kind uint16, v string) attributes {
	return a.bytes(kind, append([]byte(v), 0))
}

// address is a union nf_inet_addr: 16 bytes, of which IPv4 uses the first four.
func (a attributes) address(kind uint16, v netip.Addr) attributes {
	return a.bytes(kind, append(v.AsSlice(), make([]byte, 16-len(v.AsSlice()))...))
}

// each calls take with every attribute of one level.
func each(b []byte, take func(kind uint16, v value) error) error {
	for len(b) > 0 {
		if len(b) < attributeLen {
			return fmt.Errorf("%w: %d bytes are left for an attribute", ErrMalformed, len(b))
		}
		length := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & kindMask
		if length < attributeLen || length > len(b) {
			return fmt.Errorf("%w: attribute %d of %d bytes in %d", ErrMalformed, kind, length, len(b))
		}
		if err := take(kind, b[attributeLen:length]); err != nil {
			return fmt.Errorf("attribute %d: %w", kind, err)
		}
		b = b[min(aligned(length), len(b)):]
	}
	return nil
}

// value is what an attribute holds.
type value []byte

// into reads a number of the type that the kernel's policy gives it.
func into[T uint8 | uint16 | uint32 | uint64](v value, n *T) error {
	var width int
	switch any(*n).(type) {
	case uint8:
		width = 1
	case uint16:
		width = 2
	case uint32:
		width = 4
	default:
		width = 8
	}
	if len(v) != width {
		return fmt.Errorf("%w: a number of %d bytes, not %d", ErrMalformed, len(v), width)
	}
	switch width {
	case 1:
		*n = T(v[0])
	case 2:
		*n = T(binary.NativeEndian.Uint16(v))
	case 4:
		*n = T(binary.NativeEndian.Uint32(v))
	default:
		*n = T(binary.NativeEndian.Uint64(v))
	}
	return nil
}

func (v value) port(n *uint16) error {
	if len(v) != 2 {
		return fmt.Errorf("%w: a port of %d bytes", ErrMalformed, len(v))
	}
	*n = binary.BigEndian.Uint16(v)
	return nil
}

func (v value) text(s *string) error {
	end := bytes.IndexByte(v, 0)
	if end < 0 || end >= maxText {
		return fmt.Errorf("%w: a text of %d bytes, or without its end", ErrMalformed, len(v))
	}
	*s = string(v[:end])
	return nil
}

// address reads a union nf_inet_addr of a family.
func (v value) address(family Family) (netip.Addr, error) {
	switch {
	case len(v) == 16 && family == IPv6:
		return netip.AddrFrom16([16]byte(v)), nil
	case len(v) == 16 && family == IPv4:
		return netip.AddrFrom4([4]byte(v[:4])), nil
	}
	return netip.Addr{}, fmt.Errorf("%w: an address of %d bytes and family %d", ErrMalformed, len(v), family)
}
