package pool

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// two is a backend with two servers that are not checked.
func two() spec.Backend {
	return spec.Backend{Name: "web", Servers: []spec.Server{
		{Name: "a", Address: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 1, Cookie: "a"},
		{Name: "b", Address: netip.MustParseAddrPort("192.0.2.2:80"), Weight: 1, Cookie: "b"},
	}}
}

// show tells how the first server stands, and whether requests that name no server, or this one, still reach it.
func show(p *Pool) string {
	p.mu.Lock()
	b := p.backends["web"]
	p.mu.Unlock()
	text := p.Servers()[0].Status
	turns := ""
	for range 4 {
		if b.Next(new(Ticket)) == b.Server(0) {
			turns = ", has turns"
		}
	}
	text += turns
	if b.ByCookie([]byte(b.Server(0).Spec.Cookie)) != nil {
		text += ", takes its cookie"
	}
	return text
}

func ask(t *testing.T, p *Pool, c Change) State {
	t.Helper()
	state, err := p.SetServer("web", "a", c, "op")
	if err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	return state
}

func TestSetServer(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	p := New(zap.New(core))
	p.Set(two())
	var cut []uint64
	p.OnShutdown(func(id uint64) { cut = append(cut, id) })
	id := p.backends["web"].Server(0).ID()
	ready, drain, maint := new(spec.AdminReady), new(spec.AdminDrain), new(spec.AdminMaint)
	for _, step := range []struct {
		change Change
		want   string
	}{
		{Change{Admin: drain}, "DRAIN, takes its cookie"},
		{Change{Admin: maint}, "MAINT"},
		{Change{Admin: ready}, "no check, has turns, takes its cookie"},
		{Change{Health: Down}, "DOWN"},
		{Change{Health: Stopping}, "NOLB, takes its cookie"},
		{Change{Health: Up}, "no check, has turns, takes its cookie"},
		{Change{Weight: new(0)}, "no check, takes its cookie"},
		{Change{Weight: new(256)}, "no check, has turns, takes its cookie"},
		{Change{ResetWeight: true, Admin: drain, ShutdownSessions: true}, "DRAIN, takes its cookie"},
	} {
		ask(t, p, step.change)
		if got := show(p); got != step.want {
			t.Errorf("%v: got %s, want %s", step.change, got, step.want)
		}
	}
	if len(cut) != 1 || cut[0] != id {
		t.Errorf("sessions cut of %v, want of %d", cut, id)
	}
	if s := p.Servers()[0]; s.Weight != 1 || s.TimesDown != 2 || s.Changes != 9 {
		t.Errorf("in the end: %+v", s)
	}
	audit := logs.FilterMessage("server set").All()
	if len(audit) != 9 || audit[8].ContextMap()["subject"] != "op" || audit[8].ContextMap()["asked"] != "admin drain, desired weight, shutdown sessions" {
		t.Errorf("log: %v", audit)
	}
	for _, wrong := range []struct {
		server string
		change Change
		want   error
	}{
		{"nobody", Change{}, ErrUnknown},
		{"a", Change{Weight: new(257)}, ErrInvalid},
		{"a", Change{Weight: new(1), ResetWeight: true}, ErrInvalid},
		{"a", Change{Health: 9}, ErrInvalid},
		{"a", Change{Admin: new(spec.Admin(9))}, ErrInvalid},
		{"a", Change{Checks: new(false), Admin: ready}, ErrNoCheck},
	} {
		if _, err := p.SetServer("web", wrong.server, wrong.change, "op"); !errors.Is(err, wrong.want) {
			t.Errorf("%s: %v: got %v, want %v", wrong.server, wrong.change, err, wrong.want)
		}
	}
	if got := show(p); !strings.HasPrefix(got, "DRAIN") {
		t.Errorf("what is refused has an effect: %s", got)
	}
}

// TestSetServerAndDesiredState: what was asked for at run time stays until desired state says something new.
func TestSetServerAndDesiredState(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	want := two()
	p.Set(want)
	ask(t, p, Change{Admin: new(spec.AdminMaint), Weight: new(7)})
	expect := func(when, status string, weight int) {
		t.Helper()
		p.Set(want)
		if s := p.Servers()[0]; s.Status != status || s.Weight != weight {
			t.Errorf("%s: %s weight %d, want %s weight %d", when, s.Status, s.Weight, status, weight)
		}
	}
	want.Check = spec.Check{Kind: spec.CheckTCP, Rise: 1, Fall: 1}
	expect("another check", "MAINT", 7)
	want.Servers[0].Name, want.Servers[0].Cookie = "renamed", "other"
	expect("another name", "MAINT", 7)
	want.Servers[0].Address = netip.MustParseAddrPort("192.0.2.3:80")
	expect("another address", "MAINT", 7)
	want.Servers[0].Weight = 2
	expect("another desired weight", "MAINT", 2)
	want.Servers[0].Admin = spec.AdminDrain
	expect("another desired admin state", "DRAIN", 2)
	if _, err := p.SetServer("web", "renamed", Change{Admin: new(spec.AdminReady)}, "op"); err != nil {
		t.Fatal(err)
	}
	want.Check = spec.Check{}
	expect("ready against desired state", "no check", 2)
}

