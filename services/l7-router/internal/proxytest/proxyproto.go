package proxytest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// whoAmI answers with what the request says of its client.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "%s to %s", strings.Join(r.Header.Values("X-Forwarded-For"), "+"), r.Host)
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// testAcceptProxy: every form of PROXY header, however it is cut up, names the client of all requests on its connection.
func testAcceptProxy(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, whoAmI)))))
	w.want.Frontends[0].AcceptProxy = spec.AcceptProxy{From: []netip.Prefix{loopback}, Timeout: patience}
	w.apply()
	const v2 = "\r\n\r\n\x00\r\nQUIT\n"
	four := "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x00\x0a"
	six := "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x02\x00\x09\x00\x0a"
	for _, test := range []struct{ name, header, client, local string }{
		{"v1 IPv4", "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "1.2.3.4", "5.6.7.8:10"},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 9 10\r\n", "2001:db8::1", "[2001:db8::2]:10"},
		{"v1 unknown", "PROXY UNKNOWN 1.2.3.4 5.6.7.8 9 10\r\n", "127.0.0.1", w.address()},
		{"v2 IPv4", v2 + "\x21\x11\x00\x0c" + four, "1.2.3.4", "5.6.7.8:10"},
		{"v2 IPv6", v2 + "\x21\x21\x00\x24" + six, "2001:db8::1", "[2001:db8::2]:10"},
		{"v2 IPv4 with extensions", v2 + "\x21\x11\x00\x14" + four + "\x04\x00\x05noop!", "1.2.3.4", "5.6.7.8:10"},
		{"v2 IPv6 with 4 KiB of extensions", v2 + "\x21\x21\x10\x27" + six + "\x04\x10\x00" + strings.Repeat("x", 4096), "2001:db8::1", "[2001:db8::2]:10"},
		{"v2 local", v2 + "\x20\x11\x00\x0c" + four, "127.0.0.1", w.address()},
		{"v2 local without anything", v2 + "\x20\x00\x00\x00", "127.0.0.1", w.address()},
		{"v2 unspecified", v2 + "\x21\x00\x00\x00", "127.0.0.1", w.address()},
		{"v2 UNIX", v2 + "\x21\x31\x00\xd8" + strings.Repeat("a", 216), "127.0.0.1", w.address()},
	} {
		for how, pieces := range map[string][]string{
			"whole":       {test.header + old},
			"two parts":   {test.header, old},
			"in the head": {test.header + old[:9], old[9:]},
			"fragments":   append(strings.SplitAfter(test.header[:min(len(test.header), 300)], ""), test.header[min(len(test.header), 300):], old),
		} {
			t.Run(test.name+", "+how, func(t *testing.T) {
				t.Parallel()
				c := dial(t, w.address())
				for _, piece := range pieces {
					c.send(piece)
				}
				want := test.client + " to " + test.local
				if r, body := c.response("GET"); r.StatusCode != 200 || body != want {
					t.Errorf("%d %q, want %q", r.StatusCode, body, want)
				}
				// The next request on the connection has no header of its own.
				want = test.client + " to example.org"
				if r, body := c.get("/"); r.StatusCode != 200 || body != want {
					t.Errorf("the next request: %d %q, want %q", r.StatusCode, body, want)
				}
			})
		}
	}
}

// old is a request that leaves it to the router to say which host is meant.
const old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

// testRefusedProxy: a connection without a good header, or from somebody who may not send one, ends without an answer.
func testRefusedProxy(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, whoAmI)))))
	f := &w.want.Frontends[0]
	refused := func(name, sent string) {
		t.Helper()
		c := dial(t, w.address())
		_, _ = io.WriteString(c, sent) // it may be closed already
		if got, _ := io.ReadAll(c.in); len(got) > 0 {
			t.Errorf("%s: got %q", name, got)
		}
	}
	const good, request = "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	f.AcceptProxy = spec.AcceptProxy{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}, Timeout: patience}
	w.apply()
	refused("from elsewhere", good+request)
	refused("from elsewhere, without a header", request)
	f.AcceptProxy.From = []netip.Prefix{loopback}
	w.apply()
	for name, sent := range map[string]string{
		"no header":        request,
		"garbage":          "\r\n\r\n\x00\r\nQUIT!" + request,
		"another version":  "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + strings.Repeat("\x01", 12) + request,
		"too long a line":  "PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n" + request,
		"too many bytes":   "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + request,
		"a bad address":    "PROXY TCP4 1.2.3.400 5.6.7.8 9 10\r\n" + request,
		"TLS":              "\x16\x03\x01\x00\x05hello",
		"a bare line feed": "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n" + request,
	} {
		refused(name, sent)
	}
	f.AcceptProxy.Timeout = 100 * time.Millisecond
	w.apply()
	refused("silence", "")
	refused("half a header", good[:20])
	f.AcceptProxy = spec.AcceptProxy{}
	w.apply()
	if r, _ := dial(t, w.address()).get("/"); r.StatusCode != 200 {
		t.Errorf("without accept_proxy: %d", r.StatusCode)
	}
	c := dial(t, w.address())
	c.send(good + request)
	if r, _ := c.response("GET"); r.StatusCode != 400 {
		t.Errorf("a header where none is wanted: %d", r.StatusCode)
	}
}

