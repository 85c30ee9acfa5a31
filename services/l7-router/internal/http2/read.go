package http2

import (
	"strconv"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// Part is what a header block is.
type Part uint8

// The parts of a message that are header blocks.
const (
	// Request is the head of a request.
	Request Part = iota
	// Response is the head of a response, or of an interim one.
	Response
	// Trailer is what follows a body.
	Trailer
)

// ErrTooLarge refuses a request whose fields are more than MaxHeaderList; it is answered with 431.
var ErrTooLarge = &http1.Error{Status: 431, Reason: "more fields than the limit of the header list"}

// Head collects the fields of one header block and writes them as the head of an HTTP/1.1 message, or as its trailer
// lines. Begin makes it ready.
type Head struct {
	part Part
	text []byte
	from int // where the text of this head begins

	size                            int // as MaxHeaderList counts
	line                            bool
	method, scheme, path, authority span
	pseudo                          []byte // the bytes of the four
	cookie                          []byte
	status                          int
	host                            bool
	length                          int64 // -1: none
	trailer                         bool  // one is announced
}

type span struct{ from, to int }

func (s span) empty() bool { return s.from == s.to }

func malformed(reason string) error { return &StreamError{ProtocolError, reason} }

// Begin starts a head whose text is appended to dst.
func (h *Head) Begin(part Part, dst []byte) {
	h.part, h.text, h.from, h.size, h.line = part, dst, len(dst), 0, false
	h.method, h.scheme, h.path, h.authority = span{}, span{}, span{}, span{}
	h.pseudo, h.cookie, h.status, h.host, h.length, h.trailer = h.pseudo[:0], h.cookie[:0], 0, false, -1, false
}

// Text returns what Begin was given, with the text of the head behind it.
func (h *Head) Text() []byte { return h.text }

// Status returns the status of a response.
func (h *Head) Status() int { return h.status }

// IsMethod compares the method of a request.
func (h *Head) IsMethod(method string) bool { return string(h.bytes(h.method)) == method }

func (h *Head) bytes(s span) []byte { return h.pseudo[s.from:s.to] }

// Field takes the next field. Errors are *StreamError, or *http1.Error for what is answered with a status.
func (h *Head) Field(name, value []byte) error {
	if h.size += len(name) + len(value) + 32; h.size > MaxHeaderList {
		return ErrTooLarge
	}
	if len(name) > 0 && name[0] == ':' {
		return h.pseudoField(name, value)
	}
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			return malformed("upper case in a field name") // RFC 9113 8.2
		}
	}
	if !http1.ValidName(name) || !http1.ValidValue(value) {
		return malformed("a character that a field must not have") // RFC 9113 8.2.1
	}
	if !h.line && h.part != Trailer {
		if err := h.startLine(); err != nil {
			return err
		}
	}
	switch string(name) {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings":
		return malformed("a field for one connection only") // RFC 9113 8.2.2
	case "te":
		if string(value) != "trailers" || h.part != Request {
			return malformed("TE other than trailers") // RFC 9113 8.2.2
		}
		return nil // for this hop only; what is behind is told anew
	case "content-length":
		n, ok := decimal(value)
		if !ok || h.length >= 0 || h.part == Trailer {
			return malformed("want at most one Content-Length, a decimal number")
		}
		h.length = n
		return nil // written at the end, when the framing is known
	case "trailer":
		h.trailer = true
	case "host":
		switch {
		case h.part != Request:
			return malformed("Host in a response or trailer")
		case h.host:
			return malformed("Host twice")
		}
		h.host = true
		if !h.authority.empty() {
			if !http1.EqualFold(h.bytes(h.authority), value) {
				return malformed("Host differs from :authority") // RFC 9113 8.3.1
			}
			return nil // it has been written
		}
	case "cookie":
		// RFC 9113 8.2.3: crumbs become one field again.
		if h.part == Request {
			if len(h.cookie) > 0 {
				h.cookie = append(h.cookie, "; "...)
			}
			h.cookie = append(h.cookie, value...)
			return nil
		}
	}
	h.text = http1.AppendField(h.text, name, value)
	return nil
}

