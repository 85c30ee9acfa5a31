package proxytest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// originEnv makes the process of a test an origin, by its name.
const originEnv = "TWOTIER_TEST_ORIGIN"

// Main runs the tests of a driver, or is the server process of one of them. It is the TestMain of each driver.
func Main(m *testing.M) {
	if name := os.Getenv(originEnv); name != "" {
		serveOrigin(name)
		return
	}
	os.Exit(m.Run())
}

// serveOrigin answers every request with its name, but what a path /hang-NAME of its own asks for never. It tells its
// address, and what has begun, a line each, on the standard output.
func serveOrigin(name string) {
	var mu sync.Mutex
	tell := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(line)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/hang-") {
			if r.Method == "POST" { // its body has begun
				_, _ = io.ReadFull(r.Body, make([]byte, 1))
			}
			tell(r.Method + " " + r.URL.Path)
			if r.URL.Path == "/hang-"+name {
				select {}
			}
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, name)
	}))
	tell(s.Listener.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test
}

// process is a server in a process of its own.
type process struct {
	*exec.Cmd
	address string
	lines   chan string // what it tells; closed when it has ended
}

func startOrigin(t *testing.T, name string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0]), lines: make(chan string, 1000)}
	p.Env = append(os.Environ(), originEnv+"="+name)
	p.Stderr = os.Stderr
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			p.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = p.Process.Kill() // it may have ended
		<-read
		_ = p.Wait()
	})
	p.address = p.line(t)
	return p
}

// line is the next that it tells.
func (p *process) line(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		if ok {
			return line
		}
		t.Fatal("the server has ended")
	case <-time.After(patience):
		t.Fatal("the server says nothing")
	}
	return ""
}

// testServerProcessKilled: the process of the server that clients are tied to is killed under load. No GET fails, not even
// those that it had begun to answer. A POST of whose body a part was sent fails once, and nobody else gets it.
func testServerProcessKilled(t *testing.T, open Open) {
	t.Parallel()
	a, b := startOrigin(t, "a"), startOrigin(t, "b")
	web := backend("web", server("a", a.address), server("b", b.address))
	web.Cookie = spec.Cookie{Name: "srv"}
	w := newWorld(t, open, web)

	// Ten GETs and a POST that a has begun.
	const hanging = 10
	var gets [hanging]*client
	for i := range gets {
		gets[i] = dial(t, w.address())
		gets[i].send("GET /hang-a HTTP/1.1\r\nHost: x\r\nCookie: srv=a\r\n\r\n")
		if got := a.line(t); got != "GET /hang-a" {
			t.Fatalf("a tells %q", got)
		}
	}
	post := dial(t, w.address())
	post.send("POST /hang-a HTTP/1.1\r\nHost: x\r\nCookie: srv=a\r\nContent-Length: 100000\r\n\r\npart")
	if got := a.line(t); got != "POST /hang-a" {
		t.Fatalf("a tells %q", got)
	}
	// And a load of others.
	const clients = 8
	var requests [clients]atomic.Int64
	var stop atomic.Bool
	var group sync.WaitGroup
	for i := range clients {
		c := dial(t, w.address())
		group.Go(func() {
			for cookie := "a"; !stop.Load(); requests[i].Add(1) {
				c.send("GET / HTTP/1.1\r\nHost: x\r\nCookie: srv=" + cookie + "\r\n\r\n")
				r, body, err := c.read("GET")
				if err != nil || r.StatusCode != 200 || body != "a" && body != "b" {
					t.Errorf("client %d, request %d: %v %q %v", i, requests[i].Load(), r, body, err)
					return
				}
				cookie = body
			}
		})
	}
	advance := func(n int64) {
		for i := range requests {
			for enough := requests[i].Load() + n; requests[i].Load() < enough && !t.Failed(); {
				runtime.Gosched()
			}
		}
	}
	advance(20)
	if err := a.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	advance(20)
	stop.Store(true)
	group.Wait()
	for i, c := range gets {
		if r, body := c.response("GET"); r.StatusCode != 200 || body != "b" || r.Header.Get("Set-Cookie") == "" {
			t.Errorf("GET %d under way: %d %q, want it answered by b, with b's cookie", i, r.StatusCode, body)
		}
	}
	if r, _, err := post.read("POST"); err != nil || r.StatusCode != 502 {
		t.Errorf("the POST: %v %v, want one 502", r, err)
	}
	w.stop()
	begun := map[string]int{}
	_ = b.Process.Kill()
	for line := range b.lines {
		begun[line]++
	}
	if begun["POST /hang-a"] != 0 || begun["GET /hang-a"] != hanging {
		t.Errorf("b got %v, want the GETs alone", begun)
	}
	for line := range a.lines {
		t.Errorf("a got %s twice", line)
	}
}