// testSendProxy: each connection to the server begins with a header that names the client, and is no other client's.
func testSendProxy(t *testing.T, open Open) {
	t.Parallel()
	for _, version := range []spec.SendProxy{spec.SendProxyV1, spec.SendProxyV2} {
		headers := make(chan proxyproto.Header, 10)
		address := rawOrigin(t, func(c *net.TCPConn) {
			in := bufio.NewReader(c)
			for n := 1; ; n++ {
				b, err := in.Peek(n)
				h, size, wrong := proxyproto.Parse(b)
				if err != nil || wrong != nil {
					t.Errorf("%q %v %v", b, err, wrong)
					return
				}
				if size > 0 {
					_, _ = in.Discard(size)
					headers <- h
					break
				}
			}
			for {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				body, _ := io.ReadAll(r.Body)
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
		})
		s := server("a", address)
		s.SendProxy = version
		w := newWorld(t, open, backend("web", s))
		first, second := dial(t, w.address()), dial(t, w.address())
		for i, c := range []*client{first, second, first} {
			body := strings.Repeat("x", i*100_000) // some come in pieces
			c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			if r, got := c.response("POST"); r.StatusCode != 200 || got != body {
				t.Errorf("%d and %d bytes, want %d", r.StatusCode, len(got), len(body))
			}
			want := proxyproto.Header{Source: c.LocalAddr().(*net.TCPAddr).AddrPort(), Destination: netip.MustParseAddrPort(w.address())}
			if got := <-headers; got != want {
				t.Errorf("version %d: the server was told %v, want %v", version, got, want)
			}
		}
		// What another proxy has told goes on.
		w.want.Frontends[0].AcceptProxy = spec.AcceptProxy{From: []netip.Prefix{loopback}, Timeout: patience}
		w.apply()
		c := dial(t, w.address())
		c.send("PROXY TCP6 2001:db8::1 2001:db8::2 9 10\r\n")
		c.get("/")
		want := proxyproto.Header{Source: netip.MustParseAddrPort("[2001:db8::1]:9"), Destination: netip.MustParseAddrPort("[2001:db8::2]:10")}
		if got := <-headers; got != want {
			t.Errorf("version %d: passed on %v, want %v", version, got, want)
		}
	}
}

// testProxyWithHAProxy: the incumbent before and behind us understands, and is understood.
func testProxyWithHAProxy(t *testing.T, open Open) {
	t.Parallel()
	const defaults = "defaults\n mode http\n timeout client 10s\n timeout server 10s\n timeout connect 5s\nlisten l\n"
	last := addressOf(origin(t, whoAmI))
	for version, word := range map[spec.SendProxy]string{spec.SendProxyV1: "send-proxy", spec.SendProxyV2: "send-proxy-v2"} {
		behind := runHAProxy(t, defaults+" bind fd@3 accept-proxy\n option forwardfor\n server s "+last+"\n")
		s := server("a", behind)
		s.SendProxy = version
		w := newWorld(t, open, backend("web", s))
		w.want.Frontends[0].AcceptProxy = spec.AcceptProxy{From: []netip.Prefix{loopback}, Timeout: patience}
		w.apply()
		options := []string{word}
		if version == spec.SendProxyV2 {
			options = append(options, word+" proxy-v2-options crc32c,authority,unique-id,ssl")
		}
		for _, option := range options {
			before := runHAProxy(t, defaults+" bind fd@3\n server s "+w.address()+" "+option+"\n")
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
			conn, err := dialer.Dial("tcp", before)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(patience))
			c := &client{TCPConn: conn.(*net.TCPConn), t: t, in: bufio.NewReader(conn)}
			// One of ours, and one that the HAProxy behind us has made of what we have told it.
			if r, body := c.get("/"); r.StatusCode != 200 || body != "127.0.0.9+127.0.0.9 to example.org" {
				t.Errorf("%s: %d %q", option, r.StatusCode, body)
			}
		}
	}
}
