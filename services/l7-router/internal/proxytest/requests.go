package proxytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

func testCookies(t *testing.T, open Open) {
	t.Parallel()
	seen := make(chan string, 100)
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Header.Get("Cookie")
			w.Header().Add("Set-Cookie", "webserver=forged; path=/")
			w.Header().Add("Set-Cookie", "session=1")
			_, _ = io.WriteString(w, name)
		}
	}
	a, b := origin(t, handler("a")), origin(t, handler("b"))
	drained := server("drained", addressOf(origin(t, handler("drained"))))
	drained.Weight = 0
	dead := server("dead", deadAddress(t))
	dead.Weight = 0
	web := backend("web", server("a", addressOf(a)), server("b", addressOf(b)), drained, dead)
	web.Cookie = spec.Cookie{Name: "webserver", Indirect: true}
	w := newWorld(t, open, web)

	tests := []struct {
		name, cookie string
		body         string // "": by turns
		set          bool
		passed       string
	}{
		{"none", "", "", true, ""},
		{"valid", "webserver=b", "b", false, ""},
		{"valid, the other", "webserver=a", "a", false, ""},
		{"among others", "x=1; webserver=b; y=2", "b", false, "x=1; y=2"},
		{"unknown", "webserver=nobody", "", true, ""},
		{"empty", "webserver=", "", true, ""},
		{"other case", "webserver=B", "", true, ""},
		{"other name", "Webserver=b", "", true, "Webserver=b"},
		{"weight 0 is honoured", "webserver=drained", "drained", false, ""},
		{"dead server", "webserver=dead", "", true, ""},
	}
	for _, test := range tests {
		var fields []string
		if test.cookie != "" {
			fields = []string{"Cookie: " + test.cookie}
		}
		r, body := dial(t, w.address()).get("/", fields...)
		if passed := <-seen; passed != test.passed {
			t.Errorf("%s: the server saw %q, want %q", test.name, passed, test.passed)
		}
		want := []string{"session=1"}
		if test.set {
			want = append(want, "webserver="+body+"; path=/")
		}
		if got := r.Header["Set-Cookie"]; fmt.Sprint(got) != fmt.Sprint(want) || r.StatusCode != 200 {
			t.Errorf("%s: %d Set-Cookie %q, want %q", test.name, r.StatusCode, got, want)
		}
		if test.body != "" && body != test.body || test.body == "" && body != "a" && body != "b" {
			t.Errorf("%s: answered by %q, want %q", test.name, body, test.body)
		}
	}
}

func testRedispatch(t *testing.T, open Open) {
	t.Parallel()
	alive := origin(t, named("alive"))
	w := newWorld(t, open, backend("web", server("dead1", deadAddress(t)), server("dead2", deadAddress(t)), server("alive", addressOf(alive))))
	c := dial(t, w.address())
	for i := range 10 {
		r, body := c.get("/")
		if r.StatusCode != 200 || body != "alive" {
			t.Fatalf("GET %d: %d %q", i, r.StatusCode, body)
		}
		c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
		if r, body := c.response("POST"); r.StatusCode != 200 || body != "alive" {
			t.Fatalf("POST %d: %d %q", i, r.StatusCode, body)
		}
	}
	failures := map[string]uint64{}
	for _, s := range w.pool.Servers() {
		failures[s.Server.Name] = s.ConnectErrors
	}
	if failures["dead1"] == 0 || failures["dead2"] == 0 || failures["alive"] != 0 {
		t.Errorf("connect errors %v, want some at dead1 and dead2 only", failures)
	}
}

// testConnectTimeout: a server that does not answer a connect is passed over.
func testConnectTimeout(t *testing.T, open Open) {
	t.Parallel()
	web := backend("web", server("deaf", deafAddress(t)), server("alive", addressOf(origin(t, named("alive")))))
	web.TimeoutConnect = 50 * time.Millisecond
	w := newWorld(t, open, web)
	c := dial(t, w.address())
	if r, body := c.get("/"); r.StatusCode != 200 || body != "alive" { // the deaf one is the first
		t.Errorf("%d %q", r.StatusCode, body)
	}
	if s := w.pool.Servers()[0]; s.ConnectErrors != 1 || s.Active != 0 {
		t.Errorf("%d connect errors, %d requests under way; want 1, 0", s.ConnectErrors, s.Active)
	}
}

