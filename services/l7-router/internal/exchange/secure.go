package exchange

import "github.com/twotier/twotier/services/l7-router/internal/http1"

// vouched reports whether a field of the request is one that only the router may set: the subject of the client's
// certificate, wherever the frontend tells it.
func (r *Request) vouched(name []byte) bool {
	return r.subjectHeader != "" && sameHeader(name, r.subjectHeader)
}

// appendVouched appends it.
func (r *Request) appendVouched(dst []byte, c *Client) []byte {
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