// TestStatesOutlastTheProcess: HAProxy forgets them at each reload, and starts dead servers as living.
func TestStatesOutlastTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "servers.json")
	want := two()
	want.Check = spec.Check{Kind: spec.CheckTCP, Interval: 1 << 40, Timeout: 1, Rise: 2, Fall: 3}
	process := func(life func(*Pool)) {
		p := Open(zap.NewNop(), path)
		ctx, cancel := context.WithCancel(context.Background())
		var group sync.WaitGroup
		group.Go(func() { _ = p.Run(ctx) })
		life(p)
		cancel()
		group.Wait()
	}
	process(func(p *Pool) {
		p.Set(want)
		ask(t, p, Change{Admin: new(spec.AdminDrain), Weight: new(9), Checks: new(false)})
		if _, err := p.SetServer("web", "b", Change{Health: Down}, "op"); err != nil {
			t.Fatal(err)
		}
	})
	process(func(p *Pool) { // in which another backend comes first, and ours not at all
		other := two()
		other.Name = "other"
		p.Set(other)
	})
	process(func(p *Pool) {
		p.Set(want)
		a, b := p.Servers()[0], p.Servers()[1]
		if a.Status != "DRAIN" || a.Weight != 9 || a.ChecksOn {
			t.Errorf("a: %+v", a)
		}
		if b.Status != "DOWN 1/2" || !b.ChecksOn {
			t.Errorf("b: %+v", b)
		}
		ask(t, p, Change{Admin: new(spec.AdminReady), ResetWeight: true, Checks: new(true)})
		if _, err := p.SetServer("web", "b", Change{Health: Up}, "op"); err != nil {
			t.Fatal(err)
		}
	})
	process(func(p *Pool) {
		p.Set(want)
		if a, b := p.Servers()[0], p.Servers()[1]; a.Status != "UP 1/3" || a.Weight != 1 || b.Status != "UP 1/3" {
			t.Errorf("set back: %+v %+v", a, b)
		}
	})
	if err := os.WriteFile(path, []byte("not json"), 0o600); err != nil {
		t.Fatal(err)
	}
	process(func(p *Pool) {
		p.Set(want)
		if a := p.Servers()[0]; a.Status != "UP 1/3" {
			t.Errorf("with a broken file: %+v", a)
		}
	})
}

func TestChanges(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	want := two()
	p.Set(want)
	all, changed := p.Changes(0)
	if !all.Complete || len(all.Servers) != 2 {
		t.Fatalf("at first: %+v", all)
	}
	if now, _ := p.Changes(all.Version); now.Complete || len(now.Servers) != 0 {
		t.Errorf("nothing new: %+v", now)
	}
	for range 3 {
		ask(t, p, Change{Admin: new(spec.AdminDrain)})
		ask(t, p, Change{Admin: new(spec.AdminReady)})
	}
	<-changed
	late, changed := p.Changes(all.Version)
	if late.Complete || len(late.Servers) != 1 || late.Servers[0].Status != "no check" || late.Servers[0].Changes != 6 {
		t.Errorf("late: %+v, want the newest state of one server and the count of what was missed", late)
	}
	want.Servers = want.Servers[1:]
	p.Set(want)
	<-changed
	if now, _ := p.Changes(late.Version); !now.Complete || len(now.Servers) != 1 || now.Servers[0].Server.Name != "b" {
		t.Errorf("a server is gone: %+v", now)
	}
}

// TestRecordIsACopy: what is written down is read without the lock.
func TestRecordIsACopy(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	b := p.Set(two())
	ask(t, p, Change{Admin: new(spec.AdminDrain), Weight: new(5)})
	r, _ := b.Server(0).recorded()
	ask(t, p, Change{Admin: new(spec.AdminMaint), Weight: new(7)})
	if *r.Admin != spec.AdminDrain || *r.Weight != 5 {
		t.Errorf("a change afterwards shows: admin %v, weight %d", *r.Admin, *r.Weight)
	}
}

// TestBackFromMaintenance: a server that is to be checked again is one that nobody has looked at, in whatever order both are
// asked for.
func TestBackFromMaintenance(t *testing.T) {
	t.Parallel()
	p := New(zap.NewNop())
	want := two()
	want.Check = spec.Check{Kind: spec.CheckTCP, Interval: 1 << 40, Timeout: 1, Rise: 2, Fall: 3}
	p.Set(want)
	ask(t, p, Change{Admin: new(spec.AdminMaint), Checks: new(false)})
	if s := ask(t, p, Change{Admin: new(spec.AdminReady), Checks: new(true)}); s.Status != "UP 1/3" {
		t.Errorf("ready and checked again: %s, want UP 1/3", s.Status)
	}
	p.Remove("web")
	p.checks.Wait()
}