// testStaleIdleConnection closes every connection after one response without saying so: the next request must not fail.
func testStaleIdleConnection(t *testing.T, open Open) {
	t.Parallel()
	address := rawOrigin(t, func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		if n, _ := c.Read(buf); n == 0 {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if n, _ := c.Read(buf); n > 0 { // the next request has been sent already: hang up on it
			_ = c.SetLinger(0)
		}
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	c := dial(t, w.address())
	for i := range 20 {
		if r, body := c.get("/"); r.StatusCode != 200 || body != "ok" {
			t.Fatalf("request %d: %d %q", i, r.StatusCode, body)
		}
	}
}

func testKeepAliveReuse(t *testing.T, open Open) {
	t.Parallel()
	var mu sync.Mutex
	connections := map[string]bool{}
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		connections[r.RemoteAddr] = true
		mu.Unlock()
		named("a")(w, r)
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(connections)
	}
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	c := dial(t, w.address())
	for range 50 {
		if r, body := c.get("/"); r.StatusCode != 200 || body != "a" || r.Close {
			t.Fatalf("%d %q close %t", r.StatusCode, body, r.Close)
		}
	}
	if n := count(); n != 1 {
		t.Errorf("50 GETs used %d connections to the server, want 1", n)
	}
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	if r, _ := c.response("POST"); r.StatusCode != 200 || r.Close {
		t.Errorf("POST: %d close %t", r.StatusCode, r.Close)
	}
	if n := count(); n != 1 {
		t.Errorf("a short POST used a connection of its own: %d connections, want 1", n)
	}
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n")
	c.send(strings.Repeat("x", 40000))
	if r, _ := c.response("POST"); r.StatusCode != 200 || r.Close {
		t.Errorf("long POST: %d close %t", r.StatusCode, r.Close)
	}
	if n := count(); n != 2 {
		t.Errorf("a POST that cannot be sent again went over a connection that had been idle: %d connections, want 2", n)
	}
}

// testPostOnStaleConnection: a POST is sent again when the server had ended its connection before it got any of it, and
// never when the server may have read it.
func testPostOnStaleConnection(t *testing.T, open Open) {
	t.Parallel()
	const post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
	for _, test := range []struct {
		name           string
		read, reset    bool // what the server does to the stale connection
		status, served int32
	}{
		{"closed before", false, false, 200, 1},
		{"read and closed", true, false, 502, 0},
		{"read and reset", true, true, 502, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var connections, served atomic.Int32
			address := rawOrigin(t, func(c *net.TCPConn) {
				if connections.Add(1) == 1 { // the one that becomes stale
					if test.read {
						_, _ = c.Read(make([]byte, 4096))
					}
					if test.reset {
						_ = c.SetLinger(0)
					}
					return
				}
				buf := make([]byte, 4096)
				n, _ := c.Read(buf)
				if strings.HasSuffix(string(buf[:n]), "\r\n\r\nhello") {
					served.Add(1)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			w := newWorld(t, open, backend("web", server("a", address)))
			stale, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			if !test.read { // until the server has closed it
				if n, err := stale.Read(make([]byte, 1)); n > 0 || err != io.EOF {
					t.Fatal(n, err)
				}
			}
			w.engine.Plant(stale.(*net.TCPConn))
			c := dial(t, w.address())
			c.send(post)
			if r, _ := c.response("POST"); int32(r.StatusCode) != test.status || served.Load() != test.served {
				t.Errorf("%d, served %d times; want %d, %d", r.StatusCode, served.Load(), test.status, test.served)
			}
		})
	}
}

func testPipelinedRequests(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	c := dial(t, w.address())
	c.send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" +
		"PUT /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ndefGET /4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"/1 ", "/2 abc", "/3 def", "/4 "} {
		if _, body := c.response("GET"); body != want {
			t.Errorf("got %q, want %q", body, want)
		}
	}
	c.expectClosed()
}

// testRefused sends what must not reach a server.
func testRefused(t *testing.T, open Open) {
	t.Parallel()
	var requests atomic.Int32
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			requests.Add(1)
		}
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	many := strings.Repeat("A: b\r\n", 101)
	tests := []struct {
		name, request string
		status        int
	}{
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"both framings", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400},
		{"space before the colon", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd", 400},
		{"folding", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400},
		{"bare LF", "GET / HTTP/1.1\nHost: x\n\n", 400},
		{"bare CR", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400},
		{"bad chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n", 400},
		{"bad later chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\nx\r\n\r\n", 400},
		{"gzip", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
		{"many fields", "GET / HTTP/1.1\r\nHost: x\r\n" + many + "\r\n", 431},
		{"large head", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("b", 70000) + "\r\n\r\n", 431},
		{"2.0", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505},
	}
	for _, test := range tests {
		c := dial(t, w.address())
		c.send(test.request)
		r, _ := c.response("GET")
		if r.StatusCode != test.status || !r.Close {
			t.Errorf("%s: %d close %t, want %d and close", test.name, r.StatusCode, r.Close, test.status)
		}
		c.expectClosed()
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("the server took %d requests, want none", n)
	}
}

func testLargeHeadIsTaken(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Echo", r.Header.Get("Long"))
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	long := strings.Repeat("x", 50000)
	c := dial(t, w.address())
	for range 2 {
		if r, _ := c.get("/", "Long: "+long); r.StatusCode != 200 || r.Header.Get("Echo") != long {
			t.Fatalf("%d, %d bytes came back", r.StatusCode, len(r.Header.Get("Echo")))
		}
	}
}

func testAnswersOfItsOwn(t *testing.T, open Open) {
	t.Parallel()
	silent := rawOrigin(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	garbage := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "SSH-2.0-nothing\r\n\r\n")
	})
	hangup := rawOrigin(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 4096)) })
	slow := backend("slow", server("s", silent))
	slow.TimeoutServer = 50 * time.Millisecond
	w := newWorld(t, open, slow, backend("garbage", server("s", garbage)), backend("hangup", server("s", hangup)), backend("dead", server("s", deadAddress(t))), backend("empty"))
	w.want.Frontends[0].DefaultBackend = ""
	for _, b := range w.want.Backends {
		w.want.Frontends[0].Rules = append(w.want.Frontends[0].Rules, spec.Rule{Condition: spec.Condition{PathPrefixes: []string{"/" + b.Name}}, Backend: b.Name})
	}
	w.apply()

	const noServer = "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n"
	if len(noServer) != 107 {
		t.Fatalf("the expected body has %d bytes, HAProxy's has 107", len(noServer))
	}
	tests := []struct {
		request, body string
		status        int
		keep          bool
	}{
		{"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", noServer, 503, true},
		{"GET /empty HTTP/1.1\r\nHost: x\r\n\r\n", noServer, 503, true},
		{"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", noServer, 503, true}, // all of the body was here
		{"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\nhello", noServer, 503, false},
		{"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", noServer, 503, false},
		{"POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", noServer, 503, false},
		{"GET /dead HTTP/1.1\r\nHost: x\r\n\r\n", noServer, 503, true},
		{"GET /dead HTTP/1.0\r\n\r\n", noServer, 503, false},
		{"POST /dead HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", noServer, 503, false},
		{"GET /garbage HTTP/1.1\r\nHost: x\r\n\r\n", "<html><body><h1>502 Bad Gateway</h1>\nThe server returned an invalid or incomplete response.\n</body></html>\n", 502, true},
		{"GET /hangup HTTP/1.1\r\nHost: x\r\n\r\n", "<html><body><h1>502 Bad Gateway</h1>\nThe server returned an invalid or incomplete response.\n</body></html>\n", 502, true},
		{"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", "<html><body><h1>504 Gateway Time-out</h1>\nThe server didn't respond in time.\n</body></html>\n", 504, true},
		{"nonsense\r\n\r\n", "<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n</body></html>\n", 400, false},
	}
	for _, test := range tests {
		c := dial(t, w.address())
		c.send(test.request)
		r, body := c.response("GET")
		if r.StatusCode != test.status || body != test.body || r.Close == test.keep || r.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%q: %d close %t %q, want %d %t %q", test.request, r.StatusCode, r.Close, body, test.status, !test.keep, test.body)
		}
		if test.keep {
			if r, _ := c.get("/nothing"); r.StatusCode != 503 {
				t.Errorf("%q: the connection does not go on: %d", test.request, r.StatusCode)
			}
		} else {
			c.expectClosed()
		}
	}
}

