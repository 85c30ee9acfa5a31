package pool

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// judged runs a pool with a backend of n servers that are judged, in the time of synctest.
func judged(t *testing.T, n int, want spec.Backend, life func(p *Pool, b *Backend)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := New(zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = p.Run(ctx); close(done) }()
		want.Name = "web"
		for i := range n {
			want.Servers = append(want.Servers, spec.Server{
				Name: string(rune('a' + i)), Address: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:80", i+1)), Weight: 1,
			})
		}
		life(p, p.Set(want))
		cancel()
		<-done
	})
}

// turn is the index of the server that a request without a cookie goes to, -1: none; try that of one which is tried.
func turn(b *Backend) int {
	s := b.Next(&Ticket{})
	if s != nil {
		s.End()
	}
	return slices.Index(b.servers, s)
}

func try(b *Backend) int { return slices.Index(b.servers, b.trial()) }

// statuses of all servers.
func statuses(p *Pool) string {
	synctest.Wait() // what has been told to Run has been done
	var all []string
	for _, s := range p.Servers() {
		all = append(all, s.Status)
	}
	return strings.Join(all, ", ")
}

func TestEjection(t *testing.T) {
	t.Parallel()
	passive := spec.Passive{Limit: 3, Layer7: true, Ejection: 10 * time.Second, MaxEjection: 25 * time.Second, MaxEjected: 50}
	judged(t, 2, spec.Backend{Passive: passive}, func(p *Pool, b *Backend) {
		expect := func(when, want string) {
			t.Helper()
			if got := statuses(p); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		fail := func(n int) {
			for range n {
				b.Server(0).Responded(500)
			}
		}
		fail(2)
		b.Server(0).Responded(200)
		fail(1)
		b.Server(0).Failed()
		b.Server(0).Responded(404) // the client's fault
		b.Server(0).Responded(501)
		fail(2)
		expect("never three in a row", "no check, no check")
		b.Server(0).ConnectFailed(nil)
		expect("three in a row", "DOWN (ejected), no check")
		if got := turn(b); got != 1 {
			t.Errorf("chosen %d, want the other", got)
		}
		if p.Servers()[0].Ejected != true || try(b) != -1 {
			t.Error("it is tried before its time is over")
		}
		for range 3 {
			b.Server(1).Failed()
		}
		expect("the last usable server stays", "DOWN (ejected), no check")
		time.Sleep(10*time.Second + 1) // in the time of synctest
		expect("its time is over", "DOWN (ejected), no check")
		if first, second := try(b), try(b); first != 0 || second != -1 {
			t.Errorf("tries %d and %d, want one a second", first, second)
		}
		fail(1)
		expect("the try has failed", "DOWN (ejected), no check")
		time.Sleep(19 * time.Second) // in the time of synctest
		if try(b) != -1 {
			t.Error("the second time is not twice as long")
		}
		time.Sleep(time.Second + 1) // in the time of synctest
		if try(b) != 0 {
			t.Error("not tried after the second time")
		}
		b.Server(0).Responded(200)
		expect("the try has succeeded", "no check, no check")
		fail(3)
		time.Sleep(25*time.Second - 1) // in the time of synctest
		if try(b) != -1 {
			t.Error("the third time is not longer")
		}
		time.Sleep(2 * time.Nanosecond) // in the time of synctest
		if try(b) != 0 {
			t.Error("the third time is longer than the longest")
		}
		b.Server(0).Responded(204)
		expect("back again", "no check, no check")
		time.Sleep(time.Minute) // in the time of synctest; it behaves
		fail(3)
		statuses(p)
		time.Sleep(10*time.Second + 1) // in the time of synctest
		if try(b) != 0 {
			t.Error("what was long ago is not forgotten")
		}
		if _, err := p.SetServer("web", "a", Change{Health: Up}, "op"); err != nil {
			t.Fatal(err)
		}
		expect("made up by an operator", "no check, no check")
		if try(b) != -1 {
			t.Error("one that is back is tried")
		}
		fail(3)
		expect("out", "DOWN (ejected), no check")
		none := b.Spec
		none.Passive = spec.Passive{}
		p.Set(none)
		expect("not judged any more", "no check, no check")
	})
}

// TestTriesAgainstTheOperator: a server that is out is tried only where the operator lets it have requests at all.
func TestTriesAgainstTheOperator(t *testing.T) {
	t.Parallel()
	passive := spec.Passive{Limit: 1, Ejection: 10 * time.Second, MaxEjection: time.Minute, MaxEjected: 50}
	for name, c := range map[string]Change{
		"maint": {Admin: new(spec.AdminMaint)}, "drain": {Admin: new(spec.AdminDrain)}, "weight 0": {Weight: new(0)},
	} {
		for _, when := range []string{"before", "after"} {
			judged(t, 3, spec.Backend{Passive: passive}, func(p *Pool, b *Backend) {
				set := func() {
					if _, err := p.SetServer("web", "a", c, "op"); err != nil {
						t.Fatal(err)
					}
				}
				b.Server(0).ConnectFailed(nil)
				statuses(p)
				if when == "before" {
					set()
				}
				time.Sleep(11 * time.Second) // in the time of synctest
				if when == "after" {
					set()
				}
				got := statuses(p)
				if n := try(b); n != -1 || strings.Contains(got, "ejected") || b.Server(0).named.Load() != (name != "maint") {
					t.Errorf("%s %s its time: tries %d; %s", name, when, n, got)
				}
			})
		}
	}
	judged(t, 2, spec.Backend{Passive: passive}, func(p *Pool, b *Backend) {
		b.Server(0).ConnectFailed(nil)
		statuses(p)
		time.Sleep(11 * time.Second) // in the time of synctest
		b.Server(1).Limit.Store(9)
		ticket := Ticket{Named: b.Server(1), Tries: true}
		if s := b.Next(&ticket); s != b.Server(1) {
			t.Errorf("who has a server tries %s", s.Spec.Name)
		}
		b.Server(1).End()
		ticket = Ticket{Tries: true}
		if s := b.Next(&ticket); s != b.Server(0) {
			t.Errorf("who has none is sent to %s", s.Spec.Name)
		}
		b.Server(0).End()
	})
}

// TestTriesOfBackups: a backup that is out is not tried while nobody needs it.
func TestTriesOfBackups(t *testing.T) {
	t.Parallel()
	judged(t, 3, spec.Backend{Passive: spec.Passive{Limit: 1, Ejection: time.Second, MaxEjection: time.Minute, MaxEjected: 50}}, func(p *Pool, b *Backend) {
		want := b.Spec
		want.Servers = slices.Clone(want.Servers)
		want.Servers[0].Backup, want.Servers[1].Backup = true, true
		b = p.Set(want)
		b.Server(0).ConnectFailed(nil)
		statuses(p)
		time.Sleep(2 * time.Second) // in the time of synctest
		if n := try(b); n != -1 {
			t.Errorf("server %d is tried", n)
		}
		if _, err := p.SetServer("web", "c", Change{Health: Down}, "op"); err != nil {
			t.Fatal(err)
		}
		if n := try(b); n != 0 {
			t.Errorf("tries %d when backups are needed", n)
		}
	})
}

// TestLongEjections: however often in a row, never shorter than before.
func TestLongEjections(t *testing.T) {
	t.Parallel()
	judged(t, 2, spec.Backend{Passive: spec.Passive{Limit: 1, Ejection: time.Hour, MaxEjection: 24 * time.Hour, MaxEjected: 50}}, func(p *Pool, b *Backend) {
		before := time.Duration(0)
		for range 64 {
			b.Server(0).ConnectFailed(nil)
			statuses(p)
			p.mu.Lock()
			out := b.Server(0).lastOut
			p.mu.Unlock()
			if out < before || out > 24*time.Hour {
				t.Fatalf("out for %v after %v", out, before)
			}
			before = out
			time.Sleep(out + time.Second) // in the time of synctest
			statuses(p)
		}
	})
}

// TestWantIsNoFault: without descriptors no server can be connected to, and none is taken out for that.
func TestWantIsNoFault(t *testing.T) {
	t.Parallel()
	judged(t, 2, spec.Backend{Passive: spec.Passive{Limit: 1, Ejection: time.Hour, MaxEjection: time.Hour, MaxEjected: 100}}, func(p *Pool, b *Backend) {
		b.Server(0).ConnectFailed(os.NewSyscallError("socket", syscall.EMFILE))
		if got := statuses(p); got != "no check, no check" || p.Servers()[0].ConnectErrors != 1 {
			t.Errorf("%s, %d errors counted", got, p.Servers()[0].ConnectErrors)
		}
		b.Server(0).ConnectFailed(os.NewSyscallError("connect", syscall.ECONNREFUSED))
		if got := statuses(p); got != "DOWN (ejected), no check" {
			t.Errorf("refused: %s", got)
		}
	})
}

// TestMostEjected: no more servers are out at a time than may be.
func TestMostEjected(t *testing.T) {
	t.Parallel()
	for most, want := range map[int]int{0: 1, 40: 2, 100: 4} {
		judged(t, 5, spec.Backend{Passive: spec.Passive{Limit: 1, Ejection: time.Hour, MaxEjection: time.Hour, MaxEjected: most}}, func(p *Pool, b *Backend) {
			for i := range 5 {
				b.Server(i).ConnectFailed(nil)
			}
			if got := strings.Count(statuses(p), "ejected"); got != want {
				t.Errorf("at most %d %%: %d of 5 are out, want %d", most, got, want)
			}
		})
	}
}

// TestOnError: HAProxy's ways to deal with errors, for which a server needs a check.
func TestOnError(t *testing.T) {
	t.Parallel()
	// Nobody accepts here: the check that an error brings about has no result of its own while the test looks.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	servers := two().Servers
	for i := range servers {
		servers[i].Address = netip.MustParseAddrPort(silent.Addr().String())
	}
	for action, want := range map[spec.OnError]string{
		spec.OnErrorFastCheck:   "UP",
		spec.OnErrorFailCheck:   "UP 2/3",
		spec.OnErrorSuddenDeath: "UP 1/3",
		spec.OnErrorMarkDown:    "DOWN",
	} {
		check := spec.Check{Kind: spec.CheckHTTP, HTTP: spec.HTTPCheck{Method: "GET", Path: "/"}, Interval: time.Hour, Timeout: time.Hour,
			Rise: 2, Fall: 3, Initial: spec.InitialFullyUp}
		p := New(zap.NewNop())
		b := p.Set(spec.Backend{Name: "web", Check: check, Passive: spec.Passive{Limit: 1, OnError: action}, Servers: servers})
		b.Server(0).Failed() // layer 7 is not looked at
		b.Server(0).ConnectFailed(nil)
		p.judge(<-p.bad)
		if got := p.Servers()[0].Status; got != want {
			t.Errorf("action %d: %s, want %s", action, got, want)
		}
		p.Remove("web")
		p.checks.Wait()
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	want := two()
	want.Panic = 60
	b := p.Set(want)
	turns := func() (text string) {
		for range 4 {
			text += fmt.Sprint(turn(b))
		}
		return text
	}
	down := func(name string, h Health) {
		if _, err := p.SetServer("web", name, Change{Health: h}, "op"); err != nil {
			t.Fatal(err)
		}
	}
	if b.Panics() || !strings.Contains(turns(), "0") {
		t.Error("panics without a reason")
	}
	down("a", Down)
	if got := turns(); !b.Panics() || !strings.Contains(got, "0") || !strings.Contains(got, "1") || b.ByCookie([]byte("a")) == nil {
		t.Errorf("half of the servers is less than 60 %%: panics %t, turns %s", b.Panics(), got)
	}
	ask(t, p, Change{Admin: new(spec.AdminMaint)})
	if got := turns(); b.Panics() || got != "1111" || b.ByCookie([]byte("a")) != nil {
		t.Errorf("one in maintenance does not count: panics %t, turns %s", b.Panics(), got)
	}
	ask(t, p, Change{Admin: new(spec.AdminReady), Health: Up})
	if got := turns(); b.Panics() || !strings.Contains(got, "0") {
		t.Errorf("all are back: panics %t, turns %s", b.Panics(), got)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	var b budget
	r := spec.Retries{BudgetPercent: 20, BudgetFloor: 1}
	now, requests := time.Unix(1000, 0), uint64(0)
	spend := func() (n int) {
		for b.spend(&r, requests, now) {
			n++
		}
		return n
	}
	steps := []struct {
		passed time.Duration
		came   uint64
		want   int
	}{
		{0, 0, 10},                      // what the floor has saved at the start
		{time.Second, 0, 1},             // the floor
		{time.Second, 100, 21},          // a share of the requests
		{time.Hour, 360_000, 10 + 200},  // of the last ten seconds alone
		{100 * time.Millisecond, 0, 0},  // nothing is left
		{time.Second, 0, 1},             // but parts add up
		{10 * time.Second, 50, 10 + 10}, // and so on
	}
	for i, step := range steps {
		now, requests = now.Add(step.passed), requests+step.came
		if got := spend(); got != step.want {
			t.Errorf("step %d: %d may be sent again, want %d", i, got, step.want)
		}
	}
	r = spec.Retries{}
	if b = (budget{}); b.spend(&r, 1<<40, now) {
		t.Error("no budget: one may be sent again")
	}
}