// pseudoField takes a field that stands for a part of the start line (RFC 9113 section 8.3).
func (h *Head) pseudoField(name, value []byte) error {
	if h.part == Trailer || h.line {
		return malformed("a pseudo-field behind the others or in a trailer")
	}
	var s *span
	switch {
	case h.part == Response:
		if string(name) != ":status" || h.status != 0 || len(value) != 3 {
			return malformed("want exactly one :status and no other pseudo-field")
		}
		n, ok := decimal(value)
		if !ok || n < 100 || n == 101 { // RFC 9113 8.6
			return malformed("not a status")
		}
		h.status = int(n)
		return nil
	case string(name) == ":method":
		s = &h.method
	case string(name) == ":scheme":
		s = &h.scheme
	case string(name) == ":path":
		s = &h.path
	case string(name) == ":authority":
		s = &h.authority
	default:
		return malformed("an unknown pseudo-field")
	}
	if !s.empty() || len(value) == 0 {
		return malformed("a pseudo-field twice, or empty")
	}
	for _, c := range value {
		if c <= ' ' || c >= 0x7f {
			return malformed("a character that a pseudo-field must not have")
		}
	}
	s.from = len(h.pseudo)
	h.pseudo = append(h.pseudo, value...)
	s.to = len(h.pseudo)
	return nil
}

// startLine writes the start line once all pseudo-fields are here.
func (h *Head) startLine() error {
	h.line = true
	if h.part == Response {
		if h.status == 0 {
			return malformed("a response without :status")
		}
		h.text = http1.AppendStatusLine(h.text, h.status, nil)
		return nil
	}
	method, target := h.bytes(h.method), h.bytes(h.path)
	if !http1.ValidName(method) {
		return malformed("want a :method")
	}
	if string(method) == "CONNECT" {
		// RFC 9113 8.5. It is refused with a status where HTTP/1.1 is; the extended form (RFC 8441) is not offered.
		if !h.scheme.empty() || !h.path.empty() || h.authority.empty() {
			return malformed("a malformed CONNECT")
		}
		target = h.bytes(h.authority)
	} else {
		if scheme := h.bytes(h.scheme); !http1.EqualFold(scheme, "http") && !http1.EqualFold(scheme, "https") {
			return malformed("want http or https as :scheme")
		}
		if len(target) == 0 || target[0] != '/' && string(target) != "*" {
			return malformed("want a :path that begins with /")
		}
	}
	h.text = http1.AppendRequestLine(h.text, method, target, nil)
	if !h.authority.empty() {
		h.text = http1.AppendField(h.text, "Host", h.bytes(h.authority))
	}
	return nil
}

// Length returns what the head says of the length of the body, -1: nothing.
func (h *Head) Length() int64 { return h.length }

// End completes the head and tells how the body of the text is framed: by its length where that is known and no trailer is
// announced, which HTTP/1.1 has behind chunks only; else in chunks.
// end says that no body follows; toHead, that a response answers a HEAD request.
//
// The text says "Connection: close": a stream carries one exchange.
func (h *Head) End(end, toHead bool) (http1.Body, error) {
	if h.part == Trailer {
		if !end {
			return http1.Body{}, malformed("a trailer that does not end the stream") // RFC 9113 8.1
		}
		return http1.Body{}, nil
	}
	if !h.line {
		if err := h.startLine(); err != nil {
			return http1.Body{}, err
		}
	}
	if len(h.cookie) > 0 {
		h.text = http1.AppendField(h.text, "Cookie", h.cookie)
	}
	var body http1.Body
	interim := h.part == Response && h.status < 200
	bodiless := h.part == Response && (toHead || h.status == 204 || h.status == 304)
	switch {
	case interim && end:
		return body, malformed("an interim response that ends the stream") // RFC 9113 8.1
	case interim:
	case bodiless:
		if h.length >= 0 && h.status != 204 {
			h.appendLength(h.length) // of the body that there would be
		}
	case end && h.length > 0:
		return body, malformed("less body than Content-Length") // RFC 9113 8.1.1
	case end && (h.length == 0 || h.part == Response || h.bodyExpected()):
		h.appendLength(0)
	case end:
	case h.length >= 0 && !h.trailer:
		h.appendLength(h.length)
		if h.length > 0 {
			body = http1.Body{Framing: http1.Length, Length: h.length}
		}
	default:
		h.text = http1.AppendField(h.text, "Transfer-Encoding", "chunked")
		body.Framing = http1.Chunked
	}
	if !interim {
		h.text = http1.AppendField(h.text, "Connection", "close")
	}
	h.text = http1.AppendEnd(h.text)
	return body, nil
}

// bodyExpected reports whether a request of this method is written with its length even when that is 0: some servers answer
// 411 otherwise (RFC 9110 section 8.6).
func (h *Head) bodyExpected() bool {
	return h.IsMethod("POST") || h.IsMethod("PUT") || h.IsMethod("PATCH")
}

func (h *Head) appendLength(n int64) {
	h.text = append(h.text, "Content-Length: "...)
	h.text = strconv.AppendInt(h.text, n, 10)
	h.text = append(h.text, "\r\n"...)
}

// decimal reads a non-negative number of at most 18 digits.
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
