package pool

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"go.uber.org/zap"
)

// checked is a pool with one checked server. answer gives the check that waits its status, and returns when that has been
// counted: when the next check, which waits in its turn, has come.
func checked(t *testing.T) (p *Pool, want spec.Backend, answer func(status int)) {
	t.Helper()
	come, next, stopped := make(chan struct{}), make(chan int), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case come <- struct{}{}:
		case <-stopped:
			return
		}
		select {
		case status := <-next:
			w.WriteHeader(status)
		case <-stopped:
		}
	}))
	begin := sync.OnceFunc(func() { <-come })
	answer = func(status int) {
		begin()
		next <- status
		<-come
	}
	p = New(zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = p.Run(ctx) })
	t.Cleanup(func() { cancel(); close(stopped); group.Wait(); s.Close() })
	want = spec.Backend{
		Name:    "web",
		Servers: []spec.Server{{Name: "s1", Address: netip.MustParseAddrPort(s.Listener.Addr().String()), Weight: 1, Cookie: "s1"}},
		Check: spec.Check{
			Kind: spec.CheckHTTP, HTTP: spec.HTTPCheck{Method: "GET", Path: "/healthz"},
			Interval: time.Millisecond, Timeout: time.Minute, Rise: 2, Fall: 3,
		},
	}
	return p, want, answer
}

// silent is the address of a server that takes connections and never answers.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // nothing is written to it
	return netip.MustParseAddrPort(listener.Addr().String())
}

func TestHealth(t *testing.T) {
	t.Parallel()
	p, want, answer := checked(t)
	b := p.Set(want)
	if s := b.Next(new(Ticket)); s == nil {
		t.Fatal("before the first check: nobody, want the server")
	}
	steps := []struct {
		answer int
		down   bool
	}{
		{500, true},  // the first check decides at once
		{200, true},  // rise is 2
		{200, false}, // two in a row
		{500, false}, // fall is 3
		{404, false},
		{200, false}, // good again: the count starts anew
		{500, false},
		{500, false},
		{500, true},
		{200, true},
		{200, false},
	}
	for i, step := range steps {
		answer(step.answer)
		got := p.Servers()[0]
		chosen, named := b.Next(new(Ticket)), b.ByCookie([]byte("s1"))
		if got.Down != step.down || (chosen == nil) != step.down || (named == nil) != step.down {
			t.Errorf("step %d, answer %d: down %t chosen %v by cookie %v, want down %t; %s", i, step.answer, got.Down, chosen, named, step.down, got.LastCheck)
		}
		if i == 0 && (!strings.HasPrefix(got.LastCheck, "GET /healthz: ") || !strings.Contains(got.LastCheck, "500")) {
			t.Errorf("last check: %q", got.LastCheck)
		}
	}
}

