package http2

import (
	"bytes"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// AppendResponse appends the header block of a response, interim ones too.
func AppendResponse(dst []byte, h *http1.Head) []byte {
	return appendFields(appendStatus(dst, h.Status()), h)
}

// AppendRequest appends the header block of a request that is sent to a server in cleartext; its target is in origin form. TE says that trailers are welcome:
// they are passed on (RFC 9110 section 10.1.4), and gRPC wants it said.
func AppendRequest(dst []byte, h *http1.Head) []byte {
	var authority []byte
	for i := range h.Fields() {
		if h.Known(i) == http1.Host {
			authority = h.Value(i)
		}
	}
	dst = appendPseudo(dst, 2, h.Method())
	dst = appendPseudo(dst, 6, "http")
	dst = appendPseudo(dst, 4, h.Target())
	if len(authority) > 0 {
		dst = appendPseudo(dst, 1, authority)
	}
	return appendField(appendFields(dst, h), "te", "trailers")
}

// appendFields appends what is not for one connection only.
func appendFields(dst []byte, h *http1.Head) []byte {
	for i := range h.Fields() {
		if !h.HopByHop(i) && h.Known(i) != http1.Host {
			dst = appendField(dst, h.Name(i), h.Value(i))
		}
	}
	return dst
}

// AppendTrailer appends the header block of trailer lines that an http1.ChunkReader has taken. The empty line that ends them
// may be among them.
func AppendTrailer(dst, lines []byte) []byte {
	for len(lines) > 0 {
		line, rest, _ := bytes.Cut(lines, []byte("\r\n"))
		lines = rest
		if name, value, ok := bytes.Cut(line, []byte(":")); ok {
			dst = appendField(dst, name, http1.Trim(value))
		}
	}
	return dst
}
