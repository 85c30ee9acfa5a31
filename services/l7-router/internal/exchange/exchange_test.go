package exchange

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"go.uber.org/zap"
)

var client = Client{Address: "10.10.60.1", Local: "10.10.60.22:80"}

// frontend sends POST to updataserver and the rest to webservers, as the tutorial does.
func frontend(t testing.TB, cookie spec.Cookie) *Frontend {
	t.Helper()
	p := pool.New(zap.NewNop())
	s1 := spec.Server{Name: "s1", Address: netip.MustParseAddrPort("172.16.0.88:80"), Weight: 1, Cookie: "s1"}
	s2 := spec.Server{Name: "s2", Address: netip.MustParseAddrPort("172.16.0.99:80"), Weight: 1, Cookie: "s2"}
	return &Frontend{
		Spec: spec.Frontend{
			Name: "main", DefaultBackend: "webservers",
			Rules: []spec.Rule{{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "updataserver"}, {Condition: spec.Condition{PathPrefixes: []string{"/none/"}}, Backend: "missing"}},
		},
		Backends: map[string]*pool.Backend{
			"webservers":   p.Set(spec.Backend{Name: "webservers", Servers: []spec.Server{s1, s2}, Cookie: cookie}),
			"updataserver": p.Set(spec.Backend{Name: "updataserver", Servers: []spec.Server{s2, s1}, Cookie: cookie}),
		},
	}
}

func parse(t testing.TB, kind http1.Kind, message string) *http1.Head {
	t.Helper()
	h := new(http1.Head)
	h.Reset(kind)
	if complete, err := h.Parse([]byte(crlf(message))); !complete || err != nil {
		t.Fatalf("%q: %t %v", message, complete, err)
	}
	return h
}

// crlf turns the lines of a test into a head.
func crlf(lines string) string { return strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n\r\n" }

func TestRequestHead(t *testing.T) {
	t.Parallel()
	const forwarded = "\nX-Forwarded-For: 10.10.60.1"
	tests := []struct {
		name     string
		cookie   spec.Cookie
		in, want string
	}{
		{"plain", spec.Cookie{}, "GET /a?b HTTP/1.1\nHost: www.example.org:8080\nAccept: */*", "GET /a?b HTTP/1.1\nHost: www.example.org:8080\nAccept: */*" + forwarded},
		{"hop by hop", spec.Cookie{},
			"GET / HTTP/1.1\nHost: x\nConnection: close, X-Secret\nX-Secret: 1\nKeep-Alive: timeout=5\nProxy-Connection: keep-alive\nTE: trailers\nUpgrade: h2c\nX-Other: 2",
			"GET / HTTP/1.1\nHost: x\nX-Other: 2" + forwarded},
		{"Connection cannot remove what frames or routes", spec.Cookie{},
			"PUT / HTTP/1.1\nHost: x\nConnection: Host, Content-Length\nContent-Length: 3",
			"PUT / HTTP/1.1\nHost: x\nContent-Length: 3" + forwarded},
		{"nobody believes a client", spec.Cookie{},
			"GET / HTTP/1.1\nX-Forwarded-For: 1.1.1.1\nHost: x\nx-forwarded-for: 2.2.2.2, 3.3.3.3\nForwarded: for=1.1.1.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: y\nX-Forwarded-Port: 1",
			"GET / HTTP/1.1\nHost: x" + forwarded},
		{"Connection takes only the client's X-Forwarded-For away", spec.Cookie{},
			"GET / HTTP/1.1\nHost: x\nConnection: x-forwarded-for\nX-Forwarded-For: 1.1.1.1",
			"GET / HTTP/1.1\nHost: x" + forwarded},
		{"chunked", spec.Cookie{}, "PUT / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked", "PUT / HTTP/1.1\nHost: x" + forwarded + "\nTransfer-Encoding: chunked"},
		{"upgrade", spec.Cookie{}, "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket", "GET / HTTP/1.1\nHost: x" + forwarded + "\nConnection: Upgrade\nUpgrade: websocket"},
		{"1.0", spec.Cookie{}, "GET / HTTP/1.0\nExpect: 100-continue", "GET / HTTP/1.1\nHost: 10.10.60.22:80" + forwarded},
		{"1.0, absolute form", spec.Cookie{}, "GET http://example.org:81/a HTTP/1.0", "GET /a HTTP/1.1\nHost: example.org:81" + forwarded},
		{"absolute form becomes origin form", spec.Cookie{}, "GET http://x/a?b HTTP/1.1\nHost: x", "GET /a?b HTTP/1.1\nHost: x" + forwarded},
		{"absolute form with a query only", spec.Cookie{}, "GET http://x?b HTTP/1.1\nHost: x", "GET /?b HTTP/1.1\nHost: x" + forwarded},
		{"OPTIONS of the whole server", spec.Cookie{}, "OPTIONS http://x HTTP/1.1\nHost: x", "OPTIONS * HTTP/1.1\nHost: x" + forwarded},
		{"nothing to expect without a body", spec.Cookie{}, "GET / HTTP/1.1\nHost: x\nExpect: 100-continue", "GET / HTTP/1.1\nHost: x" + forwarded},
		{"h2c settings", spec.Cookie{}, "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__", "GET / HTTP/1.1\nHost: x" + forwarded},
		{"expect", spec.Cookie{}, "PUT / HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: 3", "PUT / HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: 3" + forwarded},
		{"cookie is passed on", spec.Cookie{Name: "w"}, "GET / HTTP/1.1\nHost: x\nCookie: w=s1", "GET / HTTP/1.1\nHost: x\nCookie: w=s1" + forwarded},
		{"indirect", spec.Cookie{Name: "w", Indirect: true}, "GET / HTTP/1.1\nHost: x\nCookie: a=1; w=s1;b=2; w=s2", "GET / HTTP/1.1\nHost: x\nCookie: a=1; b=2" + forwarded},
		{"indirect, the only one", spec.Cookie{Name: "w", Indirect: true}, "GET / HTTP/1.1\nHost: x\nCookie: w=s1", "GET / HTTP/1.1\nHost: x" + forwarded},
		{"indirect, none", spec.Cookie{Name: "w", Indirect: true}, "GET / HTTP/1.1\nHost: x\nCookie: a=1;b=2", "GET / HTTP/1.1\nHost: x\nCookie: a=1;b=2" + forwarded},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var r Request
			r.Begin(frontend(t, test.cookie), parse(t, http1.Request, test.in), &client)
			if want := crlf(test.want); string(r.Head) != want {
				t.Errorf("got\n%s\nwant\n%s", r.Head, want)
			}
		})
	}
}