func testUnfinishedHeadTimesOut(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open)
	c := dial(t, w.address())
	c.get("/") // accepted, and idle under the long timeout from here on
	w.want.Frontends[0].TimeoutRequest = 50 * time.Millisecond
	w.apply()
	c.send("GET /unfinished HTTP/1.1\r\nHost:")
	r, body := c.response("GET")
	if want := "<html><body><h1>408 Request Time-out</h1>\nYour browser didn't send a complete request in time.\n</body></html>\n"; r.StatusCode != 408 || body != want || !r.Close {
		t.Errorf("%d close %t %q, want 408, close and %q", r.StatusCode, r.Close, body, want)
	}
	c.expectClosed()
}

func testUnfinishedBodyTimesOut(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, named("a"))
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	w.want.Frontends[0].TimeoutClient = 50 * time.Millisecond
	w.apply()
	c := dial(t, w.address())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
	if r, _ := c.response("POST"); r.StatusCode != 408 || !r.Close {
		t.Errorf("%d close %t, want 408 and close", r.StatusCode, r.Close)
	}
}

func testSpecialResponses(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/hints":
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(103)
			_, _ = io.WriteString(w, "after hints")
		default:
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	c := dial(t, w.address())
	c.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, body := c.response("HEAD"); r.StatusCode != 200 || r.ContentLength != 5 || body != "" {
		t.Errorf("HEAD: %d length %d %q", r.StatusCode, r.ContentLength, body)
	}
	for _, status := range []int{204, 304} {
		if r, body := c.get(fmt.Sprintf("/%d", status)); r.StatusCode != status || body != "" || r.Close {
			t.Errorf("%d: %d %q close %t", status, r.StatusCode, body, r.Close)
		}
	}
	c.send("GET /hints HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, _ := c.response("GET"); r.StatusCode != 103 || r.Header.Get("Link") == "" {
		t.Errorf("want 103 with Link first, got %d %v", r.StatusCode, r.Header)
	}
	if r, body := c.response("GET"); r.StatusCode != 200 || body != "after hints" {
		t.Errorf("after 103: %d %q", r.StatusCode, body)
	}
	if r, body := c.get("/"); r.StatusCode != 200 || body != "hello" {
		t.Errorf("the connection is out of step: %d %q", r.StatusCode, body)
	}
}

