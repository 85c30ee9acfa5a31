package proxytest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// gauge is a server that counts the requests under way on it, and those that came when as many were as are allowed.
type gauge struct {
	active, allowed, served, tooMany atomic.Int64
}

func (g *gauge) handler(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if g.active.Add(1) > g.allowed.Load() {
			g.tooMany.Add(1)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		<-time.After(time.Millisecond) // so that requests meet; nothing hangs on how long it is
		g.served.Add(1)
		g.active.Add(-1) // before the answer, at which the router may send another
		_, _ = io.WriteString(w, name)
	}
}

// queued is how many requests wait for a server, "": for any.
func (w *world) queued(server string) int {
	for _, q := range w.pool.Queues() {
		if q.Server == server {
			return q.Length
		}
	}
	return 0
}

// testServerMaxConn: 64 clients send 1000 requests to two servers whose limits change meanwhile; no server ever gets more at
// a time than it may.
func testServerMaxConn(t *testing.T, open Open) {
	t.Parallel()
	var gauges [2]gauge
	b := backend("web")
	b.Cookie.Name = "SRV"
	limits := [2]int{3, 2}
	for i, name := range []string{"a", "b"} {
		s := server(name, addressOf(origin(t, gauges[i].handler(name))))
		s.MaxConn = limits[i]
		gauges[i].allowed.Store(int64(s.MaxConn))
		b.Servers = append(b.Servers, s)
	}
	w := newWorld(t, open, b)
	const requests = 1000
	var left, failed atomic.Int64
	left.Store(requests)
	var clients sync.WaitGroup
	for i := range 64 {
		clients.Go(func() {
			c, err := net.Dial("tcp", w.address())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			one := &client{TCPConn: c.(*net.TCPConn), t: t, in: bufio.NewReader(c)}
			_ = c.SetDeadline(time.Now().Add(patience))
			cookie := ""
			if i%2 == 0 { // half of them have a server of their own
				cookie = "Cookie: SRV=a\r\n"
			}
			for left.Add(-1) >= 0 {
				if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", cookie); err != nil {
					failed.Add(1)
					return
				}
				if r, _, err := one.read("GET"); err != nil || r.StatusCode != 200 {
					failed.Add(1)
					return
				}
			}
		})
	}
	set := func(i, limit int) {
		if limit > limits[i] {
			gauges[i].allowed.Store(int64(limit))
		}
		w.want.Backends[0].Servers = slices.Clone(w.want.Backends[0].Servers) // what is in force is not to change by itself
		w.want.Backends[0].Servers[i].MaxConn = limit
		w.apply()
		if limit < limits[i] {
			// Those under way may end, those on their way to the server too.
			until(t, "the requests above the new limit end", func() bool { return w.pool.Servers()[i].Active <= int64(limit) })
			gauges[i].allowed.Store(int64(limit))
		}
		limits[i] = limit
	}
	for _, change := range [][2]int{{0, 5}, {1, 1}, {0, 1}, {1, 4}, {0, 3}} {
		served := gauges[0].served.Load() + gauges[1].served.Load()
		set(change[0], change[1])
		until(t, "requests go on", func() bool {
			return left.Load() <= 0 || gauges[0].served.Load()+gauges[1].served.Load() >= served+100
		})
	}
	clients.Wait()
	if n := gauges[0].tooMany.Load() + gauges[1].tooMany.Load(); n > 0 || failed.Load() > 0 {
		t.Errorf("%d requests came to a server that had as many as it may, %d failed, want none", n, failed.Load())
	}
	if n := gauges[0].served.Load() + gauges[1].served.Load(); n != requests {
		t.Errorf("%d requests were served, want %d", n, requests)
	}
	for _, s := range w.pool.Servers() {
		until(t, "all slots are free again", func() bool { return w.pool.Servers()[0].Active+w.pool.Servers()[1].Active == 0 })
		if s.Queued != 0 {
			t.Errorf("%s: %d wait", s.Server.Name, s.Queued)
		}
	}
	if most := w.pool.Queues()[0].Most; most < 10 {
		t.Errorf("at most %d waited: nothing was shown", most)
	}
}

// bell is a server that has one request at a time under way until it is told to answer.
type bell struct {
	come   chan string // X-Name of what has come
	answer chan struct{}
}

func newBell() *bell { return &bell{come: make(chan string, 1000), answer: make(chan struct{}, 1000)} }

func (b *bell) handler(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b.come <- r.Header.Get("X-Name")
		select {
		case <-b.answer:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, name)
	}
}

func (b *bell) next(t *testing.T) string {
	t.Helper()
	select {
	case name := <-b.come:
		return name
	case <-time.After(patience):
		t.Fatal("no request comes")
		return ""
	}
}

// lineUp sends n requests, each when the one before waits already, and returns their clients.
func lineUp(t *testing.T, w *world, queue string, n int, fields ...string) (clients []*client) {
	t.Helper()
	before := w.queued(queue)
	for i := range n {
		c := dial(t, w.address())
		c.send(fmt.Sprintf("GET / HTTP/1.1\r\nHost: x\r\nX-Name: %d\r\n%s\r\n", i, lines(fields)))
		until(t, "the request waits", func() bool { return w.queued(queue) == before+i+1 })
		clients = append(clients, c)
	}
	return clients
}

