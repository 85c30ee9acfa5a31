package proxytest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// testChangeUnderLoad changes everything that can be changed beneath clients that keep their connections, and loses
// neither a request nor a connection.
func testChangeUnderLoad(t *testing.T, open Open) {
	t.Parallel()
	echo := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}
	a, b, c := origin(t, echo), origin(t, echo), origin(t, echo)
	w := newWorld(t, open, backend("web", server("a", addressOf(a)), server("b", addressOf(b))))
	address := w.address()

	const clients = 8
	var requests [clients]atomic.Int64
	var stop atomic.Bool
	failures := make(chan error, clients)
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				failures <- err
				return
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			for n := 0; !stop.Load(); n++ {
				want := fmt.Sprintf("client %d request %d", i, n)
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(want), want)
				r, err := http.ReadResponse(in, nil)
				if err != nil {
					failures <- fmt.Errorf("%s: %w", want, err)
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil || r.StatusCode != 200 || string(body) != want || r.Close {
					failures <- fmt.Errorf("%s: %d %q close %t %v", want, r.StatusCode, body, r.Close, err)
					return
				}
				requests[i].Add(1)
			}
		})
	}
	// Each change happens after every client has made another request, so that all meet it.
	advance := func() {
		var before [clients]int64
		for i := range before {
			before[i] = requests[i].Load()
		}
		for i := range before {
			for requests[i].Load() < before[i]+2 && len(failures) == 0 {
				runtime.Gosched()
			}
		}
	}
	servers := []spec.Server{server("a", addressOf(a)), server("b", addressOf(b)), server("c", addressOf(c))}
	for round := range 30 {
		advance()
		web := &w.want.Backends[0]
		web.Servers = []spec.Server{servers[round%3], servers[(round+1)%3]}
		web.Servers[0].Weight = 1 + round
		front := &w.want.Frontends[0]
		front.Rules = nil
		if round%2 == 0 {
			front.Rules = []spec.Rule{{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "posts"}}
			w.want.Backends = append(w.want.Backends[:1], backend("posts", servers[(round+2)%3]))
		} else {
			w.want.Backends = w.want.Backends[:1]
		}
		if round%3 == 0 {
			front.Name = fmt.Sprintf("main%d", round) // the address moves to another frontend
		}
		w.apply()
	}
	advance()
	stop.Store(true)
	group.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
}

func testRemovedFrontendDrains(t *testing.T, open Open) {
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
	w.want = spec.State{}
	w.apply()
	quiet.expectClosed()
	if c, err := net.Dial("tcp", address); err == nil {
		_ = c.Close()
		t.Error("still accepts")
	}
	release.now()
	if r, body := working.response("GET"); r.StatusCode != 200 || body != "whole" || !r.Close {
		t.Errorf("the request under way: %d %q close %t, want 200, whole and close", r.StatusCode, body, r.Close)
	}
	working.expectClosed()
}

func testAddressInUse(t *testing.T, open Open) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t, open)
	taken := l.Addr().(*net.TCPAddr).AddrPort()
	err = w.engine.Do(context.Background(), plan.Change{Action: plan.Listen, Name: "main", Address: taken})
	if err == nil {
		t.Fatal("bound an address that is taken")
	}
	for _, have := range w.engine.Observe().Listeners {
		if have.Address == taken {
			t.Errorf("says that it listens on %v", taken)
		}
	}
}

// testSecondRouter: another router must not share the address unnoticed.
func testSecondRouter(t *testing.T, open Open) {
	t.Parallel()
	first, second := newWorld(t, open), newWorld(t, open)
	taken := plan.Change{Action: plan.Listen, Name: "main", Address: netip.MustParseAddrPort(first.address())}
	if err := second.engine.Do(context.Background(), taken); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("bound the address of another router: %v", err)
	}
}

func testListenerLostIsBoundAgain(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, named("a"))
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	w.engine.Break()
	<-w.engine.Changed()
	if left := plan.Diff(w.want, w.engine.Observe()); len(left) != 1 || left[0].Action != plan.Listen {
		t.Errorf("to be done: %v, want one listen", left)
	}
	w.apply()
	if r, _ := dial(t, w.address()).get("/"); r.StatusCode != 200 {
		t.Errorf("%d after it was bound again", r.StatusCode)
	}
}

// testQueuedConnectionsAreServed: what the kernel has accepted and the router has not is served before the address goes.
func testQueuedConnectionsAreServed(t *testing.T, open Open) {
	t.Parallel()
	for _, how := range []string{"address given up", "stop"} {
		w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, named("a"))))))
		w.want.Frontends[0].MaxConn = 1
		w.apply()
		address := w.address()
		var clients []*client
		for i := range 5 { // the first two at most are accepted
			c := dial(t, address)
			clients = append(clients, c)
			if i == 0 {
				c.get("/")
				continue
			}
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if how == "stop" {
			w.stop()
		} else {
			listen := plan.Change{Action: plan.Close, Address: anyPort}
			if err := w.engine.Do(context.Background(), listen); err != nil {
				t.Fatal(err)
			}
		}
		for i, c := range clients[1:] {
			if r, body, err := c.read("GET"); err != nil || r.StatusCode != 200 || body != "a" || !r.Close {
				t.Errorf("%s, client %d: %v %q %v", how, i+1, r, body, err)
			}
		}
	}
}