// TestHealthSurvives: a new desired state must not bring a dead server back for a moment.
func TestHealthSurvives(t *testing.T) {
	t.Parallel()
	p, want, answer := checked(t)
	b := p.Set(want)
	b.Next(new(Ticket)).ConnectFailed(nil)
	answer(500)
	changed := want
	changed.Servers = []spec.Server{
		{Name: "new", Address: silent(t), Weight: 1},
		{Name: "renamed", Address: want.Servers[0].Address, Weight: 7, Cookie: "other"},
	}
	id, first := b.Server(0).ID(), b.Server(0)
	b = p.Set(changed)
	if b.Server(1).ID() != id || b.Server(0).ID() == id {
		t.Errorf("IDs %d, %d, want another and %d", b.Server(0).ID(), b.Server(1).ID(), id)
	}
	if b.Server(1).Keeps() || !b.Server(0).Keeps() {
		t.Errorf("idle connections to the dead server are kept: %t; to the new one: %t", b.Server(1).Keeps(), b.Server(0).Keeps())
	}
	old := p.Servers()[1]
	if !old.Down || old.Active != 1 || old.Total != 1 || old.ConnectErrors != 1 || old.Server.Weight != 7 {
		t.Errorf("same address and check: %+v, want it down, with its counters and the new weight", old)
	}
	if s := b.Next(new(Ticket)); s != b.Server(0) {
		t.Errorf("chosen %v, want the new server", s)
	}
	answer(200)
	answer(200)
	if p.Servers()[1].Down {
		t.Error("it does not come back: its checks have been lost")
	}
	if !first.Keeps() {
		t.Error("idle connections to a living server are not kept")
	}
	changed.Check = spec.Check{}
	p.Set(changed)
	if s := p.Servers()[1]; s.Down || s.Checked || s.Total != 1 || s.Status != "no check" {
		t.Errorf("no check any more: %+v, want it up, with its counters", s)
	}
	p.Remove("web")
	if left := p.Servers(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if first.Keeps() {
		t.Error("idle connections to a server that is wanted no more are kept")
	}
}

func TestTurnsGoOn(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	want := spec.Backend{Name: "web", Servers: []spec.Server{
		{Name: "a", Address: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 1},
		{Name: "b", Address: netip.MustParseAddrPort("192.0.2.2:80"), Weight: 1},
	}}
	b := p.Set(want)
	next := func() string { return b.Next(new(Ticket)).Spec.Name }
	got := next()
	want.TimeoutServer = time.Second
	b = p.Set(want)
	if got += next() + next(); got != "aba" {
		t.Errorf("turns %s across a change, want aba", got)
	}
}

// fakeConn is an idle connection that remembers whether it was closed.
type fakeConn struct{ dead, closed bool }

func (c *fakeConn) Alive() bool  { return !c.dead }
func (c *fakeConn) Close() error { c.closed = true; return nil }

func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = p.Run(ctx); close(done) }()
		b := p.Set(spec.Backend{Name: "web", Servers: []spec.Server{{Name: "a", Address: netip.MustParseAddrPort("192.0.2.1:80")}}})
		s := b.Server(0)
		if c := s.Idle(); c != nil {
			t.Fatalf("got %v out of nothing", c)
		}
		old, dead, fresh := &fakeConn{}, &fakeConn{dead: true}, &fakeConn{}
		s.Keep(old)
		time.Sleep(IdleTimeout / 2) // in the time of synctest
		s.Keep(fresh)
		s.Keep(dead)
		if c := s.Idle(); c != Conn(fresh) || !dead.closed {
			t.Errorf("got %p, want the one used last that is alive; dead one closed %t", c, dead.closed)
		}
		s.Keep(fresh)
		time.Sleep(IdleTimeout * 3 / 4) // in the time of synctest
		synctest.Wait()
		if !old.closed || fresh.closed {
			t.Errorf("after a while: old closed %t, fresh closed %t, want only the old one", old.closed, fresh.closed)
		}
		many := make([]*fakeConn, MaxIdle+1)
		for i := range many {
			many[i] = &fakeConn{}
			s.Keep(many[i])
		}
		if !many[MaxIdle].closed || many[0].closed {
			t.Error("the bound of idle connections does not hold")
		}
		p.Remove("web")
		late := &fakeConn{}
		s.Keep(late)
		if !fresh.closed || !late.closed {
			t.Errorf("removed server: kept closed %t, late closed %t, want both", fresh.closed, late.closed)
		}
		cancel()
		<-done
	})
}

// TestUnmadeChecks: without descriptors no check can be made, and no server goes down for that.
func TestUnmadeChecks(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	p.stopped = true // the checks are made here
	want := two()
	want.Check = spec.Check{Kind: spec.CheckTCP, Interval: time.Hour, Timeout: 1, Rise: 2, Fall: 3}
	b := p.Set(want)
	for range 5 {
		p.observe(t.Context(), b.Server(0).live, check.Result{Code: check.SocketError, Reason: "too many open files", Unmade: true})
	}
	if s := p.Servers()[0]; s.Status != "UP 1/3" || s.FailedChecks != 0 || s.Check.Code != check.SocketError {
		t.Errorf("%s, %d failed, %+v; want it as it was", s.Status, s.FailedChecks, s.Check)
	}
	p.observe(t.Context(), b.Server(0).live, check.Result{Code: check.Layer4Refused})
	if s := p.Servers()[0]; s.Status != "DOWN" {
		t.Errorf("refused: %s", s.Status)
	}
}
