package stricttest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// Generator makes requests that are odd but may be right, and spoils some of them. The same seed makes the same requests.
type Generator struct {
	*rand.Rand
	seed uint64
}

// Mark is the field by which a request can be told from others, if it is not spoiled: its value is the seed.
const Mark = "X-Mark"

// NewGenerator begins at a seed.
func NewGenerator(seed uint64) Generator { return Generator{rand.New(rand.NewPCG(seed, 3)), seed} }

func pick[T any](g Generator, from ...T) T { return from[g.IntN(len(from))] }

// chance is true once in n.
func (g Generator) chance(n int) bool { return g.IntN(n) == 0 }

// Next makes what a client sends: one to three requests. Where the last of them is well framed it is complete, so that
// whoever reads it does not wait.
func (g Generator) Next() string {
	for {
		if b, ok := complete(g.some()); ok {
			return b
		}
	}
}

func (g Generator) some() string {
	var all strings.Builder
	for range 1 + g.IntN(3) {
		all.WriteString(g.request())
	}
	b := all.String()
	if g.chance(2) {
		for range 1 + g.IntN(3) {
			b = g.spoil(b)
		}
	}
	return b
}

func (g Generator) request() string {
	var b strings.Builder
	method := pick(g, "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "GET", "POST", "post", "BREW")
	target := pick(g, "/", "/a?b=c", "/a//b/../c", "/%41%2f", "/?q=http://y/", "/;a=b", "/a\\b|c", "http://x/a", "http://x", "http://x?a", "//y/z", "/"+strings.Repeat("a", g.IntN(300)))
	version := pick(g, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0")
	fmt.Fprintf(&b, "%s %s %s\r\n", method, target, version)
	fields := []string{pick(g, "Host: x", "host: x", "HOST:x", "Host:\tx "), fmt.Sprintf("%s: %d", Mark, g.seed)}
	for range g.IntN(4) {
		fields = append(fields, g.field())
	}
	body := ""
	switch g.IntN(4) {
	case 0:
		body = g.body()
		fields = append(fields, fmt.Sprintf(pick(g, "Content-Length: %d", "content-length:%d", "CONTENT-LENGTH: \t%d "), len(body)))
	case 1:
		if version == "HTTP/1.1" {
			body = g.chunks()
			fields = append(fields, pick(g, "Transfer-Encoding: chunked", "transfer-encoding:chunked", "TRANSFER-ENCODING: Chunked\t"))
		}
	}
	g.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	b.WriteString(strings.Join(fields, "\r\n") + "\r\n\r\n" + body)
	return b.String()
}

func (g Generator) field() string {
	return pick(g,
		"A: b", "A:", "A: \t b", "Accept: */*", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.1, [::1]:80", "X-Own: \xc3\xa4",
		"Cookie: a=b; c=d", "Connection: close", "Connection: keep-alive", "Connection: X-Own, Cookie", "Connection: Content-Length",
		"Connection: Transfer-Encoding", "Connection: Host", "Connection: , ;", "Keep-Alive: timeout=1", "Proxy-Connection: close",
		"TE: trailers", "TE: chunked", "Trailer: Sum", "Trailer: Content-Length", "Expect: 100-continue", "Upgrade: h2c",
		"HTTP2-Settings: AAMAAABkAAQAAP__", "Range: bytes=0-", "If-Range: x", "Via: 1.1 y", "X-HTTP-Method-Override: PUT",
		"X-Content-Length: 5", "X-Transfer-Encoding: chunked", "Content-Encoding: chunked", "Content-Type: multipart/byteranges; boundary=x",
		"Accept-Encoding: chunked", "Sec-WebSocket-Version: 13", "Forwarded: for=x", "X: Transfer-Encoding: chunked", "Content-Length-X: 5",
		"!#$%&'*+-.^_`|~0: x", "A: "+strings.Repeat("b", g.IntN(500)))
}

func (g Generator) body() string {
	return pick(g, "", "x", "hello", hidden, "0\r\n\r\n", "\r\n", "\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"+hidden, "\x00\xff\n\r",
		strings.Repeat("z", g.IntN(3000)))
}

func (g Generator) chunks() string {
	var b strings.Builder
	for range g.IntN(4) {
		data := g.body()
		if data == "" {
			continue
		}
		fmt.Fprintf(&b, pick(g, "%x", "%X", "0%x", "%08x"), len(data))
		b.WriteString(g.extension() + "\r\n" + data + "\r\n")
	}
	b.WriteString(pick(g, "0", "0", "00", "0000000") + g.extension() + "\r\n")
	for range g.IntN(3) {
		b.WriteString(pick(g, "Sum: 1", "X-Other: a b", "ETag: \"x\"", "A:", "X-Content-Length: 5") + "\r\n")
	}
	return b.String() + "\r\n"
}

func (g Generator) extension() string {
	if !g.chance(4) {
		return ""
	}
	return pick(g, ";a", ";a=b", ";a=b;c=d", `;a="b"`, `;a="b;c=d"`, `;a="\""`, `;a="0"`, ";"+strings.Repeat("a", 1+g.IntN(100)))
}

// spoil changes one thing, mostly for the worse.
func (g Generator) spoil(b string) string {
	at := 0
	if len(b) > 0 {
		at = g.IntN(len(b))
	}
	lineAt := func() int { // the start of a line
		i := strings.IndexByte(b[at:], '\n')
		if i < 0 {
			return len(b)
		}
		return at + i + 1
	}
	insert := func(i int, s string) string { return b[:i] + s + b[i:] }
	switch g.IntN(9) {
	case 0: // a line of framing or routing
		return insert(lineAt(), pick(g,
			"Content-Length: 5", "Content-Length: 0", "Content-Length: 05", "Content-Length: +5", "Content-Length: 5, 5", "Content-Length:",
			"Content-Length : 5", "Content_Length: 5", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
			"Transfer-Encoding:\vchunked", "Transfer-Encoding: chunked, ", "Transfer-Encoding : chunked", " Transfer-Encoding: chunked", "Transfer_Encoding: chunked",
			"Host: y", "Host:", "Host: x,y", "Host: x:80", "Expect: x", "Connection: Upgrade\r\nUpgrade: websocket", "", "0", "5", "GET /b HTTP/1.1", "A", " a", "\ta")+
			pick(g, "\r\n", "\r\n", "\r\n", "\n", "\r"))
	case 1: // a byte
		return insert(at, pick(g, "\r", "\n", "\x00", " ", "\t", "\v", "\f", "\x7f", "\x80", "\xff", ";", ":", ",", "\"", "0", "%", "#", "\r\n", "\r\n\r\n"))
	case 2: // without a byte
		return b[:at] + b[min(at+1, len(b)):]
	case 3: // another end of a line
		if i := strings.Index(b[at:], "\r\n"); i >= 0 {
			return b[:at+i] + pick(g, "\n", "\r", "\r\r\n", "\n\r", " \r\n", "\r\n ", "\r\n\t", "\x00\r\n", "\x85") + b[at+i+2:]
		}
	case 4: // a line twice
		from := lineAt()
		to := strings.IndexByte(b[from:], '\n')
		if to >= 0 {
			return insert(from, b[from:from+to+1])
		}
	case 5: // another version
		return strings.Replace(b, "HTTP/1.1", pick(g, "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/1.10", ""), 1)
	case 6: // another number
		for i := at; i < len(b); i++ {
			if b[i] >= '0' && b[i] <= '9' {
				return b[:i] + pick(g, "0", "1", "9", "00", "+", "-", "0x", "", "_1", "1e1", "18446744073709551616") + b[i+1:]
			}
		}
	case 7: // another byte
		if at < len(b) {
			return b[:at] + string([]byte{byte(g.IntN(256))}) + b[at+1:]
		}
	case 8: // another case
		if at < len(b) {
			end := min(at+20, len(b))
			return b[:at] + pick(g, strings.ToLower, strings.ToUpper)(b[at:end]) + b[end:]
		}
	}
	return b
}

// complete adds what the last request still needs, as this program reads it; ok is false when that is too much.
func complete(b string) (string, bool) {
	for range 4 {
		rest := []byte(b)
		for len(rest) > 0 {
			n, _, err := whole(&rest, func() error { return io.EOF })
			var refused *http1.Error
			if errors.As(err, &refused) {
				return b, true
			}
			if err != nil {
				break
			}
			rest = rest[n:]
		}
		if len(rest) == 0 {
			return b, true
		}
		b += missing(string(rest))
	}
	return b, false
}

// missing guesses what ends an unfinished request.
func missing(b string) string {
	var h http1.Head
	h.Reset(http1.Request)
	if complete, _ := h.Parse([]byte(b)); !complete {
		if strings.HasSuffix(b, "\r\n") {
			return "\r\n"
		}
		return "\r\n\r\n"
	}
	body := h.RequestBody()
	if body.Framing == http1.Length {
		if left := body.Length - int64(len(b)-h.Len()); left <= 64<<10 {
			return strings.Repeat("p", int(left))
		}
		return ""
	}
	var c http1.ChunkReader
	for in := []byte(b[h.Len():]); ; {
		n, _, err := c.Next(in)
		if err != nil || n == 0 {
			break
		}
		in = in[n:]
	}
	if left := c.Left(); left > 0 && left <= 64<<10 {
		return strings.Repeat("p", int(left)) + "\r\n0\r\n\r\n"
	}
	if strings.HasSuffix(b, "\r\n") {
		return "0\r\n\r\n"
	}
	return "\r\n0\r\n\r\n"
}
