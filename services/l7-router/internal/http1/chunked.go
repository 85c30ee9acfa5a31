package http1

import "bytes"

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkData
	chunkDataEnd
	chunkTrailer
	chunkDone
)

// ChunkReader follows a chunked body (RFC 9112 section 7.1). It checks every byte of the framing, so that what it has
// consumed can be passed on, but for what Drop says. The zero value stands at the start of a body.
type ChunkReader struct {
	state    chunkState
	left     int64 // bytes of the present chunk that are still to come
	trailers int
	most     int64 // bytes of all chunks, 0: any number
	taken    int64 // bytes of the chunks that have begun
	trailer  int   // where in what Next consumed last the trailer lines begin, and one more; 0: there are none
	reserved string
	// What of the bytes consumed last is not to be passed on.
	dropFrom, dropTo int
}

// Limit bounds the bytes of all chunks together; 0: any number. It is told at the start of a body.
func (c *ChunkReader) Limit(n int64) { c.most = n }

// Reserve refuses a field of the trailer; empty: none. It is told at the start of a body.
func (c *ChunkReader) Reserve(name string) { c.reserved = name }

// Next consumes the start of b: framing, then data up to the end of b or of the chunk. It returns how many bytes it
// consumed and which of them are data. It consumes nothing when it needs more than b to go on, or when the body has
// ended; so the caller calls it until n is 0, and then reads more unless Done. A line of framing is consumed whole, so
// the caller must have room for MaxTrailerBytes. Zeros before a size and extensions behind it are taken out of what is
// consumed, because servers differ about how much of them they read: the size moves to the end of its line in b, and Drop
// tells what is left over before it.
func (c *ChunkReader) Next(b []byte) (n int, data []byte, err error) {
	c.trailer = 0
	if c.state == chunkTrailer {
		c.trailer = 1
	}
	c.dropFrom, c.dropTo = 0, 0
	for {
		rest := b[n:]
		switch c.state {
		case chunkData:
			take := int(min(int64(len(rest)), c.left))
			c.left -= int64(take)
			if c.left == 0 {
				c.state = chunkDataEnd
			}
			return n + take, rest[:take], nil
		case chunkDataEnd:
			if len(rest) > 0 && rest[0] != '\r' || len(rest) > 1 && rest[1] != '\n' {
				return n, nil, ErrChunk
			}
			if len(rest) < 2 {
				return n, nil, nil
			}
			n += 2
			c.state = chunkSize
		case chunkSize:
			line, err := cutLine(rest, MaxChunkLine, ErrChunk)
			if line == nil || err != nil {
				return n, nil, err
			}
			zeros, digits := 0, 0
			if c.left, zeros, digits, err = chunkLine(line); err != nil {
				return n, nil, err
			}
			if c.taken += c.left; c.most > 0 && (c.taken > c.most || c.taken < 0) {
				return n, nil, ErrBodyTooLarge
			}
			if digits < len(line) {
				copy(line[len(line)-digits:], line[zeros:zeros+digits])
				c.dropFrom, c.dropTo = n, n+len(line)-digits
			}
			n += len(line) + 2
			c.state = chunkData
			if c.left == 0 {
				c.state = chunkTrailer
				c.trailer = n + 1
			}
		case chunkTrailer:
			line, err := cutLine(rest, MaxTrailerBytes-c.trailers, ErrTrailer)
			if line == nil || err != nil {
				return n, nil, err
			}
			n += len(line) + 2
			c.trailers += len(line) + 2
			if len(line) == 0 {
				c.state = chunkDone
				return n, nil, nil
			}
			if err := trailerLine(line, c.reserved); err != nil {
				return n, nil, err
			}
		case chunkDone:
			return n, nil, nil
		}
	}
}

// Drop returns the span of the bytes consumed by the last call of Next that is not to be passed on; mostly it is empty.
func (c *ChunkReader) Drop() (from, to int) { return c.dropFrom, c.dropTo }

// Done reports whether the body has ended, trailers included.
func (c *ChunkReader) Done() bool { return c.state == chunkDone }

// Trailer returns the trailer lines in what the last call of Next consumed, b[:n]: whole lines, the empty one that ends
// them too.
func (c *ChunkReader) Trailer(b []byte, n int) []byte {
	if c.trailer == 0 || c.trailer > n {
		return nil
	}
	return b[c.trailer-1 : n]
}

