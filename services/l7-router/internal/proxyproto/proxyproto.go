// Package proxyproto reads and writes the PROXY protocol, versions 1 and 2: who has connected to the proxy in front of us,
// and what do we tell a server of our own client? Pure; the document is HAProxy's doc/proxy-protocol.txt.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

const (
	// MaxV1 is the most bytes of a header of version 1, with its line end (section 2.1).
	MaxV1 = 107
	// MaxHeader is the most bytes of a header that is taken; version 2 could have 65551, and senders use some hundred.
	MaxHeader = 8 << 10
)

// signature begins a header of version 2 (section 2.2).
const signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	lenFixed = 16 // of version 2: signature, command, family, length
	len4     = 12 // two IPv4 addresses and ports
	len6     = 36

	commandLocal = 0x20
	commandProxy = 0x21

	familyNone = 0x00
	family4    = 0x11 // TCP over IPv4
	family6    = 0x21 // TCP over IPv6

	typeChecksum = 0x03 // PP2_TYPE_CRC32C
)

// ErrMalformed is what is no header, or not a good one.
var ErrMalformed = errors.New("no valid PROXY header")

// Header is what a sender says of the connection that it passes on.
type Header struct {
	// Source is who has connected, Destination what to. Both are zero when the sender speaks for itself (LOCAL, a health
	// check for instance), does not know (UNKNOWN) or passes on something else than TCP: then the connection's own
	// addresses count.
	Source, Destination netip.AddrPort
}

// Known reports whether h names addresses.
func (h Header) Known() bool { return h.Source.IsValid() }

// Parse reads a header at the start of b and returns how long it is. 0 without an error: more bytes are needed. Once it
// has returned something else more bytes do not change it.
func Parse(b []byte) (h Header, n int, err error) {
	switch {
	case len(b) == 0:
		return h, 0, nil
	case b[0] == 'P':
		return parse1(b)
	case b[0] == signature[0]:
		return parse2(b)
	}
	return h, 0, ErrMalformed
}

// parse1 reads a line such as "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".
func parse1(b []byte) (h Header, n int, err error) {
	const start = "PROXY "
	end := bytes.IndexByte(b[:min(len(b), MaxV1)], '\n')
	switch {
	case string(b[:min(len(b), len(start))]) != start[:min(len(b), len(start))]:
		return h, 0, ErrMalformed
	case end < 0 && len(b) >= MaxV1:
		return h, 0, ErrMalformed
	case end < 0:
		return h, 0, nil
	case end < len(start)+1 || b[end-1] != '\r':
		return h, 0, ErrMalformed
	}
	line := string(b[len(start) : end-1])
	n = end + 1
	if line == "UNKNOWN" || strings.HasPrefix(line, "UNKNOWN ") {
		return h, n, nil // whatever follows
	}
	words := strings.Split(line, " ")
	if len(words) != 5 || words[0] != "TCP4" && words[0] != "TCP6" {
		return h, 0, ErrMalformed
	}
	var ok [2]bool
	h.Source, ok[0] = endpoint(words[0] == "TCP4", words[1], words[3])
	h.Destination, ok[1] = endpoint(words[0] == "TCP4", words[2], words[4])
	if !ok[0] || !ok[1] {
		return Header{}, 0, ErrMalformed
	}
	return h, n, nil
}

func endpoint(four bool, address, port string) (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(address)
	number, wrong := strconv.ParseUint(port, 10, 16)
	if err != nil || wrong != nil || addr.Is4() != four || addr.Zone() != "" || strconv.FormatUint(number, 10) != port {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), true
}

func parse2(b []byte) (h Header, n int, err error) {
	if known := min(len(b), len(signature)); string(b[:known]) != signature[:known] {
		return h, 0, ErrMalformed
	}
	if len(b) > 12 && b[12] != commandLocal && b[12] != commandProxy {
		return h, 0, ErrMalformed
	}
	if len(b) > 13 && (b[13]>>4 > 3 || b[13]&0xf > 2) {
		return h, 0, ErrMalformed
	}
	if len(b) < lenFixed {
		return h, 0, nil
	}
	rest := int(binary.BigEndian.Uint16(b[14:]))
	if n = lenFixed + rest; n > MaxHeader {
		return h, 0, ErrMalformed
	}
	var from func([]byte) netip.Addr
	size, have := 0, 0
	if b[12] == commandProxy {
		switch b[13] {
		case family4:
			size, have = 4, len4
			from = func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
		case family6:
			size, have = 16, len6
			from = func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)).Unmap() }
		}
	}
	switch {
	case rest < have:
		return h, 0, ErrMalformed
	case len(b) < n:
		return h, 0, nil
	case have > 0 && !extensionsGood(b[:n], lenFixed+have):
		return h, 0, ErrMalformed
	case have == 0:
		return h, n, nil
	}
	a := b[lenFixed:]
	h.Source = netip.AddrPortFrom(from(a[:size]), binary.BigEndian.Uint16(a[2*size:]))
	h.Destination = netip.AddrPortFrom(from(a[size:2*size]), binary.BigEndian.Uint16(a[2*size+2:]))
	return h, n, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// extensionsGood reports whether what follows the addresses is well formed (TLV, section 2.2) and agrees with its checksum,
// if there is one. What else it says is not used.
func extensionsGood(header []byte, at int) bool {
	for at < len(header) {
		if len(header)-at < 3 {
			return false
		}
		kind, size := header[at], int(binary.BigEndian.Uint16(header[at+1:]))
		at += 3
		if size > len(header)-at {
			return false
		}
		if kind == typeChecksum {
			if size != 4 {
				return false
			}
			sum := crc32.Update(0, castagnoli, header[:at])
			sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
			sum = crc32.Update(sum, castagnoli, header[at+4:])
			if sum != binary.BigEndian.Uint32(header[at:]) {
				return false
			}
		}
		at += size
	}
	return true
}

// AppendV1 appends a header of version 1. Without addresses, or with those of two families, it says UNKNOWN.
func AppendV1(dst []byte, h Header) []byte {
	source, destination := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	switch {
	case source.Is4() && destination.Is4():
		dst = append(dst, "PROXY TCP4 "...)
	case source.Is6() && destination.Is6():
		dst = append(dst, "PROXY TCP6 "...)
	default:
		return append(dst, "PROXY UNKNOWN\r\n"...)
	}
	dst = append(source.WithZone("").AppendTo(dst), ' ')
	dst = append(destination.WithZone("").AppendTo(dst), ' ')
	dst = append(strconv.AppendUint(dst, uint64(h.Source.Port()), 10), ' ')
	dst = strconv.AppendUint(dst, uint64(h.Destination.Port()), 10)
	return append(dst, "\r\n"...)
}

// AppendV2 appends a header of version 2. Without addresses it says LOCAL; IPv4 beside IPv6 is written as IPv6.
func AppendV2(dst []byte, h Header) []byte {
	source, destination := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	dst = append(dst, signature...)
	switch {
	case !source.IsValid() || !destination.IsValid():
		return append(dst, commandLocal, familyNone, 0, 0)
	case source.Is4() && destination.Is4():
		dst = append(dst, commandProxy, family4, 0, len4)
		dst = append(append(dst, source.AsSlice()...), destination.AsSlice()...)
	default:
		a, b := source.As16(), destination.As16()
		dst = append(dst, commandProxy, family6, 0, len6)
		dst = append(append(dst, a[:]...), b[:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, h.Source.Port())
	return binary.BigEndian.AppendUint16(dst, h.Destination.Port())
}