// testRetries: what goes to another server, and what does not.
func testRetries(t *testing.T, open Open) {
	t.Parallel()
	const limit = 3
	const silence = 50 * time.Millisecond // of which the end is waited for
	none, all := spec.DefaultRetries(), spec.DefaultRetries()
	none.BudgetPercent, none.BudgetFloor = 0, 0
	all.On |= spec.FailureTimeout
	all.Statuses = []int{500, 503}
	few := all
	few.Attempts = 1
	tests := []struct {
		name    string
		retries spec.Retries
		request string
		answer  string // of the first two servers; empty: they hang up, "silent": they do nothing
		want    int
		asked   int // servers that got it
	}{
		{"hangs up", spec.DefaultRetries(), "GET", "", 200, limit},
		{"hangs up, and it is a HEAD", spec.DefaultRetries(), "HEAD", "", 200, limit},
		{"hangs up, and it changes something", spec.DefaultRetries(), "PUT", "", 502, 1},
		{"hangs up, and it is a POST", spec.DefaultRetries(), "POST", "", 502, 1},
		{"hangs up within the head", spec.DefaultRetries(), "GET", "HTTP/1.1 200", 200, limit},
		{"no response", spec.DefaultRetries(), "GET", "nonsense\r\n\r\n", 200, limit},
		{"an interim response has been passed on", spec.DefaultRetries(), "GET", "HTTP/1.1 103 Early Hints\r\n\r\n", 502, 1},
		{"no budget", none, "GET", "", 502, 1},
		{"500 is passed on", spec.DefaultRetries(), "GET", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, 1},
		{"500 is not", all, "GET", "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", 200, limit},
		{"500 is, for a POST", all, "POST", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, 1},
		{"once at most", few, "GET", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 503, 2},
		{"silent", all, "GET", "silent", 200, limit},
		{"silent, as by default", spec.DefaultRetries(), "GET", "silent", 504, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			release := newTell()
			var asked atomic.Int64
			web := backend("web")
			for i := range limit {
				web.Servers = append(web.Servers, server(string(rune('a'+i)), rawOrigin(t, func(c *net.TCPConn) {
					r, err := http.ReadRequest(bufio.NewReader(c))
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					asked.Add(1)
					switch {
					case i == limit-1:
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					case test.answer == "silent":
						<-release.c
					default:
						_, _ = io.WriteString(c, test.answer)
					}
				})))
			}
			t.Cleanup(release.now) // before the servers, which wait for it
			web.Retries = &test.retries
			if test.answer == "silent" {
				web.TimeoutServer = silence
			}
			w := newWorld(t, open, web)
			c := dial(t, w.address())
			c.send(test.request + " / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
			r, _, err := c.read(test.request)
			for err == nil && r.StatusCode < 200 {
				r, _, err = c.read(test.request)
			}
			if err != nil || r.StatusCode != test.want || int(asked.Load()) != test.asked {
				t.Errorf("%v %v from %d servers, want %d from %d", r, err, asked.Load(), test.want, test.asked)
			}
		})
	}
}

// testPassive: a server that answers with errors is taken out, without a check and without a request that fails twice.
func testPassive(t *testing.T, open Open) {
	t.Parallel()
	bad := origin(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	web := backend("web", server("bad", addressOf(bad)), server("good", addressOf(origin(t, named("good")))))
	web.Passive = spec.Passive{Limit: 3, Layer7: true, Ejection: patience, MaxEjection: patience, MaxEjected: 50}
	w := newWorld(t, open, web)
	c := dial(t, w.address())
	for n := 0; !w.pool.Servers()[0].Ejected; n++ {
		if n > 1000 {
			t.Fatalf("still in: %+v", w.pool.Servers()[0])
		}
		c.get("/")
	}
	for range 10 {
		if r, body := c.get("/"); r.StatusCode != 200 || body != "good" {
			t.Errorf("%d %q after it was taken out", r.StatusCode, body)
		}
	}
}