// Left returns how many bytes of the present chunk are still to come; they may be moved without being looked at, and
// then told to Skip.
func (c *ChunkReader) Left() int64 {
	if c.state != chunkData {
		return 0
	}
	return c.left
}

// Skip tells that n bytes of the present chunk, at most Left, have been moved past the reader.
func (c *ChunkReader) Skip(n int64) {
	c.left -= n
	if c.left == 0 {
		c.state = chunkDataEnd
	}
}

// cutLine returns the first line of b without its CR LF, nil when b holds no whole line yet.
func cutLine(b []byte, limit int, refuse *Error) ([]byte, error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) >= limit {
			return nil, refuse
		}
		return nil, nil
	}
	if end >= limit || end == 0 || b[end-1] != '\r' {
		return nil, refuse
	}
	return b[: end-1 : end-1], nil
}

// chunkLine reads "SIZE" or "SIZE;extensions" and returns how many zeros stand before the digits that count, and how many
// those are. Space around the size is refused: programs differ about it.
func chunkLine(line []byte) (size int64, zeros, digits int, err error) {
	end := 0
	for end < len(line) {
		var value byte
		switch c := lower(line[end]); {
		case '0' <= c && c <= '9':
			value = c - '0'
		case 'a' <= c && c <= 'f':
			value = c - 'a' + 10
		default:
			value = 16
		}
		if value == 16 {
			break
		}
		if size == 0 && value == 0 {
			zeros = end
		}
		size = size<<4 | int64(value)
		end++
	}
	// 15 digits fit an int64 with room to spare: an exbibyte.
	if end == 0 || end > 15 || !extensions(line[end:]) {
		return 0, 0, 0, ErrChunk
	}
	if size > 0 && line[zeros] == '0' {
		zeros++
	}
	return size, zeros, end - zeros, nil
}

// extensions reports whether b is a list of chunk extensions (7.1.1) without space around their parts, and with every
// quote closed: what one program takes for the end of the line another could take for a part of a quoted string.
func extensions(b []byte) bool {
	for len(b) > 0 {
		if b[0] != ';' {
			return false
		}
		b = b[1:]
		name := 0
		for name < len(b) && class[b[name]]&classToken != 0 {
			name++
		}
		if name == 0 {
			return false
		}
		if b = b[name:]; len(b) == 0 || b[0] != '=' {
			continue
		}
		b = b[1:]
		value := 0
		if len(b) > 0 && b[0] == '"' {
			for value = 1; value < len(b) && b[value] != '"'; value++ {
				if b[value] == '\\' {
					value++ // a quoted pair
					if value == len(b) || class[b[value]]&classValue == 0 {
						return false
					}
				} else if class[b[value]]&classQuoted == 0 {
					return false
				}
			}
			if value >= len(b) {
				return false
			}
			value++
		} else {
			for value < len(b) && class[b[value]]&classToken != 0 {
				value++
			}
			if value == 0 {
				return false
			}
		}
		b = b[value:]
	}
	return true
}

// trailerLine refuses the fields that frame, route, authenticate, change or describe a message (RFC 9110 section 6.5.1): a
// program that merges trailers into the head would have it changed after it was judged.
func trailerLine(line []byte, reserved string) error {
	name, _, underscore, err := splitField(line)
	if err != nil || underscore && aliased(name) || reserved != "" && SameHeader(name, reserved) {
		return ErrTrailer
	}
	switch known := nameOf(name); {
	case known == ETag, known == LastModified, known == Expires:
		return nil // they may be known only at the end
	case known != Other:
		return ErrTrailer
	}
	for _, forbidden := range [...]string{
		"age", "authorization", "content-encoding", "content-range", "content-type", "forwarded", "if-match",
		"if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "location", "max-forwards",
		"proxy-authenticate", "proxy-authorization", "range", "retry-after", "trailer", "vary", "www-authenticate",
	} {
		if EqualFold(name, forbidden) {
			return ErrTrailer
		}
	}
	return nil
}

// SameHeader compares names as CGI and its heirs do (RFC 3875 section 4.1.18), to which - and _ are the same.
func SameHeader(name []byte, known string) bool {
	if len(name) != len(known) {
		return false
	}
	for i, c := range name {
		if folded(c) != folded(known[i]) {
			return false
		}
	}
	return true
}

func folded(c byte) byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return c | 0x20
	case c == '_':
		return '-'
	}
	return c
}
