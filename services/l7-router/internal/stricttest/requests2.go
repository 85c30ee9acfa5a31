package stricttest

import "strings"

// Request2 is one row of the table of requests in HTTP/2: one stream on a connection of its own.
type Request2 struct {
	// Name says what is odd. It is unique.
	Name string
	// Clause that it is about.
	Clause string
	// Fields of the header block, names and values in turn, as they are encoded.
	Fields []string
	// Data of the body; nil: the header block ends the stream.
	Data []string
	// Trailer is a second header block, names and values in turn.
	Trailer []string
	// Served: it reaches a server. A field "mark: alone" says that the header block is a whole request, which may have been
	// passed on when the rest shows that it is wrong. Whatever is not served gets a 4xx, or its stream or connection is
	// ended, and does not reach a server whole.
	Served bool
}

// Requests2 is the table of what HTTP/2 allows or forbids in a request that is passed on in HTTP/1.1.
func Requests2() []Request2 {
	get := func(more ...string) []string {
		return append([]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x"}, more...)
	}
	post := func(more ...string) []string {
		return append([]string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "x"}, more...)
	}
	with := func(name, value string) []string {
		f := get()
		for i := 0; i < len(f); i += 2 {
			if f[i] == name {
				f[i+1] = value
			}
		}
		return f
	}
	without := func(name string) []string {
		var f []string
		for g := get(); len(g) > 0; g = g[2:] {
			if g[0] != name {
				f = append(f, g[0], g[1])
			}
		}
		return f
	}
	const framing, fields, pseudo = "RFC 9113 8.1.1", "RFC 9113 8.2.1", "RFC 9113 8.3.1"
	body := []string{"hello"}
	gadget := []string{hidden}
	return []Request2{
		{"plain GET", pseudo, get(), nil, nil, true},
		{"body with a length", framing, post("content-length", "5"), body, nil, true},
		{"body without a length", framing, post(), body, nil, true},
		{"good trailer", "RFC 9113 8.1", post(), body, []string{"sum", "1"}, true},

		{"H2.CL: length too small", framing, post("content-length", "0", "mark", "alone"), gadget, nil, false},
		{"H2.CL: length too small by some", framing, post("content-length", "4"), body, nil, false},
		{"length too large", framing, post("content-length", "6"), body, nil, false},
		{"length, but no body", framing, post("content-length", "5"), nil, nil, false},
		{"two lengths", framing, post("content-length", "5", "content-length", "6"), body, nil, false},
		{"two equal lengths", framing, post("content-length", "5", "content-length", "5"), body, nil, false},
		{"list of lengths", framing, post("content-length", "5, 5"), body, nil, false},
		{"signed length", framing, post("content-length", "+5"), body, nil, false},
		{"length with a zero before", framing, post("content-length", "05"), body, nil, true},
		{"H2.TE: chunked", "RFC 9113 8.2.2", post("transfer-encoding", "chunked"), []string{"0\r\n\r\n" + hidden}, nil, false},
		{"chunked and a length", "RFC 9113 8.2.2", post("transfer-encoding", "chunked", "content-length", "5"), body, nil, false},
		{"identity", "RFC 9113 8.2.2", post("transfer-encoding", "identity"), body, nil, false},
		{"coding after a line end in a value", fields, post("a", "b\r\ntransfer-encoding: chunked"), gadget, nil, false},
		{"coding after LF in a value", fields, post("a", "b\ntransfer-encoding: chunked"), gadget, nil, false},
		{"CR in a value", fields, get("a", "b\rc"), nil, nil, false},
		{"NUL in a value", fields, get("a", "b\x00c"), nil, nil, false},
		{"line end in a name", fields, get("a\r\nb", "c"), nil, nil, false},
		{"colon in a name", fields, get("a:b", "c"), nil, nil, false},
		{"coding in a name with a colon", fields, post("transfer-encoding: chunked", ""), gadget, nil, false},
		{"space in a name", fields, get("a b", "c"), nil, nil, false},
		{"upper-case name", fields, get("A", "b"), nil, nil, false},
		{"empty name", fields, get("", "b"), nil, nil, false},
		{"name is not ASCII", fields, get("\xc3\xa4", "b"), nil, nil, false},
		{"space before a value", fields, get("a", " b"), nil, nil, false},
		{"space behind a value", fields, get("a", "b "), nil, nil, false},
		{"content_length", "RFC 3875 4.1.18", post("content_length", "5"), body, nil, false},
		{"x_forwarded_for", "RFC 3875 4.1.18", get("x_forwarded_for", "127.0.0.1"), nil, nil, false},

		{"connection", "RFC 9113 8.2.2", get("connection", "close"), nil, nil, false},
		{"connection names the cookie", "RFC 9113 8.2.2", get("connection", "cookie", "cookie", "a=b"), nil, nil, false},
		{"keep-alive", "RFC 9113 8.2.2", get("keep-alive", "timeout=5"), nil, nil, false},
		{"proxy-connection", "RFC 9113 8.2.2", get("proxy-connection", "close"), nil, nil, false},
		{"upgrade", "RFC 9113 8.2.2", get("upgrade", "websocket"), nil, nil, false},
		{"te: trailers", "RFC 9113 8.2.2", get("te", "trailers"), nil, nil, true},
		{"te: chunked", "RFC 9113 8.2.2", get("te", "chunked"), nil, nil, false},

		{"no method", pseudo, without(":method"), nil, nil, false},
		{"no scheme", pseudo, without(":scheme"), nil, nil, false},
		{"no path", pseudo, without(":path"), nil, nil, false},
		{"no authority and no host", pseudo, without(":authority"), nil, nil, false},
		{"host instead of authority", pseudo, append(without(":authority"), "host", "x"), nil, nil, true},
		{"host beside authority, equal", pseudo, get("host", "x"), nil, nil, true},
		{"host beside authority, another", pseudo, get("host", "y"), nil, nil, false},
		{"two hosts", pseudo, append(without(":authority"), "host", "x", "host", "y"), nil, nil, false},
		{"two authorities", pseudo, get(":authority", "y"), nil, nil, false},
		{"two paths", pseudo, get(":path", "/b"), nil, nil, false},
		{"pseudo-header field behind others", "RFC 9113 8.3", append([]string{"a", "b"}, get()...), nil, nil, false},
		{"pseudo-header field that nobody knows", "RFC 9113 8.3", append([]string{":a", "b"}, get()...), nil, nil, false},
		{"status in a request", "RFC 9113 8.3", append([]string{":status", "200"}, get()...), nil, nil, false},
		{"empty path", pseudo, with(":path", ""), nil, nil, false},
		{"path without a slash", pseudo, with(":path", "a"), nil, nil, false},
		{"path with a space", pseudo, with(":path", "/a b"), nil, nil, false},
		{"a whole request line in the path", pseudo, with(":path", "/ HTTP/1.1\r\nHost: y\r\n\r\n"+hidden), nil, nil, false},
		{"path with a fragment", pseudo, with(":path", "/a#b"), nil, nil, false},
		{"path with NUL", pseudo, with(":path", "/\x00"), nil, nil, false},
		{"path is a URL", pseudo, with(":path", "http://y/"), nil, nil, false},
		{"asterisk for GET", pseudo, with(":path", "*"), nil, nil, false},
		{"method with a space", pseudo, with(":method", "GET /a"), nil, nil, false},
		{"a whole request in the method", pseudo, with(":method", "GET / HTTP/1.1\r\nHost: y\r\n\r\nGET"), nil, nil, false},
		{"empty method", pseudo, with(":method", ""), nil, nil, false},
		{"CONNECT", "RFC 9113 8.5", []string{":method", "CONNECT", ":authority", "x:80"}, nil, nil, false},
		{"extended CONNECT", "RFC 8441 4", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "x"}, nil, nil, false},
		{"authority with a user", pseudo, with(":authority", "u@x"), nil, nil, false},
		{"authority with a path", pseudo, with(":authority", "x/y"), nil, nil, false},
		{"authority is a list", pseudo, with(":authority", "x,y"), nil, nil, false},
		{"authority with a line end", pseudo, with(":authority", "x\r\nA: b"), nil, nil, false},
		{"empty authority", pseudo, with(":authority", ""), nil, nil, false},
		{"authority with a bad port", pseudo, with(":authority", "x:y"), nil, nil, false},
		{"scheme of a script", pseudo, with(":scheme", "javascript"), nil, nil, false},
		{"scheme with a line end", pseudo, with(":scheme", "http\r\nA: b"), nil, nil, false},

		{"expect", "RFC 9110 10.1.1", post("expect", "100-continue"), body, nil, true},
		{"expect something else", "RFC 9110 10.1.1", post("expect", "x"), body, nil, false},
		{"cookies in two fields", "RFC 9113 8.2.3", get("cookie", "a=b", "cookie", "c=d"), nil, nil, true},
		{"http2-settings", "RFC 9113 3.1", get("http2-settings", "AAMAAABkAAQAAP__"), nil, nil, false},
		{"trailer with a length", "RFC 9110 6.5.1", post(), body, []string{"content-length", "5"}, false},
		{"trailer with a coding", "RFC 9110 6.5.1", post(), body, []string{"transfer-encoding", "chunked"}, false},
		{"trailer with a pseudo-header field", "RFC 9113 8.1", post(), body, []string{":path", "/b"}, false},
		{"trailer with a line end", fields, post(), body, []string{"a", "b\r\nc: d"}, false},
		{"trailer in upper case", fields, post(), body, []string{"A", "b"}, false},
		{"101 fields", "RFC 6585 5", append(get(), strings.Split(strings.Repeat("a b ", 101)[:403], " ")...), nil, nil, false},
		{"TRACE with a body", "RFC 9110 9.3.8", with(":method", "TRACE"), body, nil, false},
	}
}
