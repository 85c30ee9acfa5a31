package exchange

import "github.com/twotier/twotier/services/l7-router/internal/http1"

// vouched reports whether a field of the request is one that only the router may set: the subject of the client's
// certificate, wherever the frontend tells it.
func (r *Request) vouched(name []byte) bool {
	return r.subjectHeader != "" && http1.SameHeader(name, r.subjectHeader)
}

// appendVouched appends it.
func (r *Request) appendVouched(dst []byte, c *Client) []byte {
	if r.subjectHeader != "" && c.Subject != "" {
		dst = http1.AppendField(dst, r.subjectHeader, c.Subject)
	}
	return dst
}