// testQueueIsFair: whoever comes first is served first, whichever loop it is on, and whichever queue it waits in.
func testQueueIsFair(t *testing.T, open Open) {
	t.Parallel()
	b := newBell()
	web := backend("web", server("a", addressOf(origin(t, b.handler("a")))))
	web.Cookie.Name = "SRV"
	web.Servers[0].MaxConn = 1
	w := newWorld(t, open, web)
	first := dial(t, w.address())
	first.send("GET / HTTP/1.1\r\nHost: x\r\nX-Name: first\r\n\r\n")
	b.next(t)
	const n = 40
	var clients []*client
	for i := range n {
		c := dial(t, w.address())
		cookie, queue := "", ""
		if i%3 == 0 {
			cookie, queue = "Cookie: SRV=a\r\n", "a"
		}
		before := w.queued(queue)
		c.send(fmt.Sprintf("GET / HTTP/1.1\r\nHost: x\r\nX-Name: %d\r\n%s\r\n", i, cookie))
		until(t, "the request waits", func() bool { return w.queued(queue) == before+1 })
		clients = append(clients, c)
	}
	// Two of them lose patience.
	for _, i := range []int{5, 6} {
		_ = clients[i].Close()
	}
	until(t, "those who hang up leave the queue", func() bool { return w.queued("")+w.queued("a") == n-2 })
	if q := w.pool.Queues(); len(q) != 2 || q[0].Oldest <= 0 || q[0].Most != 26 || q[1].Most != 14 {
		t.Errorf("queues %+v", q)
	}
	for i := range n {
		if i == 5 || i == 6 {
			continue
		}
		b.answer <- struct{}{}
		if got := b.next(t); got != fmt.Sprint(i) {
			t.Fatalf("request %s is served, it is the turn of %d", got, i)
		}
	}
	b.answer <- struct{}{}
	for i, c := range clients {
		if i == 5 || i == 6 {
			continue
		}
		if r, _ := c.response("GET"); r.StatusCode != 200 {
			t.Errorf("request %d: %d", i, r.StatusCode)
		}
	}
}

// testQueueOfADyingServer: what waits for a server that dies, or is put into maintenance, or is wanted no more, is served by
// another at once, and nobody is forgotten.
func testQueueOfADyingServer(t *testing.T, open Open) {
	t.Parallel()
	maint := spec.AdminMaint
	for name, end := range map[string]func(t *testing.T, w *world){
		"maintenance": func(t *testing.T, w *world) {
			if _, err := w.pool.SetServer("web", "a", pool.Change{Admin: &maint}, "test"); err != nil {
				t.Fatal(err)
			}
		},
		"down": func(t *testing.T, w *world) {
			if _, err := w.pool.SetServer("web", "a", pool.Change{Health: pool.Down}, "test"); err != nil {
				t.Fatal(err)
			}
		},
		"taken away": func(_ *testing.T, w *world) {
			w.want.Backends[0].Servers = w.want.Backends[0].Servers[1:]
			w.apply()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newBell()
			web := backend("web", server("a", addressOf(origin(t, a.handler("a")))), server("b", addressOf(origin(t, named("b")))))
			web.Cookie.Name = "SRV"
			web.Servers[0].MaxConn, web.Servers[1].MaxConn = 1, 2
			w := newWorld(t, open, web)
			first := dial(t, w.address())
			first.send("GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=a\r\n\r\n")
			a.next(t)
			waiting := lineUp(t, w, "a", 30, "Cookie: SRV=a")
			end(t, w)
			for i, c := range waiting {
				r, body := c.response("GET")
				if r.StatusCode != 200 || body != "b" || !strings.HasPrefix(r.Header.Get("Set-Cookie"), "SRV=b;") {
					t.Fatalf("request %d that waited: %d %q, Set-Cookie %q; want b and its cookie", i, r.StatusCode, body, r.Header.Get("Set-Cookie"))
				}
			}
			a.answer <- struct{}{}
			if r, body := first.response("GET"); r.StatusCode != 200 || body != "a" {
				t.Errorf("the request under way: %d %q", r.StatusCode, body)
			}
		})
	}
}

// testNobodyIsLeft: when no server can take requests any more, those who wait are told at once, or served by a backup.
func testNobodyIsLeft(t *testing.T, open Open) {
	t.Parallel()
	for _, backup := range []bool{false, true} {
		t.Run(fmt.Sprint("backup ", backup), func(t *testing.T) {
			t.Parallel()
			a := newBell()
			web := backend("web", server("a", addressOf(origin(t, a.handler("a")))))
			web.Servers[0].MaxConn = 1
			want, status := "", 503
			if backup {
				spare := server("spare", addressOf(origin(t, named("spare"))))
				spare.Backup = true
				web.Servers = append(web.Servers, spare)
				want, status = "spare", 200
			}
			w := newWorld(t, open, web)
			dial(t, w.address()).send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			a.next(t)
			waiting := lineUp(t, w, "", 20)
			if _, err := w.pool.SetServer("web", "a", pool.Change{Health: pool.Down}, "test"); err != nil {
				t.Fatal(err)
			}
			for i, c := range waiting {
				if r, body := c.response("GET"); r.StatusCode != status || backup && body != want {
					t.Fatalf("request %d that waited: %d %q, want %d %q", i, r.StatusCode, body, status, want)
				}
			}
		})
	}
}

