package route

import (
	"bytes"
	"net/netip"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// maxHops is how many of the hops that a field tells are looked at, the nearest first.
const maxHops = 32

// Peer is the address of the sender of the connection; the zero Addr when it is not known.
func (r *Request) Peer() netip.Addr {
	r.look()
	return r.sender
}

// Trusted reports whether the sender of the connection is a trusted hop.
func (r *Request) Trusted() bool {
	if len(r.hops.Trusted) == 0 {
		return false // as most frontends have it, without reading the address
	}
	r.look()
	return r.trusted
}

// Client is the address of the client: the sender of the connection, or whom the trusted hops name. The zero Addr when it
// is not known.
func (r *Request) Client() netip.Addr {
	r.look()
	return r.client
}

// look finds out who the client is, once.
func (r *Request) look() {
	if r.looked {
		return
	}
	r.looked = true
	r.sender, _ = netip.ParseAddr(r.peer) // what is not an address is in no network
	r.sender = r.sender.Unmap().WithZone("")
	r.client = r.sender
	if !within(r.hops.Trusted, r.sender) {
		return
	}
	r.trusted = true
	r.trace()
}

// trace goes back from a trusted hop to the first address that is not trusted. What is no address ends it: nobody knows what
// is behind.
func (r *Request) trace() {
	var ring [maxHops][]byte
	n := 0
	want := http1.XForwardedFor
	if r.hops.From == spec.FromForwarded {
		want = http1.Forwarded
	}
	for i := range r.head.Fields() {
		if r.head.Known(i) != want || r.head.HopByHop(i) {
			continue
		}
		for list, more := r.head.Value(i), true; more; {
			var member []byte
			if want == http1.Forwarded {
				member, list, more = cutMember(list)
			} else { // no quotes here
				member, list, more = bytes.Cut(list, comma)
				member = http1.Trim(member)
			}
			if len(member) > 0 {
				ring[n%maxHops] = member
				n++
			}
		}
	}
	for i := n - 1; i >= 0 && i >= n-maxHops; i-- {
		node, ok := ring[i%maxHops], true
		if want == http1.Forwarded {
			node, ok = forParameter(node)
		}
		if !ok {
			return
		}
		address, ok := nodeAddress(node, want == http1.Forwarded)
		if !ok {
			return
		}
		r.client = address
		if !within(r.hops.Trusted, address) {
			return
		}
	}
}

var comma = []byte{','}

func within(networks []netip.Prefix, a netip.Addr) bool {
	for _, network := range networks {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// forParameter finds the value of "for" in an element of Forwarded (RFC 7239 section 4), without quotes. An element that is
// not well formed, or tells it twice, tells nothing.
func forParameter(element []byte) (node []byte, ok bool) {
	for len(element) > 0 {
		equals := bytes.IndexByte(element, '=')
		if equals < 0 {
			return nil, false
		}
		name := http1.Trim(element[:equals])
		value := element[equals+1:]
		if len(value) > 0 && value[0] == '"' {
			end := bytes.IndexByte(value[1:], '"')
			if end < 0 || bytes.IndexByte(value[1:1+end], '\\') >= 0 {
				return nil, false
			}
			value, element = value[1:1+end], http1.Trim(value[2+end:])
			if len(element) > 0 && element[0] != ';' {
				return nil, false
			}
			element = element[min(1, len(element)):]
		} else {
			value, element, _ = bytes.Cut(value, []byte{';'})
			value = http1.Trim(value)
		}
		if http1.EqualFold(name, "for") {
			if ok {
				return nil, false
			}
			node, ok = value, true
		}
	}
	return node, ok
}

// nodeAddress reads an address, with a port or without. strict: an IPv6 address stands in brackets (RFC 7239 section 6);
// X-Forwarded-For has it without too.
func nodeAddress(node []byte, strict bool) (netip.Addr, bool) {
	if len(node) > 0 && node[0] == '[' {
		end := bytes.IndexByte(node, ']')
		if end < 0 || !isPort(node[end+1:]) {
			return netip.Addr{}, false
		}
		address, err := netip.ParseAddr(string(node[1:end]))
		return address.Unmap().WithZone(""), err == nil && (address.Is6() && address.Zone() == "")
	}
	if a, rest, ok := ipv4(node); ok {
		return a, isPort(rest)
	}
	if strict || len(node) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255") {
		return netip.Addr{}, false
	}
	address, err := netip.ParseAddr(string(node))
	return address.Unmap().WithZone(""), err == nil && address.Is6() && address.Zone() == ""
}

// isPort takes ":" and a port, which RFC 7239 section 6 lets a hop obfuscate, or nothing.
func isPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != ':' || len(b) < 2 {
		return false
	}
	obfuscated := b[1] == '_'
	for _, c := range b[1:] {
		digit := c >= '0' && c <= '9'
		other := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '.' || c == '_' || c == '-'
		if !digit && !(obfuscated && other) {
			return false
		}
	}
	return obfuscated || len(b) <= len(":65535")
}

// ipv4 reads an IPv4 address off b, without allocating.
func ipv4(b []byte) (a netip.Addr, rest []byte, ok bool) {
	var bytes [4]byte
	for i := range bytes {
		if i > 0 {
			if len(b) == 0 || b[0] != '.' {
				return netip.Addr{}, nil, false
			}
			b = b[1:]
		}
		n, digits := 0, 0
		for digits < len(b) && digits < 3 && b[digits] >= '0' && b[digits] <= '9' {
			n = n*10 + int(b[digits]-'0')
			digits++
		}
		if digits == 0 || n > 255 || digits > 1 && b[0] == '0' {
			return netip.Addr{}, nil, false
		}
		bytes[i], b = byte(n), b[digits:]
	}
	return netip.AddrFrom4(bytes), b, true
}
