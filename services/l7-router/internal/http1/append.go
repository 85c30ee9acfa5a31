package http1

import "strconv"

// AppendRequestLine appends a request line of HTTP/1.1. A server is sent a target in origin form: path and query (RFC 9112
// section 3.2.1).
func AppendRequestLine(dst, method, path, query []byte) []byte {
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, path...)
	dst = append(dst, query...)
	return append(dst, " HTTP/1.1\r\n"...)
}

// AppendStatusLine appends a status line of HTTP/1.1.
func AppendStatusLine(dst []byte, status int, reason []byte) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, reason...)
	return append(dst, "\r\n"...)
}

// AppendField appends one field. Name and value must be valid: they come from a Head, or are checked where they are
// configured.
func AppendField[N, V []byte | string](dst []byte, name N, value V) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}

// AppendEnd appends the empty line that ends a head.
func AppendEnd(dst []byte) []byte { return append(dst, "\r\n"...) }
