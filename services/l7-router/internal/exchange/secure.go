package exchange

import "github.com/twotier/twotier/services/l7-router/internal/http1"

// forwardedProto tells the servers that the client speaks TLS.
const forwardedProto = "X-Forwarded-Proto"

// vouched reports whether a field of the request is one that only the router may set: the subject of the client's
// certificate wherever the frontend tells it, and over TLS the scheme.
func (r *Request) vouched(name []byte, c *Client) bool {
	return r.subjectHeader != "" && sameHeader(name, r.subjectHeader) || c.TLS && sameHeader(name, forwardedProto)
}

// appendVouched appends these fields.
func (r *Request) appendVouched(dst []byte, c *Client) []byte {
	if c.TLS && !replaced(r.decision.Edits, false, []byte(forwardedProto)) {
		dst = http1.AppendField(dst, forwardedProto, "https")
	}
	if r.subjectHeader != "" && c.Subject != "" {
		dst = http1.AppendField(dst, r.subjectHeader, c.Subject)
	}
	return dst
}

// sameHeader compares names as CGI and its heirs do (RFC 3875 section 4.1.18), to which - and _ are the same.
func sameHeader(name []byte, known string) bool {
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
