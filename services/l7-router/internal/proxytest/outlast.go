package proxytest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// usage is what a process holds.
type usage struct {
	Goroutines  int    `json:"goroutines"`
	Descriptors int    `json:"descriptors"`
	Heap        uint64 `json:"heap_bytes"`
}

func used(t testing.TB) usage {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// flat waits until no more is held than before, but for what comes and goes with the load.
func flat(t testing.TB, before usage) (now usage) {
	t.Helper()
	const goroutines, descriptors, heap = 64, 64, 16 << 20
	for until := time.Now().Add(patience); ; runtime.Gosched() {
		now = used(t)
		if now.Goroutines <= before.Goroutines+goroutines && now.Descriptors <= before.Descriptors+descriptors && now.Heap <= before.Heap+heap {
			return now
		}
		if time.Now().After(until) {
			t.Errorf("held %+v before and %+v now", before, now)
			return now
		}
	}
}

// crowd is a load of clients that ask for / and want 200 and the name of a server; half of them make a connection for each
// request. pace is the pause of each between two requests, as a share of the time that one takes; 0: none.
type crowd struct {
	requests atomic.Int64
	failures chan error
	stop     atomic.Bool
	group    sync.WaitGroup
}

func newCrowd(address string, clients int, pace float64) *crowd {
	c := &crowd{failures: make(chan error, clients)}
	for i := range clients {
		c.group.Go(func() {
			if err := c.ask(address, i%2 == 0, pace); err != nil {
				c.failures <- fmt.Errorf("client %d: %w", i, err)
			}
		})
	}
	return c
}

func (c *crowd) ask(address string, keep bool, pace float64) error {
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	var in *bufio.Reader
	for !c.stop.Load() {
		begin := time.Now()
		if conn == nil {
			var err error
			if conn, err = net.Dial("tcp", address); err != nil {
				return err
			}
			in = bufio.NewReader(conn)
		}
		_ = conn.SetDeadline(begin.Add(patience))
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != 200 || len(body) != 1 || r.Close {
			return fmt.Errorf("%d %q close %t: %w", r.StatusCode, body, r.Close, err)
		}
		if !keep {
			_ = conn.Close()
			conn = nil
		}
		c.requests.Add(1)
		if pace > 0 {
			timer := time.NewTimer(time.Duration(pace * float64(time.Since(begin))))
			<-timer.C
		}
	}
	return nil
}

// more waits until n more requests have been answered.
func (c *crowd) more(n int64) {
	for enough := c.requests.Load() + n; c.requests.Load() < enough && len(c.failures) == 0; {
		runtime.Gosched()
	}
}

func (c *crowd) end(t testing.TB) {
	t.Helper()
	c.stop.Store(true)
	c.group.Wait()
	close(c.failures)
	for err := range c.failures {
		t.Error(err)
	}
}

// testHundredChanges changes the state a hundred times beneath a load, a tunnel and a download, which outlast it all. It is
// not parallel: it counts what the process holds.
func testHundredChanges(t *testing.T, open Open) {
	const changes = 100
	ticks := make(chan struct{})
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/tunnel":
				conn, buffer, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = buffer.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				_ = buffer.Flush()
				_, _ = io.Copy(conn, buffer) // an echo
			case "/download":
				w.Header().Set("Content-Length", fmt.Sprint(changes*1024))
				for range changes {
					<-ticks
					_, _ = w.Write(make([]byte, 1024))
					w.(http.Flusher).Flush()
				}
			default:
				_, _ = io.WriteString(w, name)
			}
		}
	}
	var servers []spec.Server
	for _, name := range []string{"a", "b", "c"} {
		servers = append(servers, server(name, addressOf(origin(t, handler(name)))))
	}
	w := newWorld(t, open, backend("web", servers[:2]...))
	w.want.Backends[0].Check = spec.Check{Kind: spec.CheckTCP, Interval: 20 * time.Millisecond, Timeout: patience, Rise: 1, Fall: 3, Initial: spec.InitialFullyUp}
	w.apply()
	address := w.address()

	tunnel := dial(t, address)
	tunnel.send("GET /tunnel HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if r, err := http.ReadResponse(tunnel.in, nil); err != nil || r.StatusCode != 101 {
		t.Fatalf("tunnel: %v %v", r, err)
	}
	download := dial(t, address)
	download.send("GET /download HTTP/1.1\r\nHost: x\r\n\r\n")
	load := newCrowd(address, 8, 0)
	load.more(100)
	before := used(t)

	for i := range changes {
		load.more(4)
		web := &w.want.Backends[0]
		front := &w.want.Frontends[0]
		switch i % 8 {
		case 0:
			web.Servers = []spec.Server{servers[i%3], servers[(i+1)%3]}
		case 1:
			web.Servers = append([]spec.Server(nil), web.Servers...)
			web.Servers[0].Weight = 1 + i
		case 2:
			web.Check.Interval = time.Duration(20+i) * time.Millisecond
		case 3:
			front.Name = fmt.Sprintf("main%d", i) // the address moves to another frontend
		case 4:
			front.MaxConn = 1000 + i
		case 5:
			web.Cookie = spec.Cookie{Name: fmt.Sprintf("srv%d", i)}
		case 6:
			w.want.Backends = append(w.want.Backends[:1], backend("other", servers[2]))
		case 7:
			w.want.Backends = w.want.Backends[:1]
			admin := []spec.Admin{spec.AdminDrain, spec.AdminMaint, spec.AdminReady}[i/8%3]
			w.set(web.Servers[1].Name, pool.Change{Admin: new(spec.AdminReady), Weight: new(1 + i)}) // before the other one goes
			w.set(web.Servers[0].Name, pool.Change{Admin: &admin})
		}
		w.apply()
		ticks <- struct{}{}
		tunnel.send("x")
		if b, err := tunnel.in.ReadByte(); err != nil || b != 'x' {
			t.Fatalf("the tunnel after change %d: %q %v", i, b, err)
		}
	}
	load.more(100)
	flat(t, before)
	load.end(t)
	if r, body := download.response("GET"); r.StatusCode != 200 || len(body) != changes*1024 {
		t.Errorf("the download: %d, %d bytes", r.StatusCode, len(body))
	}
}