// interim is the most interim responses that are passed on.
const interim = 32

func testInterimResponsesAreBounded(t *testing.T, open Open) {
	t.Parallel()
	address := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, "HTTP/1.1 102 Processing\r\n\r\n")
		}
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	old := dial(t, w.address())
	old.send("GET / HTTP/1.0\r\n\r\n")
	if r, _ := old.response("GET"); r.StatusCode != 502 {
		t.Errorf("a client that is told of none: %d, want 502", r.StatusCode)
	}
	c := dial(t, w.address())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	got, _ := io.ReadAll(c.in)
	if n := bytes.Count(got, []byte("HTTP/1.1 102 ")); n != interim || bytes.Count(got, []byte("HTTP/1.1 502")) != 1 {
		t.Errorf("%d interim responses in %q, want %d and then 502", n, got, interim)
	}
}

func testOldClients(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			_, _ = io.WriteString(w, "hello ")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "world")
			return
		}
		_, _ = io.WriteString(w, r.Host)
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))

	c := dial(t, w.address())
	c.send("GET /chunked HTTP/1.0\r\n\r\n")
	r, body := c.response("GET")
	if r.StatusCode != 200 || body != "hello world" || len(r.TransferEncoding) > 0 {
		t.Errorf("chunks for a client of 1.0: %d %q %v", r.StatusCode, body, r.TransferEncoding)
	}

	c = dial(t, w.address())
	for range 2 {
		c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		r, body := c.response("GET")
		if body != w.address() || r.Header.Get("Connection") != "keep-alive" {
			t.Errorf("kept: Host %q Connection %q, want %q keep-alive", body, r.Header.Get("Connection"), w.address())
		}
	}
	c.send("GET / HTTP/1.0\r\nHost: example.org:81\r\n\r\n")
	if _, body := c.response("GET"); body != "example.org:81" {
		t.Errorf("Host %q, want it untouched", body)
	}
	c.expectClosed()
}

