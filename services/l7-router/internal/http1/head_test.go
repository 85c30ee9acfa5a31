package http1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// show prints everything a head says, so that tests compare whole heads.
func show(h *Head) string {
	var b strings.Builder
	if h.kind == Request {
		fmt.Fprintf(&b, "%s %s path=%s 1.%d", h.Method(), h.Target(), h.Path(), h.Minor())
		fmt.Fprintf(&b, " body={%d %d}", h.RequestBody().Framing, h.RequestBody().Length)
	} else {
		fmt.Fprintf(&b, "%d %q 1.%d body={%d %d}", h.Status(), h.Reason(), h.Minor(), h.ResponseBody(false).Framing, h.ResponseBody(false).Length)
	}
	fmt.Fprintf(&b, " keep=%t", h.KeepAlive())
	if h.Upgrade() != nil {
		fmt.Fprintf(&b, " upgrade=%s", h.Upgrade())
	}
	for i := range h.Fields() {
		fmt.Fprintf(&b, " |%s=%s", h.Name(i), h.Value(i))
		if h.HopByHop(i) {
			b.WriteString("(hop)")
		}
	}
	return b.String()
}

func parse(kind Kind, message string) (string, error) {
	var h Head
	h.Reset(kind)
	complete, err := h.Parse([]byte(message))
	if err != nil {
		return "", err
	}
	if !complete {
		return "incomplete", nil
	}
	return show(&h), nil
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		kind    Kind
		message string
		want    string
	}{
		{"get", Request, "GET /a?b=c HTTP/1.1\r\nHost: x:8080\r\n\r\n", "GET /a?b=c path=/a 1.1 body={0 0} keep=true |Host=x:8080"},
		{"space around a value", Request, "GET / HTTP/1.1\r\nHost:\t x \t\r\nA:\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x |A="},
		{"an empty line before", Request, "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x"},
		{"lower-case method", Request, "post / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "post / path=/ 1.1 body={0 0} keep=true |Host=x |Content-Length=0"},
		{"content length", Request, "POST / HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 12\r\n\r\n", "POST / path=/ 1.1 body={1 12} keep=true |Host=x |content-LENGTH=12"},
		{"chunked", Request, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST / path=/ 1.1 body={2 0} keep=true |Host=x |Transfer-Encoding=Chunked(hop)"},
		{"1.0 without Host", Request, "GET / HTTP/1.0\r\n\r\n", "GET / path=/ 1.0 body={0 0} keep=false"},
		{"1.0 keep-alive", Request, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET / path=/ 1.0 body={0 0} keep=true |Connection=Keep-Alive(hop)"},
		{"close", Request, "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, close\r\nFoo: 1\r\nBar: 2\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=false |Host=x |Connection=foo, close(hop) |Foo=1(hop) |Bar=2"},
		{"Connection cannot take Host away", Request, "GET / HTTP/1.1\r\nHost: x\r\nConnection: host, content-length\r\nContent-Length: 0\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x |Connection=host, content-length(hop) |Content-Length=0"},
		{"absolute form", Request, "GET http://x:80/a?b HTTP/1.1\r\nHost: X:80\r\n\r\n", "GET http://x:80/a?b path=/a 1.1 body={0 0} keep=true |Host=X:80"},
		{"absolute form without path", Request, "GET http://x?b/c HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://x?b/c path=/ 1.1 body={0 0} keep=true |Host=x"},
		{"OPTIONS in absolute form without path", Request, "OPTIONS http://x HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS http://x path=* 1.1 body={0 0} keep=true |Host=x"},
		{"OPTIONS in absolute form with a query", Request, "OPTIONS http://x?a HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS http://x?a path=/ 1.1 body={0 0} keep=true |Host=x"},
		{"IPv6 as Host", Request, "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=[2001:db8::1]:8080"},
		{"empty port", Request, "GET / HTTP/1.1\r\nHost: x:\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x:"},
		{"_ in a name that nobody knows", Request, "GET / HTTP/1.1\r\nHost: x\r\nX_Own: 1\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x |X_Own=1"},
		{"asterisk", Request, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * path=* 1.1 body={0 0} keep=true |Host=x"},
		{"upgrade", Request, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true upgrade=websocket |Host=x |Connection=Upgrade(hop) |Upgrade=websocket(hop)"},
		{"expect", Request, "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", "PUT / path=/ 1.1 body={1 1} keep=true |Host=x |Expect=100-continue |Content-Length=1"},
		{"h2c is not passed on", Request, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket, H2C\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x |Connection=Upgrade(hop) |Upgrade=websocket, H2C(hop)"},
		{"what browsers leave in a query", Request, "GET /?a\\b|c\"<d> HTTP/1.1\r\nHost: x\r\n\r\n", "GET /?a\\b|c\"<d> path=/ 1.1 body={0 0} keep=true |Host=x"},
		{"value of high bytes", Request, "GET / HTTP/1.1\r\nHost: x\r\nA: \xe4\xb8\xad\r\n\r\n", "GET / path=/ 1.1 body={0 0} keep=true |Host=x |A=\xe4\xb8\xad"},
		{"incomplete", Request, "GET / HTTP/1.1\r\nHost: x\r\n\r", "incomplete"},
		{"response", Response, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", `200 "OK" 1.1 body={1 5} keep=true |Content-Length=5`},
		{"empty reason", Response, "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", `404 "" 1.1 body={0 0} keep=true |Content-Length=0`},
		{"no reason at all", Response, "HTTP/1.0 404\r\n\r\n", `404 "" 1.0 body={3 0} keep=false`},
		{"304 has no body", Response, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", `304 "Not Modified" 1.1 body={0 0} keep=true |Content-Length=5`},
		{"204 has no body", Response, "HTTP/1.1 204 No Content\r\n\r\n", `204 "No Content" 1.1 body={0 0} keep=true`},
		{"100", Response, "HTTP/1.1 100 Continue\r\n\r\n", `100 "Continue" 1.1 body={0 0} keep=true`},
		{"until close", Response, "HTTP/1.1 200 OK\r\n\r\n", `200 "OK" 1.1 body={3 0} keep=true`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(test.kind, test.message)
			if err != nil || got != test.want {
				t.Errorf("got  %s %v\nwant %s\nin   %q", got, err, test.want, test.message)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	request := func(fields string) string { return "POST / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\n" }
	tests := []struct {
		name    string
		kind    Kind
		message string
		want    *Error
	}{
		{"no Host", Request, "GET / HTTP/1.1\r\n\r\n", ErrHost},
		{"two Hosts", Request, request("Host: x"), ErrHost},
		{"two Hosts in 1.0", Request, "GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", ErrHost},
		{"bad Host", Request, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ErrHost},
		{"Host with a path", Request, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ErrHost},
		{"empty Host", Request, "GET / HTTP/1.1\r\nHost:\r\n\r\n", ErrHost},
		{"Host is a port", Request, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", ErrHost},
		{"two ports", Request, "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", ErrHost},
		{"port beyond 65535", Request, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", ErrHost},
		{"half a bracket", Request, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", ErrHost},
		{"text behind the bracket", Request, "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", ErrHost},
		{"encoded Host", Request, "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", ErrHost},
		{"bad host in the target", Request, "GET http://:80/ HTTP/1.1\r\nHost: :80\r\n\r\n", ErrTarget},
		{"zero before a length", Request, request("Content-Length: 010"), ErrContentLength},
		{"Content_Length", Request, request("Content_Length: 1"), ErrFieldAlias},
		{"x_forwarded-for", Request, request("x_forwarded-for: 1.1.1.1"), ErrFieldAlias},
		{"other expectation", Request, request("Expect: 200-ok"), ErrExpect},
		{"two expectations", Request, request("Expect: 100-continue\r\nExpect: 100-continue"), ErrExpect},
		{"TRACE with a body", Request, "TRACE / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", ErrTrace},
		{"long method", Request, strings.Repeat("A", 65) + " / HTTP/1.1\r\nHost: x\r\n\r\n", ErrMethod},
		{"chunked, gzip", Request, request("Transfer-Encoding: chunked, gzip"), ErrTransferEncoding},
		{"chunked, chunked", Request, request("Transfer-Encoding: chunked, chunked"), ErrTransferEncoding},
		{"chunked with a comma", Request, request("Transfer-Encoding: chunked,"), ErrTransferEncoding},
		{"no coding", Request, request("Transfer-Encoding:"), ErrTransferEncoding},
		{"parameter of chunked", Request, request("Transfer-Encoding: chunked;q=1"), ErrTransferEncoding},
		{"Host with user", Request, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", ErrHost},
		{"Host is not the target's", Request, "GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n", ErrHostTarget},
		{"both framings", Request, request("Content-Length: 1\r\nTransfer-Encoding: chunked"), ErrTwoFramings},
		{"both framings, other order", Request, request("Transfer-Encoding: chunked\r\nContent-Length: 1"), ErrTwoFramings},
		{"two lengths", Request, request("Content-Length: 1\r\nContent-Length: 2"), ErrContentLength},
		{"two equal lengths", Request, request("Content-Length: 1\r\nContent-Length: 1"), ErrContentLength},
		{"list of lengths", Request, request("Content-Length: 1, 1"), ErrContentLength},
		{"signed length", Request, request("Content-Length: +1"), ErrContentLength},
		{"negative length", Request, request("Content-Length: -1"), ErrContentLength},
		{"hex length", Request, request("Content-Length: 0x1"), ErrContentLength},
		{"empty length", Request, request("Content-Length:"), ErrContentLength},
		{"huge length", Request, request("Content-Length: 9999999999999999999"), ErrContentLength},
		{"two codings", Request, request("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), ErrTransferEncoding},
		{"gzip, chunked", Request, request("Transfer-Encoding: gzip, chunked"), ErrUnknownCoding},
		{"identity", Request, request("Transfer-Encoding: identity"), ErrTransferEncoding},
		{"vertical tab before chunked", Request, request("Transfer-Encoding: \vchunked"), ErrFieldValue},
		{"chunked in 1.0", Request, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", ErrTransferEncoding},
		{"folded field", Request, request("A: b\r\n c"), ErrFolding},
		{"fold after the request line", Request, "GET / HTTP/1.1\r\n Host: x\r\n\r\n", ErrFolding},
		{"bare CR in a value", Request, request("A: b\rc"), ErrFieldValue},
		{"NUL in a value", Request, request("A: b\x00c"), ErrFieldValue},
		{"bare LF", Request, "GET / HTTP/1.1\nHost: x\r\n\r\n", ErrLineEnd},
		{"bare LF after a field", Request, request("A: b\nC: d"), ErrLineEnd},
		{"bare LF as the end", Request, "GET / HTTP/1.1\r\nHost: x\r\n\n", ErrLineEnd},
		{"space before the colon", Request, request("Content-Length : 1"), ErrFieldName},
		{"no colon", Request, request("A"), ErrFieldName},
		{"no name", Request, request(": b"), ErrFieldName},
		{"illegal name", Request, request("A(b): c"), ErrFieldName},
		{"high byte in a name", Request, request("\xe4: c"), ErrFieldName},
		{"no target", Request, "GET HTTP/1.1\r\n\r\n", ErrRequestLine},
		{"empty target", Request, "GET  HTTP/1.1\r\n\r\n", ErrTarget},
		{"two spaces", Request, "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", ErrTarget},
		{"tab", Request, "GET\t/ HTTP/1.1\r\n\r\n", ErrRequestLine},
		{"illegal method", Request, "G@T / HTTP/1.1\r\n\r\n", ErrRequestLine},
		{"space in the target", Request, "GET /a b HTTP/1.1\r\n\r\n", ErrTarget},
		{"fragment", Request, "GET /#a HTTP/1.1\r\n\r\n", ErrTarget},
		{"relative target", Request, "GET a HTTP/1.1\r\n\r\n", ErrTarget},
		{"asterisk for GET", Request, "GET * HTTP/1.1\r\n\r\n", ErrTarget},
		{"other scheme", Request, "GET ftp://x/ HTTP/1.1\r\n\r\n", ErrTarget},
		{"user in the target", Request, "GET http://a@x/ HTTP/1.1\r\n\r\n", ErrTarget},
		{"CONNECT", Request, "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", ErrMethod},
		{"0.9", Request, "GET /\r\n", ErrRequestLine},
		{"2.0", Request, "GET / HTTP/2.0\r\n\r\n", ErrVersion},
		{"1.2", Request, "GET / HTTP/1.2\r\n\r\n", ErrVersion},
		{"lower-case version", Request, "GET / http/1.1\r\n\r\n", ErrRequestLine},
		{"version of two digits", Request, "GET / HTTP/1.10\r\n\r\n", ErrRequestLine},
		{"two empty lines before", Request, "\r\n\r\nGET / HTTP/1.1\r\n", ErrRequestLine},
		{"101 fields", Request, request(strings.Repeat("A: b\r\n", 99) + "A: b"), ErrTooManyFields},
		{"large head", Request, request("A: " + strings.Repeat("b", MaxHeadBytes)), ErrHeadTooLarge},
		{"large line without end", Request, "GET /" + strings.Repeat("b", MaxHeadBytes), ErrTargetTooLong},
		{"large line without a space", Request, strings.Repeat("b", MaxHeadBytes), ErrRequestLine},
		{"large field without end", Request, "GET / HTTP/1.1\r\nA: " + strings.Repeat("b", MaxHeadBytes), ErrHeadTooLarge},
		{"large status line", Response, "HTTP/1.1 200 " + strings.Repeat("b", MaxHeadBytes), ErrHeadTooLarge},
		{"not a status line", Response, "HTTP/1.1 20 OK\r\n\r\n", ErrStatusLine},
		{"status below 100", Response, "HTTP/1.1 099 OK\r\n\r\n", ErrStatusLine},
		{"status of four digits", Response, "HTTP/1.1 2000 OK\r\n\r\n", ErrStatusLine},
		{"response with both framings", Response, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", ErrTwoFramings},
		{"empty line before a response", Response, "\r\nHTTP/1.1 200 OK\r\n\r\n", ErrStatusLine},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(test.kind, test.message)
			var refused *Error
			if !errors.As(err, &refused) || refused != test.want {
				t.Errorf("got %v (%s), want %v\nin %q", err, got, test.want, test.message[:min(len(test.message), 200)])
			}
		})
	}
}

func TestHundredFieldsAreTaken(t *testing.T) {
	t.Parallel()
	message := "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", MaxFields-1) + "\r\n"
	if _, err := parse(Request, message); err != nil {
		t.Errorf("%d fields: %v", MaxFields, err)
	}
}

// TestIsValue compares eight bytes at a time with one at a time, for each byte at each place.
func TestIsValue(t *testing.T) {
	t.Parallel()
	for length := range 20 {
		b := bytes.Repeat([]byte{'a'}, length)
		for i := range b {
			for c := range 256 {
				b[i] = byte(c)
				if got, want := isValue(b), all(b, classValue); got != want {
					t.Fatalf("%q: %t, want %t", b, got, want)
				}
				if i > 0 {
					b[i-1] = 0xff // no carry from one byte to the next
					if got, want := isValue(b), all(b, classValue); got != want {
						t.Fatalf("%q: %t, want %t", b, got, want)
					}
					b[i-1] = 'a'
				}
			}
			b[i] = 'a'
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	message := []byte("GET /index.html HTTP/1.1\r\nHost: example.org\r\nUser-Agent: test\r\nAccept: */*\r\nCookie: a=b; webserver=s1\r\nConnection: keep-alive, foo\r\nFoo: x\r\n\r\n")
	chunked := []byte("5;ext=1\r\nhello\r\n0\r\nA: b\r\n\r\n")
	out := make([]byte, 0, 4096)
	var h Head
	allocs := testing.AllocsPerRun(100, func() {
		h.Reset(Request)
		if complete, err := h.Parse(message); !complete || err != nil {
			t.Fatal(complete, err)
		}
		out = AppendRequestLine(out[:0], h.Method(), h.Path(), h.Query())
		for i := range h.Fields() {
			if !h.HopByHop(i) {
				out = AppendField(out, h.Name(i), h.Value(i))
			}
		}
		out = AppendEnd(out)
		var c ChunkReader
		for b := chunked; ; {
			n, _, err := c.Next(b)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			b = b[n:]
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a message, want none", allocs)
	}
}

func BenchmarkParse(b *testing.B) {
	message := []byte("GET /index.html HTTP/1.1\r\nHost: example.org\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nAccept-Language: en\r\nCookie: a=b; webserver=s1\r\nConnection: keep-alive\r\n\r\n")
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	var h Head
	for b.Loop() {
		h.Reset(Request)
		if complete, err := h.Parse(message); !complete || err != nil {
			b.Fatal(complete, err)
		}
	}
}

// BenchmarkParseBrowser reads a head as browsers send it.
func BenchmarkParseBrowser(b *testing.B) {
	message := []byte("GET /forum.php?mod=viewthread&tid=1 HTTP/1.1\r\nHost: www.example.org\r\nConnection: keep-alive\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
		"Accept-Encoding: gzip, deflate\r\nAccept-Language: en-US,en;q=0.9\r\nReferer: http://www.example.org/forum.php\r\n" +
		"Cookie: sid=0123456789abcdef0123456789abcdef; lastvisit=1795716149; webserver=s1\r\nUpgrade-Insecure-Requests: 1\r\n\r\n")
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	var h Head
	for b.Loop() {
		h.Reset(Request)
		if complete, err := h.Parse(message); !complete || err != nil {
			b.Fatal(complete, err)
		}
	}
}

// FuzzHead checks that a head read in two pieces, wherever it is cut, is the head read at once; and that what is
// accepted means the same after it has been written out again.
func FuzzHead(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"\r\nPOST http://x/a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nConnection: a, close\r\nA: b\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"GET / HTTP/1.1\nHost: x\n\n",
		"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(9), false)
		f.Add([]byte(seed), uint16(30), true)
	}
	f.Fuzz(func(t *testing.T, message []byte, cut uint16, response bool) {
		kind := Request
		if response {
			kind = Response
		}
		var whole, pieces Head
		whole.Reset(kind)
		pieces.Reset(kind)
		complete, err := whole.Parse(message)
		_, early := pieces.Parse(append([]byte(nil), message[:min(int(cut), len(message))]...))
		again, late := false, early
		if early == nil {
			again, late = pieces.Parse(message)
		}
		if complete != again || err != late {
			t.Fatalf("whole: %t %v, in pieces: %t %v", complete, err, again, late)
		}
		if !complete || err != nil {
			return
		}
		if a, b := show(&whole), show(&pieces); a != b {
			t.Fatalf("whole:     %s\nin pieces: %s", a, b)
		}
		var out []byte
		if kind == Request {
			out = AppendRequestLine(nil, whole.Method(), whole.Target(), nil)
		} else {
			out = AppendStatusLine(nil, whole.Status(), whole.Reason())
		}
		for i := range whole.Fields() {
			out = AppendField(out, whole.Name(i), whole.Value(i))
		}
		out = AppendEnd(out)
		if whole.Minor() == 0 || len(out) > MaxHeadBytes {
			return // 1.0 means something else as 1.1
		}
		var copied Head
		copied.Reset(kind)
		if complete, err := copied.Parse(out); !complete || err != nil {
			t.Fatalf("written out: %t %v\n%q", complete, err, out)
		}
		if a, b := show(&whole), show(&copied); a != b {
			t.Fatalf("read:        %s\nwritten out: %s", a, b)
		}
		if bytes.ContainsAny(out[:len(out)-2], "\x00") {
			t.Fatalf("NUL got through: %q", out)
		}
	})
}