// Soak holds a router under 70 % of the load that it can take, for as long as told, while the checks of its servers fail at
// random, never all at once. Nothing may fail and nothing may leak. It prints what it has seen as a line of JSON.
func Soak(t *testing.T, open Open, long time.Duration) {
	const names, clients = "abc", 16
	var sick [len(names)]atomic.Bool
	var injected atomic.Int64
	var servers []spec.Server
	for i, name := range names {
		s := origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				if sick[i].Load() {
					injected.Add(1)
					w.WriteHeader(503)
				}
				return
			}
			_, _ = io.WriteString(w, string(name))
		})
		servers = append(servers, server(string(name), addressOf(s)))
	}
	w := newWorld(t, open, backend("web", servers...))
	w.want.Backends[0].Check = spec.Check{
		Kind: spec.CheckHTTP, HTTP: spec.HTTPCheck{Method: "GET", Path: "/healthz"},
		Interval: 50 * time.Millisecond, Fast: 10 * time.Millisecond, Timeout: patience, Rise: 2, Fall: 3,
	}
	w.apply()
	// A client that pauses for 3/7 of the time that its request took is busy for 70 % of the time.
	load := newCrowd(w.address(), clients, 3.0/7)
	load.more(1000)
	before := used(t)
	peak := before
	begin, begun := time.Now(), load.requests.Load()
	turn := time.NewTicker(100 * time.Millisecond)
	defer turn.Stop()
	for n := 0; time.Since(begin) < long && len(load.failures) == 0; n++ {
		<-turn.C
		which := rand.N(len(names))
		for i := range sick {
			sick[i].Store(i == which && rand.N(3) > 0)
		}
		if n%50 == 0 {
			now := used(t)
			peak = usage{max(peak.Goroutines, now.Goroutines), max(peak.Descriptors, now.Descriptors), max(peak.Heap, now.Heap)}
		}
	}
	took, requests := time.Since(begin), load.requests.Load()-begun
	after := flat(t, before)
	failed := len(load.failures)
	load.end(t)
	var down uint64
	for _, s := range w.pool.Servers() {
		down += s.TimesDown
	}
	if injected.Load() == 0 || down == 0 {
		t.Errorf("%d failed checks, %d times a server went down: nothing was tested", injected.Load(), down)
	}
	line, err := json.Marshal(map[string]any{
		"soak": "router", "seconds": took.Seconds(), "requests": requests, "rps": float64(requests) / took.Seconds(),
		"failed": failed, "injected_check_failures": injected.Load(), "times_down": down, "before": before, "peak": peak, "after": after,
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line))
}