func TestBackendAndServers(t *testing.T) {
	t.Parallel()
	cookie := spec.Cookie{Name: "w"}
	tests := []struct {
		name, in, want string
		repeatable     bool
	}{
		{"by turns", "GET / HTTP/1.1\nHost: x", "webservers s1 s2", true},
		{"cookie first", "GET / HTTP/1.1\nHost: x\nCookie: w=s2", "webservers s2 s1", true},
		{"POST has its own backend", "POST / HTTP/1.1\nHost: x\nContent-Length: 1", "updataserver s2 s1", false},
		{"the cookie counts there too", "POST / HTTP/1.1\nHost: x\nContent-Length: 0\nCookie: w=s1", "updataserver s1 s2", false},
		{"post is not POST", "post / HTTP/1.1\nHost: x\nContent-Length: 1", "webservers s1 s2", false},
		{"a PUT with a body", "PUT / HTTP/1.1\nHost: x\nContent-Length: 1", "webservers s1 s2", true},
		{"a rule without backend in force", "GET /none/x HTTP/1.1\nHost: x", "", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var r Request
			r.Begin(frontend(t, cookie), parse(t, http1.Request, test.in), &client)
			got := ""
			if r.Backend != nil {
				got = r.Backend.Spec.Name
				for s := r.Next(); s != nil; s = r.Next() {
					got += " " + s.Spec.Name
				}
			}
			if got != test.want || r.Repeatable != test.repeatable {
				t.Errorf("got %q repeatable %t, want %q %t", got, r.Repeatable, test.want, test.repeatable)
			}
		})
	}
}