// testQueueUnderFire: a server with a full queue is killed under load; but for what was under way on it every request is
// answered by the other.
func testQueueUnderFire(t *testing.T, open Open) {
	t.Parallel()
	const limit, clients, each = 4, 48, 12
	var conns sync.Map
	killed := newTell()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	doomed := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-killed.c: // it does not answer any more
			case <-time.After(time.Millisecond):
				_, _ = io.WriteString(w, "doomed")
			}
		}),
		ConnState: func(c net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Store(c, true)
			}
		},
	}
	go func() { _ = doomed.Serve(listener) }() // ends with the listener
	t.Cleanup(func() { _ = doomed.Close() })
	web := backend("web", server("doomed", listener.Addr().String()), server("other", addressOf(origin(t, named("other")))))
	web.Cookie.Name = "SRV"
	web.Servers[0].MaxConn, web.Servers[1].MaxConn = limit, limit
	w := newWorld(t, open, web)
	var answered, lost, fromOther atomic.Int64
	var group sync.WaitGroup
	for range clients {
		c := dial(t, w.address())
		group.Go(func() {
			for range each {
				if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=doomed\r\n\r\n"); err != nil {
					lost.Add(1)
					return
				}
				r, body, err := c.read("GET")
				switch {
				case err != nil:
					lost.Add(1)
					return
				case r.StatusCode != 200:
					lost.Add(1)
				case body == "other":
					fromOther.Add(1)
				}
				answered.Add(1)
			}
		})
	}
	until(t, "the queue is full", func() bool { return w.queued("doomed") >= clients/2 && answered.Load() > clients })
	_ = listener.Close()
	killed.now()
	conns.Range(func(c, _ any) bool {
		_ = c.(net.Conn).(*net.TCPConn).SetLinger(0)
		_ = c.(net.Conn).Close()
		return true
	})
	group.Wait()
	if answered.Load() != clients*each || lost.Load() > limit || fromOther.Load() == 0 {
		t.Errorf("%d of %d requests were answered, %d of them not well, %d by the other server; want all, at most the %d under way, and some",
			answered.Load(), clients*each, lost.Load(), fromOther.Load(), limit)
	}
	if n := w.queued("doomed") + w.queued("other") + w.queued(""); n != 0 {
		t.Errorf("%d are stranded", n)
	}
}

// testQueueLimits: who waits too long is told so, and who would be one too many for a server goes to another.
func testQueueLimits(t *testing.T, open Open) {
	t.Parallel()
	a, b := newBell(), newBell()
	web := backend("web", server("a", addressOf(origin(t, a.handler("a")))), server("b", addressOf(origin(t, b.handler("b")))))
	web.Cookie.Name = "SRV"
	web.Servers[0].MaxConn, web.Servers[0].MaxQueue, web.Servers[1].MaxConn = 1, 2, 1
	w := newWorld(t, open, web)
	dial(t, w.address()).send("GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=a\r\n\r\n")
	a.next(t)
	lineUp(t, w, "a", 2, "Cookie: SRV=a")
	tooMany := dial(t, w.address())
	tooMany.send("GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=a\r\nX-Name: too many\r\n\r\n")
	if got := b.next(t); got != "too many" {
		t.Errorf("b gets %q", got)
	}
	b.answer <- struct{}{}
	if r, body := tooMany.response("GET"); body != "b" || !strings.HasPrefix(r.Header.Get("Set-Cookie"), "SRV=b;") {
		t.Errorf("one too many: %q, Set-Cookie %q", body, r.Header.Get("Set-Cookie"))
	}
	w.want.Backends[0].TimeoutQueue = 50 * time.Millisecond
	w.apply()
	tooMany.send("GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=b\r\n\r\n")
	b.next(t)
	late := dial(t, w.address())
	late.send("GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=b\r\n\r\n")
	if r, _ := late.response("GET"); r.StatusCode != 503 || r.Close {
		t.Errorf("waited too long: %d close %t, want 503 and the connection kept", r.StatusCode, r.Close)
	}
	if n := w.queued("b"); n != 0 {
		t.Errorf("%d still wait", n)
	}
	b.answer <- struct{}{}
	if _, body := tooMany.response("GET"); body != "b" {
		t.Errorf("the request under way: %q", body)
	}
	b.answer <- struct{}{}
	if _, body := late.get("/", "Cookie: SRV=b"); body != "b" {
		t.Errorf("the next request over the connection: %q", body)
	}
}
