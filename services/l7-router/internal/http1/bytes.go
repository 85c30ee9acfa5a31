package http1

import (
	"bytes"
	"encoding/binary"
)

// Classes of bytes, by bit.
const (
	classToken      = 1 << iota // RFC 9110 5.6.2 tchar
	classValue                  // RFC 9110 5.5: HTAB, SP, VCHAR, obs-text
	classTarget                 // every visible character but "#": browsers send some in a query that RFC 3986 leaves out, "\" for one
	classHost                   // RFC 3986 3.2.2 reg-name, but for percent-encoding, which programs decode or do not
	classAddress                // RFC 3986 3.2.2: an IPv6 address, an IPv4 address at its end too
	classQuoted                 // RFC 9110 5.6.4 qdtext
	classUnderscore             // "_", for aliased
)

var class = func() (table [256]byte) {
	for c := 'a'; c <= 'z'; c++ {
		table[c] |= classToken | classHost
		table[c-'a'+'A'] |= classToken | classHost
	}
	for c := '0'; c <= '9'; c++ {
		table[c] |= classToken | classHost | classAddress
	}
	for _, c := range []byte("abcdefABCDEF:.") {
		table[c] |= classAddress
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		table[c] |= classToken
	}
	for _, c := range []byte("-._~!$&'()*+;=") {
		table[c] |= classHost
	}
	for c := 0x21; c <= 0x7e; c++ {
		table[c] |= classValue | classTarget
	}
	for c := 0x80; c <= 0xff; c++ {
		table[c] |= classValue
	}
	table[' '] |= classValue
	table['\t'] |= classValue
	for c := range table {
		if table[c]&classValue != 0 && c != '"' && c != '\\' {
			table[c] |= classQuoted
		}
	}
	table['_'] |= classUnderscore
	table['#'] &^= classTarget // a fragment never goes over the wire
	return table
}()

// Eight bytes at a time: each constant holds the same byte eight times.
const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// isValue reports whether all of b may stand in a field value (classValue). Most of the bytes of a head are in values, so
// eight are looked at together: where none of them is below a space or DEL, all are good; a tab costs a closer look.
func isValue(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&highs != 0 && !all(b[:8], classValue) {
			return false
		}
		b = b[8:]
	}
	return all(b, classValue)
}

func all(b []byte, want byte) bool {
	for _, c := range b {
		if class[c]&want == 0 {
			return false
		}
	}
	return true
}

// isHost reports whether b is "host" or "host:port" (RFC 3986 3.2.2 and 3.2.3; RFC 9110 4.2.1: the host is not empty).
func isHost(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	end := 0
	if b[0] == '[' {
		end = bytes.IndexByte(b, ']')
		if end < 3 || !all(b[1:end], classAddress) || bytes.Count(b[1:end], colon) < 2 {
			return false
		}
		end++
	} else {
		for end < len(b) && class[b[end]]&classHost != 0 {
			end++
		}
		if end == 0 {
			return false
		}
	}
	if end == len(b) {
		return true
	}
	if b[end] != ':' {
		return false
	}
	port := b[end+1:]
	if len(port) == 0 {
		return true
	}
	n, ok := decimal(port)
	return ok && len(port) <= 5 && n <= 65535
}

var colon = []byte(":")

// isName reports whether b is a field name, and whether it has an underscore.
func isName(b []byte) (ok, underscore bool) {
	var any byte
	for _, c := range b {
		k := class[c]
		if k&classToken == 0 {
			return false, false
		}
		any |= k
	}
	return len(b) > 0, any&classUnderscore != 0
}

func isToken(b []byte) bool { return len(b) > 0 && all(b, classToken) }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// EqualFold reports whether b equals s but for the case of ASCII letters.
func EqualFold[T []byte | string](b []byte, s T) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c != s[i] && lower(c) != lower(s[i]) {
			return false
		}
	}
	return true
}

// Trim cuts spaces and tabs from both ends of b.
func Trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// CutToken takes the first member off a comma-separated list (RFC 9110 5.6.1); ok is false when none is left.
func CutToken(list []byte) (member, rest []byte, ok bool) {
	for len(list) > 0 {
		end := 0
		for end < len(list) && list[end] != ',' {
			end++
		}
		member = Trim(list[:end])
		if end < len(list) {
			end++
		}
		list = list[end:]
		if len(member) > 0 {
			return member, list, true
		}
	}
	return nil, nil, false
}

// decimal reads b as a non-negative number of at most 18 digits, which fits an int64.
func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
