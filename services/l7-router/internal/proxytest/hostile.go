package proxytest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// testBrokenBodies: a client is never left to believe that a part of a body is the whole.
func testBrokenBodies(t *testing.T, open Open) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\n"
	tests := []struct {
		name, request, response string
		reset                   bool // by the server
		status                  int  // 0: the answer is cut off by a reset
	}{
		{"chunks for 1.0 end early", "GET / HTTP/1.0\r\n\r\n", head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false, 0},
		{"a later chunk for 1.0 is bad", "GET / HTTP/1.0\r\n\r\n", head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", false, 0},
		{"until close, reset", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", head + "\r\nhello", true, 0},
		{"the first chunk is bad", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", false, 502},
		{"only an interim response", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n", false, 502},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			seen := newTell()
			address := rawOrigin(t, func(c *net.TCPConn) {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, test.response)
				if test.reset {
					seen.wait(t, "the client has the start")
					_ = c.SetLinger(0)
				}
			})
			w := newWorld(t, open, backend("web", server("a", address)))
			c := dial(t, w.address())
			c.send(test.request)
			if test.reset {
				if _, err := c.in.Peek(1); err != nil {
					t.Fatal(err)
				}
				seen.now()
			}
			if test.status == 0 {
				if got, err := io.ReadAll(c.in); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q %v, want a reset", got, err)
				}
				return
			}
			r, err := http.ReadResponse(c.in, nil)
			for err == nil && r.StatusCode < 200 {
				r, err = http.ReadResponse(c.in, nil)
			}
			if err != nil || r.StatusCode != test.status || !r.Close {
				t.Errorf("%v %v, want %d and close", r, err, test.status)
			}
		})
	}
}

// testRefusalAfterHEAD: what is refused after a HEAD has its body, as the length says.
func testRefusalAfterHEAD(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, named("a"))))))
	c := dial(t, w.address())
	c.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.response("HEAD")
	c.send("nonsense\r\n\r\n")
	if r, body := c.response("GET"); r.StatusCode != 400 || !strings.Contains(body, "400") {
		t.Errorf("%d %q", r.StatusCode, body)
	}
}

// testBytesAfterTheLastRequest: bytes behind the last request do not destroy its answer.
func testBytesAfterTheLastRequest(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, named("a"))))))
	c := dial(t, w.address())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + strings.Repeat("x", 300000))
	if got, err := io.ReadAll(c.in); err != nil || !strings.HasSuffix(string(got), "\r\na") {
		t.Errorf("%q %v", got, err)
	}
}
