package proxytest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// testLimits: what is beyond a limit of the frontend is refused, what is within it is not.
func testLimits(t *testing.T, open Open) {
	t.Parallel()
	var whole atomic.Int32
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	w.want.Frontends[0].Limits = spec.Limits{HeadBytes: 2000, TargetBytes: 100, Fields: 5, BodyBytes: 1000}
	w.apply()
	target := func(n int) string { return "GET /" + strings.Repeat("a", n-1) + " HTTP/1.1\r\nHost: x\r\n\r\n" }
	fields := func(n int) string {
		return "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", n-1) + "\r\n"
	}
	head := func(n int) string {
		const rest = "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n"
		return strings.Replace(rest, "A: ", "A: "+strings.Repeat("b", n-len(rest)), 1)
	}
	length := func(n int) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", n) + strings.Repeat("b", n)
	}
	chunks := func(n int) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n1\r\nb\r\n0\r\n\r\n", n-1, strings.Repeat("b", n-1))
	}
	good := 0
	for _, test := range []struct {
		name, request string
		status        int
	}{
		{"target", target(100), 200}, {"target beyond", target(101), 414},
		{"fields", fields(5), 200}, {"fields beyond", fields(6), 431},
		{"head", head(2000), 200}, {"head beyond", head(2001), 431},
		{"length", length(1000), 200}, {"length beyond", length(1001), 413},
		{"chunks", chunks(1000), 200}, {"chunks beyond", chunks(1001), 413},
		{"one huge chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", 413},
	} {
		c := dial(t, w.address())
		c.send(test.request)
		if r, _ := c.response("GET"); r.StatusCode != test.status || r.Close != (test.status != 200) {
			t.Errorf("%s: %d close %t, want %d", test.name, r.StatusCode, r.Close, test.status)
		}
		if test.status == 200 {
			good++
		} else {
			c.expectClosed()
		}
	}
	if n := int(whole.Load()); n != good {
		t.Errorf("%d requests reached the server whole, want %d", n, good)
	}
}

// testLimits2: the limits hold for requests in HTTP/2 too.
func testLimits2(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	w := newWorld2(t, open, backend("web", server("a", addressOf(s))))
	w.want.Frontends[0].Limits = spec.Limits{TargetBytes: 100, Fields: 20, BodyBytes: 1000, BodyRate: 1 << 20, Grace: 300 * time.Millisecond}
	w.apply()
	url := "http://" + w.address()
	slow, sender := io.Pipe()
	t.Cleanup(func() { _ = sender.Close() })
	go func() {
		pause := time.NewTicker(2 * time.Millisecond)
		defer pause.Stop()
		for range pause.C {
			if _, err := sender.Write([]byte("b")); err != nil {
				return
			}
		}
	}()
	for _, test := range []struct {
		name, path string
		body       io.Reader
		status     int
	}{
		{"target", "/" + strings.Repeat("a", 99), nil, 200},
		{"target beyond", "/" + strings.Repeat("a", 100), nil, 414},
		{"length", "/", strings.NewReader(strings.Repeat("b", 1000)), 200},
		{"length beyond", "/", strings.NewReader(strings.Repeat("b", 1001)), 413},
		{"body without a length", "/", onlyReader{strings.NewReader(strings.Repeat("b", 1000))}, 200},
		{"body without a length beyond", "/", onlyReader{strings.NewReader(strings.Repeat("b", 1001))}, 413},
		{"slow body", "/", slow, 408},
	} {
		method := "GET"
		if test.body != nil {
			method = "POST"
		}
		if r, _, err := ask2(client2(t), method, url+test.path, test.body); err != nil || r.StatusCode != test.status {
			t.Errorf("%s: %+v %v, want %d", test.name, r, err, test.status)
		}
	}
}

// trickle sends a byte every few milliseconds until that fails.
func trickle(c net.Conn, b string) {
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for range pause.C {
		if _, err := io.WriteString(c, b); err != nil {
			return
		}
	}
}

// testSlowBodies: a client that is never silent, but slower than it may be, is turned away.
func testSlowBodies(t *testing.T, open Open) {
	t.Parallel()
	for _, test := range []struct {
		name, head, more string
		limits           spec.Limits
	}{
		{"length", "Content-Length: 1000000", "b", spec.Limits{BodyRate: 1 << 20, Grace: 200 * time.Millisecond}},
		{"chunks", "Transfer-Encoding: chunked", "1\r\nb\r\n", spec.Limits{BodyRate: 1 << 20, Grace: 200 * time.Millisecond}},
		{"in all", "Content-Length: 1000000", "b", spec.Limits{Grace: patience, TimeoutBody: 200 * time.Millisecond}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := origin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
			w := newWorld(t, open, backend("web", server("a", addressOf(s))))
			w.want.Frontends[0].Limits = test.limits
			w.apply()
			c := dial(t, w.address())
			c.send("POST / HTTP/1.1\r\nHost: x\r\n" + test.head + "\r\n\r\n")
			go trickle(c.TCPConn, test.more)
			if r, _ := c.response("POST"); r.StatusCode != 408 || !r.Close {
				t.Errorf("%d close %t, want 408 and close", r.StatusCode, r.Close)
			}
		})
	}
}

// testSlowReader: a client that takes a response slower than it may is cut off; one that is fast enough is not.
func testSlowReader(t *testing.T, open Open) {
	t.Parallel()
	const n = 64 << 20
	ended := newTell()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(n))
		_, err := io.Copy(w, noise(1, n))
		if err != nil {
			ended.now()
		}
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	w.want.Frontends[0].Limits = spec.Limits{DrainRate: 1 << 20, Grace: 300 * time.Millisecond}
	w.apply()
	c := dial(t, w.address())
	_ = c.SetReadBuffer(4096)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	go func() {
		for range pause.C {
			if _, err := c.Read(make([]byte, 16)); err != nil {
				return
			}
		}
	}()
	ended.wait(t, "the server's connection ends")
	w.want.Frontends[0].Limits.Grace = patience / 2 // a busy machine is slow at times
	w.apply()
	quick := dial(t, w.address())
	quick.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, body := quick.response("GET"); r.StatusCode != 200 || len(body) != n {
		t.Errorf("%d with %d bytes, want 200 with %d", r.StatusCode, len(body), n)
	}
}

// testSlowServerIsNotTheClientsFault: while a server does not read, its client's time does not pass.
func testSlowServerIsNotTheClientsFault(t *testing.T, open Open) {
	t.Parallel()
	const n = 32 << 20
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		<-time.After(4 * time.Second) // this server is slow: longer than the grace, while the body waits in buffers that are full
		got, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, got)
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	w.want.Frontends[0].Limits = spec.Limits{BodyRate: 1000, DrainRate: 1000, Grace: 2 * time.Second}
	w.apply()
	c := dial(t, w.address())
	go func() {
		_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", n)
		_, _ = io.Copy(c, bytes.NewReader(make([]byte, n))) // an error shows in the response
	}()
	if r, body := c.response("POST"); r.StatusCode != 200 || body != fmt.Sprint(n) {
		t.Errorf("%d %q, want 200 and all of %d bytes", r.StatusCode, body, n)
	}
}
