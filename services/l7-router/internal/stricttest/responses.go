package stricttest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Response is one row of the table of responses: bytes that a server sends as its answer.
type Response struct {
	// Name says what is odd. It is unique.
	Name string
	// Clause that it is about.
	Clause string
	// Method of the request; empty: GET.
	Method string
	// Bytes that the server sends.
	Bytes string
	// Close: the server closes behind them.
	Close bool
	// Want is what the client sees of it: a status, or "cut" when what was begun is not ended.
	Want string
}

// Outcome is what a client sees: the status of the final response, "cut" when its body does not end as it should, "none"
// when there is no response, or what else is behind it.
func Outcome(method string, raw []byte, err error) string {
	in := bufio.NewReader(io.MultiReader(bytes.NewReader(raw), failing{err}))
	for {
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return "none"
		}
		if r.StatusCode < 200 && r.StatusCode != 101 {
			continue
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return "cut"
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 {
			return fmt.Sprintf("%d and %.100q behind it", r.StatusCode, rest)
		}
		return fmt.Sprint(r.StatusCode)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// Responses is the table.
func Responses() []Response {
	const ok = "HTTP/1.1 200 OK\r\n"
	const bad, fine, cut = "502", "200", "cut"
	chunked := func(body string) string { return ok + "Transfer-Encoding: chunked\r\n\r\n" + body }
	const second = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
	return []Response{
		{"plain", "RFC 9112 2.1", "", ok + "Content-Length: 5\r\n\r\nhello", false, fine},
		{"chunks", "RFC 9112 7.1", "", chunked("5\r\nhello\r\n0\r\n\r\n"), false, fine},
		{"until close", "RFC 9112 6.3", "", ok + "\r\nhello", true, fine},
		{"no reason", "RFC 9112 4", "", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, fine},
		{"empty reason", "RFC 9112 4", "", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", false, fine},
		{"reason with high bytes", "RFC 9112 4", "", "HTTP/1.1 200 \xc3\xa4\r\nContent-Length: 0\r\n\r\n", false, fine},

		{"another protocol", "RFC 9112 4", "", "SSH-2.0-OpenSSH\r\n\r\n", true, bad},
		{"0.9", "RFC 9112 4", "", "<html>hello</html>\r\n\r\n", true, bad},
		{"nothing", "RFC 9112 4", "", "", true, bad},
		{"part of a head", "RFC 9112 8", "", ok + "Content-Le", true, bad},
		{"empty line before", "RFC 9112 4", "", "\r\n" + ok + "Content-Length: 0\r\n\r\n", true, bad},
		{"lower-case version", "RFC 9112 2.3", "", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"1.2", "RFC 9110 15.6.6", "", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"2.0", "RFC 9110 15.6.6", "", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"version of another protocol", "RFC 9112 2.3", "", "ICY 200 OK\r\n\r\n", true, bad},
		{"status of two digits", "RFC 9112 4", "", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"status of four digits", "RFC 9112 4", "", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"status below 100", "RFC 9110 15", "", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"status of letters", "RFC 9112 4", "", "HTTP/1.1 2xx OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"negative status", "RFC 9112 4", "", "HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"two spaces before the status", "RFC 9112 4", "", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"tab before the status", "RFC 9112 4", "", "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"NUL in the reason", "RFC 9112 4", "", "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"CR in the reason", "RFC 9112 2.2", "", "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"LF everywhere", "RFC 9112 2.2", "", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", true, bad},
		{"LF behind a field", "RFC 9112 2.2", "", ok + "A: b\nContent-Length: 0\r\n\r\n", true, bad},
		{"LF as the end", "RFC 9112 2.2", "", ok + "Content-Length: 0\r\n\n", true, bad},
		{"CR in a value", "RFC 9112 2.2", "", ok + "A: b\rc\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"NUL in a value", "RFC 9110 5.5", "", ok + "A: b\x00c\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"control character in a value", "RFC 9110 5.5", "", ok + "A: b\x01c\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"folded field", "RFC 9112 5.2", "", ok + "A: b\r\n c\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"fold behind the status line", "RFC 9112 2.2", "", ok + " A: b\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"space before the colon", "RFC 9112 5.1", "", ok + "Content-Length : 5\r\n\r\nhello", true, bad},
		{"no colon", "RFC 9112 5", "", ok + "A\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"no name", "RFC 9112 5", "", ok + ": b\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"name with a space", "RFC 9110 5.1", "", ok + "A B: c\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"name is not ASCII", "RFC 9110 5.1", "", ok + "\xc3\xa4: c\r\nContent-Length: 0\r\n\r\n", true, bad},
		{"101 fields", "RFC 6585 5", "", ok + strings.Repeat("A: b\r\n", 101) + "\r\n", true, bad},
		{"head of 70000 bytes", "RFC 6585 5", "", ok + "A: " + strings.Repeat("b", 70000) + "\r\n\r\n", true, bad},
		{"two lengths", "RFC 9112 6.3", "", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", true, bad},
		{"two equal lengths", "RFC 9112 6.3", "", ok + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", true, bad},
		{"list of lengths", "RFC 9112 6.3", "", ok + "Content-Length: 5, 5\r\n\r\nhello", true, bad},
		{"signed length", "RFC 9112 6.3", "", ok + "Content-Length: +5\r\n\r\nhello", true, bad},
		{"negative length", "RFC 9112 6.3", "", ok + "Content-Length: -1\r\n\r\nhello", true, bad},
		{"hex length", "RFC 9112 6.3", "", ok + "Content-Length: 0x5\r\n\r\nhello", true, bad},
		{"empty length", "RFC 9112 6.3", "", ok + "Content-Length:\r\n\r\nhello", true, bad},
		{"length of 2^64+5", "RFC 9112 6.3", "", ok + "Content-Length: 18446744073709551621\r\n\r\nhello", true, bad},
		{"both framings", "RFC 9112 6.1", "", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, bad},
		{"chunked twice", "RFC 9112 6.1", "", ok + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", true, bad},
		{"identity", "RFC 9112 6.1", "", ok + "Transfer-Encoding: identity\r\n\r\nhello", true, bad},
		{"gzip, chunked", "RFC 9112 6.1", "", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", true, bad},
		{"chunked in 1.0", "RFC 9112 6.1", "", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, bad},
		{"vertical tab before chunked", "RFC 9112 6.1", "", ok + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", true, bad},
		{"first chunk is no number", "RFC 9112 7.1", "", chunked("x\r\nhello\r\n0\r\n\r\n"), true, bad},
		{"first chunk with a space behind", "RFC 9112 7.1", "", chunked("5 \r\nhello\r\n0\r\n\r\n"), true, bad},
		{"first chunk ended by LF", "RFC 9112 7.1", "", chunked("5\nhello\r\n0\r\n\r\n"), true, bad},
		{"first chunk too large", "RFC 9112 7.1", "", chunked("ffffffffffffffff\r\nhello"), true, bad},
		{"later chunk is no number", "RFC 9112 7.1", "", chunked("5\r\nhello\r\nx\r\n"), true, bad},
		{"trailer sets a length", "RFC 9110 6.5.1", "", chunked("5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"), true, bad},
		{"trailer sets a cookie", "RFC 9110 6.5.1", "", chunked("5\r\nhello\r\n0\r\nSet-Cookie: a=b\r\n\r\n"), true, bad},
		{"chunks end early", "RFC 9112 8", "", chunked("5\r\nhel"), true, cut},
		{"no last chunk", "RFC 9112 8", "", chunked("5\r\nhello\r\n"), true, cut},
		{"body shorter than its length", "RFC 9112 8", "", ok + "Content-Length: 10\r\n\r\nhello", true, cut},
		{"body longer than its length", "RFC 9112 6.3", "", ok + "Content-Length: 5\r\n\r\nhello world", false, fine},
		{"two responses", "RFC 9112 9.2", "", ok + "Content-Length: 5\r\n\r\nhello" + second, false, fine},
		{"response behind the last chunk", "RFC 9112 9.2", "", chunked("0\r\n\r\n") + second, false, fine},
		{"body of 204", "RFC 9112 6.3", "", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", false, "204"},
		{"chunks of 204", "RFC 9112 6.1", "", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, "204"},
		{"body of 304", "RFC 9112 6.3", "", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", false, "304"},
		{"response behind 304", "RFC 9112 9.2", "", "HTTP/1.1 304 Not Modified\r\n\r\n" + second, false, "304"},
		{"body after HEAD", "RFC 9112 6.3", "HEAD", ok + "Content-Length: 5\r\n\r\nhello", false, fine},
		{"response behind a response to HEAD", "RFC 9112 9.2", "HEAD", ok + "Content-Length: 5\r\n\r\n" + second, false, fine},
		{"interim, then final", "RFC 9110 15.2", "", "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", false, fine},
		{"interim with a length", "RFC 9110 8.6", "", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", false, fine},
		{"interim with chunks", "RFC 9112 6.1", "", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", false, fine},
		{"nothing but interim", "RFC 9110 15.2", "", "HTTP/1.1 102 Processing\r\n\r\n", true, bad},
		{"101 without being asked", "RFC 9110 15.2.2", "", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true, bad},
		{"101 without Upgrade", "RFC 9110 15.2.2", "", "HTTP/1.1 101 Switching Protocols\r\n\r\n", true, bad},
		{"Connection: Content-Length", "RFC 9110 7.6.1", "", ok + "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", false, fine},
		{"Connection: Set-Cookie", "RFC 9110 7.6.1", "", ok + "Connection: Set-Cookie\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\nhello", false, fine},
		{"Upgrade in a 200", "RFC 9110 7.8", "", ok + "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello", false, fine},
	}
}
