package http2

import (
	"golang.org/x/net/http2/hpack"
)

// static is the static table of RFC 7541 appendix A; its indices begin with 1.
var static = [...]struct{ name, value string }{
	{}, {":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
	{":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
	{":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
	{"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""}, {"cache-control", ""},
	{"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""}, {"content-length", ""},
	{"content-location", ""}, {"content-range", ""}, {"content-type", ""}, {"cookie", ""}, {"date", ""}, {"etag", ""},
	{"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""}, {"if-match", ""}, {"if-modified-since", ""},
	{"if-none-match", ""}, {"if-range", ""}, {"if-unmodified-since", ""}, {"last-modified", ""}, {"link", ""},
	{"location", ""}, {"max-forwards", ""}, {"proxy-authenticate", ""}, {"proxy-authorization", ""}, {"range", ""},
	{"referer", ""}, {"refresh", ""}, {"retry-after", ""}, {"server", ""}, {"set-cookie", ""},
	{"strict-transport-security", ""}, {"transfer-encoding", ""}, {"user-agent", ""}, {"vary", ""}, {"via", ""},
	{"www-authenticate", ""},
}

// names finds the first entry of a name in the static table.
var names = func() map[string]int {
	m := make(map[string]int, len(static))
	for i := len(static) - 1; i > 0; i-- {
		m[static[i].name] = i
	}
	return m
}()

var errHPACK = &ConnError{CompressionError, "malformed header block"}

// entry is one remembered field: its name and value stand one after the other in Decoder.data.
type entry struct{ from, name, value int }

// Decoder reads header blocks (RFC 7541), allocating nothing once its buffers have grown. The zero value is ready.
type Decoder struct {
	data    []byte // of entries
	entries []entry
	size    int // as RFC 7541 section 4.1 counts
	shrunk  int // MaxTable less what the other side has chosen

	scratch huffman // decoded strings of the field under way
}

type huffman struct{ b []byte }

func (h *huffman) Write(p []byte) (int, error) {
	h.b = append(h.b, p...)
	return len(p), nil
}

// Decode reads a whole block and calls take for each field, whose bytes are only lent. After an error of its own, always
// a *ConnError, the decoder cannot be used any more; an error of take is returned once the block has been read to its
// end, because the blocks that follow depend on it.
func (d *Decoder) Decode(block []byte, take func(name, value []byte) error) error {
	var refused error
	begun := false
	for len(block) > 0 {
		d.scratch.b = d.scratch.b[:0]
		var name, value []byte
		var ok bool
		switch c := block[0]; {
		case c&0x80 != 0: // 6.1: indexed
			var index int
			if index, block, ok = integer(block, 7); !ok {
				return errHPACK
			}
			if name, value, ok = d.at(index); !ok {
				return errHPACK
			}
		case c&0xe0 == 0x20: // 6.3: another size of the table
			var size int
			if size, block, ok = integer(block, 5); !ok || size > MaxTable || begun {
				return errHPACK
			}
			d.shrunk = MaxTable - size
			d.evict(0)
			continue
		default: // 6.2: literal
			prefix := 4
			if c&0x40 != 0 {
				prefix = 6
			}
			if name, value, block, ok = d.literal(block, prefix); !ok {
				return errHPACK
			}
			if prefix == 6 {
				// The name may stand in the table, which adding to it moves.
				from := len(d.scratch.b)
				d.scratch.b = append(append(d.scratch.b, name...), value...)
				name, value = d.scratch.b[from:from+len(name)], d.scratch.b[from+len(name):]
				d.add(name, value)
			}
		}
		begun = true
		if refused == nil {
			refused = take(name, value)
		}
	}
	return refused
}

func (d *Decoder) literal(block []byte, prefix int) (name, value, rest []byte, ok bool) {
	index, rest, ok := integer(block, prefix)
	if !ok {
		return nil, nil, nil, false
	}
	fromScratch := 0
	if index > 0 {
		if name, _, ok = d.at(index); !ok {
			return nil, nil, nil, false
		}
	} else {
		if name, rest, ok = d.text(rest); !ok {
			return nil, nil, nil, false
		}
		fromScratch = len(d.scratch.b)
	}
	if value, rest, ok = d.text(rest); !ok {
		return nil, nil, nil, false
	}
	if fromScratch > 0 {
		name = d.scratch.b[:fromScratch] // decoding the value may have moved it
	}
	return name, value, rest, true
}

// integer reads the form of RFC 7541 section 5.1 with a prefix of so many bits.
func integer(b []byte, prefix int) (n int, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	most := 1<<prefix - 1
	n = int(b[0]) & most
	b = b[1:]
	if n < most {
		return n, b, true
	}
	// Four more bytes hold 28 bits, far beyond every limit.
	for shift := 0; shift < 28; shift += 7 {
		if len(b) == 0 {
			return 0, nil, false
		}
		c := b[0]
		b = b[1:]
		n += int(c&0x7f) << shift
		if c&0x80 == 0 {
			return n, b, true
		}
	}
	return 0, nil, false
}

// text reads a string (RFC 7541 section 5.2).
func (d *Decoder) text(b []byte) (text, rest []byte, ok bool) {
	coded := len(b) > 0 && b[0]&0x80 != 0
	n, b, ok := integer(b, 7)
	if !ok || n > len(b) {
		return nil, nil, false
	}
	from := len(d.scratch.b)
	if !coded {
		d.scratch.b = append(d.scratch.b, b[:n]...)
	} else if _, err := hpack.HuffmanDecode(&d.scratch, b[:n]); err != nil {
		return nil, nil, false
	}
	return d.scratch.b[from:], b[n:], true
}

// at finds an entry: the static table first, then what is remembered, the newest first.
func (d *Decoder) at(index int) (name, value []byte, ok bool) {
	switch {
	case index <= 0:
		return nil, nil, false
	case index < len(static):
		from := len(d.scratch.b)
		d.scratch.b = append(append(d.scratch.b, static[index].name...), static[index].value...)
		split := from + len(static[index].name)
		return d.scratch.b[from:split], d.scratch.b[split:], true
	}
	i := len(d.entries) - 1 - (index - len(static))
	if i < 0 {
		return nil, nil, false
	}
	e := d.entries[i]
	return d.data[e.from : e.from+e.name], d.data[e.from+e.name : e.from+e.name+e.value], true
}

// add remembers a field. One that is larger than the table empties it (RFC 7541 section 4.4).
func (d *Decoder) add(name, value []byte) {
	need := len(name) + len(value) + 32
	d.evict(need)
	if need > MaxTable-d.shrunk {
		return
	}
	d.entries = append(d.entries, entry{len(d.data), len(name), len(value)})
	d.data = append(append(d.data, name...), value...)
	d.size += need
}

// evict forgets the oldest fields until so many bytes fit.
func (d *Decoder) evict(need int) {
	gone := 0
	for gone < len(d.entries) && d.size+need > MaxTable-d.shrunk {
		d.size -= d.entries[gone].name + d.entries[gone].value + 32
		gone++
	}
	if gone == 0 {
		return
	}
	if gone == len(d.entries) {
		d.entries, d.data = d.entries[:0], d.data[:0]
		return
	}
	from := d.entries[gone].from
	d.data = d.data[:copy(d.data, d.data[from:])]
	d.entries = d.entries[:copy(d.entries, d.entries[gone:])]
	for i := range d.entries {
		d.entries[i].from -= from
	}
}

// What is sent is not remembered: a table for each connection would cost more than it saves behind a proxy, and what is
// not in a table cannot be guessed from outside (RFC 7541 section 7.1).

// appendInteger writes the form of RFC 7541 section 5.1; first holds the bits before the prefix.
func appendInteger(dst []byte, first byte, prefix, n int) []byte {
	most := 1<<prefix - 1
	if n < most {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

func appendText[T []byte | string](dst []byte, text T) []byte {
	return append(appendInteger(dst, 0, 7, len(text)), text...)
}

// appendField appends a literal field; its name is written in lower case.
func appendField[N, V []byte | string](dst []byte, name N, value V) []byte {
	var buf [40]byte
	lowered := buf[:0]
	for i := range len(name) {
		lowered = append(lowered, lower(name[i]))
	}
	index := names[string(lowered)]
	first := byte(0) // 6.2.2: without indexing
	switch index {
	case 23, 32, 49, 55: // authorization, cookie, proxy-authorization, set-cookie
		first = 0x10 // 6.2.3: nobody behind may remember it either
	}
	dst = appendInteger(dst, first, 4, index)
	if index == 0 {
		dst = appendText(dst, lowered)
	}
	return appendText(dst, value)
}

// appendStatus appends the pseudo-field of a response.
func appendStatus(dst []byte, status int) []byte {
	text := [3]byte{byte('0' + status/100%10), byte('0' + status/10%10), byte('0' + status%10)}
	for i := 8; i <= 14; i++ {
		if static[i].value == string(text[:]) {
			return append(dst, 0x80|byte(i))
		}
	}
	return appendText(append(dst, 8), text[:])
}

// appendPseudo appends a pseudo-field of a request; whole is the index of an entry that may have the same value.
func appendPseudo[V []byte | string](dst []byte, name int, value V) []byte {
	for i := name; i < len(static) && static[i].name == static[name].name; i++ {
		if static[i].value != "" && static[i].value == string(value) {
			return append(dst, 0x80|byte(i))
		}
	}
	return appendText(appendInteger(dst, 0, 4, name), value)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