func TestReplyHead(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\nHost: x"
	tests := []struct {
		name         string
		cookie       spec.Cookie
		request, in  string
		want, facts  string
		closing, bad bool
	}{
		{"plain", spec.Cookie{}, get, "HTTP/1.1 200 OK\nContent-Length: 5\nConnection: keep-alive\nKeep-Alive: timeout=5", "HTTP/1.1 200 OK\nContent-Length: 5", "{1 5} client server", false, false},
		{"server closes", spec.Cookie{}, get, "HTTP/1.1 200 OK\nContent-Length: 5\nConnection: close", "HTTP/1.1 200 OK\nContent-Length: 5", "{1 5} client", false, false},
		{"client closes", spec.Cookie{}, get + "\nConnection: close", "HTTP/1.1 200 OK\nContent-Length: 5", "HTTP/1.1 200 OK\nContent-Length: 5\nConnection: close", "{1 5} server", false, false},
		{"router closes", spec.Cookie{}, get, "HTTP/1.1 200 OK\nContent-Length: 0", "HTTP/1.1 200 OK\nContent-Length: 0\nConnection: close", "{0 0} server", true, false},
		{"until close", spec.Cookie{}, get, "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\nConnection: close", "{3 0}", false, false},
		{"1.0 server", spec.Cookie{}, get, "HTTP/1.0 200 OK\nContent-Length: 5", "HTTP/1.1 200 OK\nContent-Length: 5", "{1 5} client", false, false},
		{"chunked", spec.Cookie{}, get, "HTTP/1.1 200 OK\nTransfer-Encoding: chunked", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked", "{2 0} client server", false, false},
		{"chunked for 1.0", spec.Cookie{}, "GET / HTTP/1.0\nConnection: keep-alive", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked", "HTTP/1.1 200 OK\nConnection: close", "{2 0} unchunk server", false, false},
		{"kept for 1.0", spec.Cookie{}, "GET / HTTP/1.0\nConnection: keep-alive", "HTTP/1.1 200 OK\nContent-Length: 1", "HTTP/1.1 200 OK\nContent-Length: 1\nConnection: keep-alive", "{1 1} client server", false, false},
		{"204 loses a length", spec.Cookie{}, get, "HTTP/1.1 204 No Content\nContent-Length: 0", "HTTP/1.1 204 No Content", "{0 0} client server", false, false},
		{"304 keeps its length", spec.Cookie{}, get, "HTTP/1.1 304 Not Modified\nContent-Length: 9", "HTTP/1.1 304 Not Modified\nContent-Length: 9", "{0 0} client server", false, false},
		{"HEAD", spec.Cookie{}, "HEAD / HTTP/1.1\nHost: x", "HTTP/1.1 200 OK\nContent-Length: 9", "HTTP/1.1 200 OK\nContent-Length: 9", "{0 0} client server", false, false},
		{"upgrade", spec.Cookie{}, get + "\nConnection: upgrade\nUpgrade: websocket", "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket", "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket", "{0 0} client server tunnel", false, false},
		{"upgrade that nobody asked for", spec.Cookie{}, get, "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket", "", "", false, true},
		{"cookie", spec.Cookie{Name: "w"}, get, "HTTP/1.1 200 OK\nContent-Length: 0\nSet-Cookie: w=mine\nset-cookie: W=other", "HTTP/1.1 200 OK\nContent-Length: 0\nset-cookie: W=other\nSet-Cookie: w=s1; path=/", "{0 0} client server", false, false},
		{"cookie known", spec.Cookie{Name: "w"}, get + "\nCookie: w=s2", "HTTP/1.1 200 OK\nContent-Length: 0", "HTTP/1.1 200 OK\nContent-Length: 0", "{0 0} client server", false, false},
		{"cookie with everything", spec.Cookie{Name: "w", NoCache: true, HTTPOnly: true, Secure: true}, get, "HTTP/1.1 200 OK\nContent-Length: 0\nETag: x", "HTTP/1.1 200 OK\nContent-Length: 0\nETag: x\nSet-Cookie: w=s1; path=/; HttpOnly; Secure\nCache-Control: private", "{0 0} client server", false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var r Request
			r.Begin(frontend(t, test.cookie), parse(t, http1.Request, test.request), &client)
			r.Next()
			head, reply, err := r.Reply(nil, parse(t, http1.Response, test.in), test.closing)
			if test.bad {
				if !errors.Is(err, ErrUpgrade) {
					t.Errorf("got %v, want %v", err, ErrUpgrade)
				}
				return
			}
			facts := fmt.Sprintf("{%d %d}", reply.Body.Framing, reply.Body.Length)
			for _, fact := range []struct {
				is   bool
				word string
			}{{reply.Unchunk, " unchunk"}, {reply.KeepClient, " client"}, {reply.KeepServer, " server"}, {reply.Tunnel, " tunnel"}} {
				if fact.is {
					facts += fact.word
				}
			}
			if want := crlf(test.want); err != nil || string(head) != want || facts != test.facts {
				t.Errorf("got %v %s\n%s\nwant %s\n%s", err, facts, head, test.facts, want)
			}
		})
	}
}

// TestRedispatchedCookie: a client that was tied to a server which could not be reached is tied to the next.
func TestRedispatchedCookie(t *testing.T) {
	t.Parallel()
	var r Request
	r.Begin(frontend(t, spec.Cookie{Name: "w"}), parse(t, http1.Request, "GET / HTTP/1.1\nHost: x\nCookie: w=s2"), &client)
	r.Next()
	second := r.Next()
	head, _, err := r.Reply(nil, parse(t, http1.Response, "HTTP/1.1 200 OK\nContent-Length: 0"), false)
	if err != nil || second.Spec.Name != "s1" || !strings.Contains(string(head), "Set-Cookie: w=s1; path=/\r\n") {
		t.Errorf("%v, server %s, head\n%s", err, second.Spec.Name, head)
	}
}

func TestAllocatesNothing(t *testing.T) {
	f := frontend(t, spec.Cookie{Name: "w", Indirect: true, NoCache: true})
	request := []byte(crlf("GET /index.html HTTP/1.1\nHost: example.org\nAccept: */*\nCookie: a=1; w=nobody\nConnection: keep-alive\nX-Forwarded-For: 1.1.1.1"))
	response := []byte(crlf("HTTP/1.1 200 OK\nContent-Length: 5\nETag: x\nSet-Cookie: session=1"))
	var r Request
	var h http1.Head
	out := make([]byte, 0, 4096)
	allocs := testing.AllocsPerRun(100, func() {
		h.Reset(http1.Request)
		if _, err := h.Parse(request); err != nil {
			t.Fatal(err)
		}
		r.Begin(f, &h, &client)
		r.Next()
		h.Reset(http1.Response)
		if _, err := h.Parse(response); err != nil {
			t.Fatal(err)
		}
		var err error
		if out, _, err = r.Reply(out[:0], &h, false); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations an exchange, want none", allocs)
	}
}