func testContinue(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(417)
			return
		}
		body, _ := io.ReadAll(r.Body) // net/http sends 100 here
		_, _ = w.Write(body)
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	c := dial(t, w.address())
	c.send("PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if r, _ := c.response("PUT"); r.StatusCode != 100 {
		t.Fatalf("want 100 before the body, got %d", r.StatusCode)
	}
	c.send("hello")
	if r, body := c.response("PUT"); r.StatusCode != 200 || body != "hello" {
		t.Errorf("%d %q", r.StatusCode, body)
	}
	c = dial(t, w.address())
	c.send("PUT /refused HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if r, _ := c.response("PUT"); r.StatusCode != 417 || !r.Close {
		t.Errorf("%d close %t, want 417 and close, because the body was never sent", r.StatusCode, r.Close)
	}
}

func testUpgrade(t *testing.T, open Open) {
	t.Parallel()
	head := make(chan string, 1)
	address := rawOrigin(t, func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		head <- string(buf[:n])
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome ")
		_, _ = io.Copy(c, c)
		_, _ = io.WriteString(c, " bye")
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	c := dial(t, w.address())
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n")
	r, err := http.ReadResponse(c.in, nil)
	if err != nil || r.StatusCode != 101 || r.Header.Get("Upgrade") != "echo" || r.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("%v %v", r, err)
	}
	if h := <-head; !strings.Contains(h, "Connection: Upgrade\r\nUpgrade: echo\r\n") {
		t.Errorf("the server saw %q", h)
	}
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go func() {
		_, _ = c.Write(payload)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c.in)
	if want := "welcome " + string(payload) + " bye"; err != nil || string(got) != want {
		t.Errorf("%d bytes %v, want %d", len(got), err, len(want))
	}
}

func testMaxConn(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, named("a"))
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	w.want.Frontends[0].MaxConn = 1
	w.apply()
	// The loop that was waiting in accept under the old limit still takes one.
	first := dial(t, w.address())
	first.get("/")
	second := dial(t, w.address())
	second.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = second.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := second.in.Peek(1); err == nil {
		t.Error("the second connection was served while the first was open")
	}
	_ = first.Close()
	_ = second.SetReadDeadline(time.Now().Add(patience))
	if r, _ := second.response("GET"); r.StatusCode != 200 {
		t.Errorf("after the first has gone: %d", r.StatusCode)
	}
}

func testGracefulStop(t *testing.T, open Open) {
	t.Parallel()
	begun, release := newTell(), newTell()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun.now()
			<-release.c
		}
		_, _ = io.WriteString(w, "whole")
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	address := w.address()
	quiet, working := dial(t, address), dial(t, address)
	quiet.get("/")
	working.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	begun.wait(t, "the request reaches the server")
	stopped := newTell()
	go func() { w.stop(); stopped.now() }()
	quiet.expectClosed()
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("still accepts")
	}
	release.now()
	if r, body := working.response("GET"); r.StatusCode != 200 || body != "whole" || !r.Close {
		t.Errorf("the request under way: %d %q close %t", r.StatusCode, body, r.Close)
	}
	stopped.wait(t, "the router stops")
	if err := w.engine.Do(context.Background(), plan.Change{Action: plan.Listen, Name: "main", Address: anyPort}); err == nil {
		t.Error("listens after it has stopped")
	}
}
