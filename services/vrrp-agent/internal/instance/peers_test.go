package instance

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// member is VI_1 on one of two agents that know each other.
func member(node string, priority uint8) spec.Local {
	l := fast(priority, 30*time.Millisecond)
	l.Node = node
	l.Peers = []spec.Peer{{Node: map[string]string{"haproxy": "haproxy2", "haproxy2": "haproxy"}[node]}}
	return l
}

// pair is two agents that have found each other, haproxy the master, on a network of their own and the control network.
func pair(t *testing.T) (l *lan, a, b *node) {
	t.Helper()
	l = newLAN()
	l.talk = true
	a, b = l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
	for n, address := range map[*node]string{a: "10.99.0.22/24", b: "10.99.0.128/24"} {
		n.more = []nic.Card{{Index: 3, Name: "eth1", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix(address)}}}
	}
	a.start(t, member("haproxy", 105))
	b.start(t, member("haproxy2", 99))
	pass(3 * time.Second)
	held(t, "both started", a, b)
	l.take()
	return l, a, b
}

// held checks that one holds the address and the other does not.
func held(t *testing.T, what string, holds, not *node) {
	t.Helper()
	if got, rest := len(holds.set.Instances()[0].Held), len(not.set.Instances()[0].Held); got != 1 || rest != 0 {
		t.Errorf("%s: %s; %s", what, holds.print(), not.print())
	}
}

// owners goes through the journal and returns the longest time with two holders and with none.
func owners(t *testing.T, journal string) (two, none time.Duration) {
	t.Helper()
	holding, since := 1, time.Duration(0)
	for line := range strings.Lines(journal) {
		f := strings.Fields(line)
		at, err := time.ParseDuration(f[0] + "s")
		if err != nil {
			t.Fatal(err)
		}
		switch f[2] {
		case "add":
			if holding == 0 {
				none = max(none, at-since)
			}
			holding, since = holding+1, at
		case "remove", "lapse":
			if holding == 2 {
				two = max(two, at-since)
			}
			holding, since = holding-1, at
		}
	}
	return two, none
}

// everything cuts all ways between the two but the one through etcd.
func everything(l *lan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = func(netip.Addr, netip.Addr) bool { return true }
}

// TestWitness: a master that nobody hears, but that answers through etcd, stays the only one.
func TestWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		l.etcd, l.etcdTakes, l.posts = true, 20*time.Millisecond, 0
		pass(10 * time.Second)
		if l.posts != 0 {
			t.Errorf("%d words through etcd while all is well", l.posts)
		}
		everything(l)
		pass(time.Minute)
		held(t, "cut", a, b)
		if i := b.set.Instances()[0]; !i.Unheard || i.Witnessed < 100 || i.Transitions != 1 {
			t.Errorf("unheard %v, witnessed %d: %+v", i.Unheard, i.Witnessed, i.History)
		}
		l.mu.Lock()
		posts := l.posts
		l.posts, l.journal = 0, nil
		l.mu.Unlock()
		if posts > 2*60*6 { // a question and an answer, five times a second
			t.Errorf("%d words through etcd", posts)
		}

		// It dies: what it has said last vouches for it for a second.
		a.die()
		begin := time.Since(l.begin)
		pass(2 * time.Second)
		if got := len(b.set.Instances()[0].Held); got != 1 {
			t.Errorf("died: %s", b.print())
		}
		first, _, _ := strings.Cut(grep(l.take(), "haproxy2 add"), " ")
		if at, err := time.ParseDuration(first + "s"); err != nil || at-begin > postGrace+200*time.Millisecond {
			t.Errorf("taken over after %v %v", at-begin, err)
		}
		// Nobody answers it, and it asks ever more rarely.
		l.mu.Lock()
		l.posts = 0
		l.mu.Unlock()
		pass(10 * time.Minute)
		if l.posts > 80 {
			t.Errorf("%d words to a dead peer in ten minutes", l.posts)
		}
		a.leave()
		b.leave()
	})
}

// TestSlowWitness: an etcd that is too slow to prevent a second master makes one of the two give way.
func TestSlowWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		l.etcd, l.etcdTakes = true, 100*time.Millisecond
		everything(l)
		pass(5 * time.Second)
		held(t, "cut", a, b)
		if two, _ := owners(t, l.take()); two == 0 || two > time.Second {
			t.Errorf("two owners for %v", two)
		}
		a.leave()
		b.leave()
	})
}

// TestWithoutWitness: an etcd that is away costs no time.
func TestWithoutWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.die()
		begin := time.Since(l.begin)
		pass(time.Second)
		first, _, _ := strings.Cut(grep(l.take(), "haproxy2 add"), " ")
		at, err := time.ParseDuration(first + "s")
		if took := at - begin; err != nil || took > 110*time.Millisecond {
			t.Errorf("taken over after %v %v", took, err)
		}
		a.leave()
		b.leave()
	})
}

// control tells whether it is an address of the control network.
func control(a netip.Addr) bool { return a.As4()[0] == 10 }

// TestPartitions: as long as there is any way between the two, there is one owner.
func TestPartitions(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(a, b netip.Addr) bool{
		"multicast":                func(a, b netip.Addr) bool { return b == packet.Group(false) },
		"multicast, one direction": func(a, b netip.Addr) bool { return b == packet.Group(false) && a.String() == "192.168.60.22" },
		"the network, one direction": func(a, b netip.Addr) bool {
			return b == packet.Group(false) && a.String() == "192.168.60.22" || a.String() == "192.168.60.22" && b.String() == "192.168.60.128"
		},
		"the network":         func(a, b netip.Addr) bool { return !control(a) || !control(b) },
		"the control network": func(a, b netip.Addr) bool { return control(a) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l, a, b := pair(t)
				l.mu.Lock()
				l.cut = cut
				l.mu.Unlock()
				pass(10 * time.Second)
				held(t, "cut", a, b)
				i := b.set.Instances()[0]
				alarm := strings.HasPrefix(name, "the network")
				if i.Unheard != alarm || alarm != (i.Witnessed > 10) {
					t.Errorf("unheard %v, witnessed %d", i.Unheard, i.Witnessed)
				}
				l.mu.Lock()
				l.cut = nil
				l.mu.Unlock()
				pass(time.Second)
				held(t, "healed", a, b)
				if got := b.set.Instances()[0]; got.Unheard || got.Transitions != 1 || a.set.Instances()[0].Transitions != 2 {
					t.Errorf("after the end: %+v; %s", got, a.print())
				}
				a.die() // while nothing is wrong with the network: it costs no time
				begin := time.Since(l.begin).Seconds()
				l.take()
				pass(time.Second)
				if j := grep(l.take(), "haproxy2 add"); j == "" {
					t.Error("the backup does not take over from a dead master")
				} else if two, _ := time.ParseDuration(strings.Fields(j)[0] + "s"); two.Seconds()-begin > 0.12 {
					t.Errorf("took over %v after %v", j, begin)
				}
				a.leave()
				b.leave()
			})
		})
	}
}

// TestLateIsNotDeaf: a master that was held up is asked for its adverts, but nobody was deaf to them. One who is gets
// them by unicast, also when the master was late just before.
func TestLateIsNotDeaf(t *testing.T) {
	t.Parallel()
	for _, witness := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, a, b := pair(t)
			l.etcd, l.etcdTakes = witness, 200*time.Millisecond
			late := func() {
				frozen := a.freeze()
				pass(80 * time.Millisecond) // nobody takes over before 90 ms
				a.thaw(frozen)
			}
			for n := range 50 {
				late()
				pass(time.Second + time.Duration(n)*time.Millisecond)
			}
			held(t, "late", a, b)
			if deaf := l.warnings.FilterMessage(deafMessage); deaf.Len() != 0 || a.set.Instances()[0].Transitions != 2 {
				t.Errorf("through etcd too: %v: %v; %s", witness, deaf.All(), a.print())
			}

			l.mu.Lock()
			l.cut = func(_, b netip.Addr) bool { return b == packet.Group(false) }
			l.mu.Unlock()
			late()
			pass(500 * time.Millisecond)
			if deaf := l.warnings.FilterMessage(deafMessage); deaf.Len() != 1 {
				t.Errorf("multicast cut: %v", deaf.All())
			}
			if i := b.set.Instances()[0]; i.Unheard {
				t.Errorf("no adverts by unicast: %+v", i)
			}
			held(t, "multicast cut", a, b)
			a.leave()
			b.leave()
		})
	}
}

// TestAllCut: without any way both are master; with the first one that comes back there is one, before VRRP can tell.
func TestAllCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		l.mu.Lock()
		l.cut = func(netip.Addr, netip.Addr) bool { return true }
		l.mu.Unlock()
		pass(time.Second)
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (no advert for 90ms)")
		l.mu.Lock()
		l.cut = func(a, _ netip.Addr) bool { return !control(a) }
		l.mu.Unlock()
		pass(askPause + 30*time.Millisecond)
		held(t, "the control network is back", a, b)
		expect(t, b.print(), "haproxy2: VI_1 backup [] (node haproxy is master with priority 105)")
		pass(10 * time.Second)
		held(t, "the control network alone", a, b)
		a.leave()
		b.leave()
	})
}

// TestStrangers: what does not come from a member of the instance, or is not fresh, is of no account.
func TestStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		stranger := member("stranger", 120)
		c := l.join(t, "stranger", "192.168.60.200/24")
		stranger.Peers = []spec.Peer{{Node: "haproxy2", Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.128")}}}
		stranger.Preempt = false
		c.start(t, stranger)
		pass(2 * time.Second)
		if agents := b.set.Instances()[0].Agents; len(agents) != 1 || agents[0].Node != "haproxy" || !agents[0].Owner {
			t.Errorf("agents: %+v", agents)
		}
		held(t, "a stranger asks", a, b)
		c.leave()
		a.leave()
		b.leave()
	})
}

func handover(n *node, to string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return n.set.Handover(ctx, "VI_1", to, false)
}

// TestHandover there and back, each without a moment without an owner, and with both only for as long as it takes to
// say so.
func TestHandover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		gapless := func(what string) {
			t.Helper()
			if two, none := owners(t, l.take()); none > 0 || two > 5*time.Millisecond {
				t.Errorf("%s: nobody for %v, both for %v", what, none, two)
			}
		}
		if node, err := handover(a, ""); node != "haproxy2" || err != nil {
			t.Fatalf("got %q %v", node, err)
		}
		synctest.Wait()
		held(t, "handed over", b, a)
		expect(t, a.print()+"\n"+b.print(), "haproxy: VI_1 backup [] (handed over to node haproxy2)\n"+
			"haproxy2: VI_1 master [192.168.60.78] (node haproxy hands over)")
		pass(time.Minute)
		held(t, "a minute later", b, a)
		gapless("handed over")
		if _, err := handover(a, ""); !errors.Is(err, ErrNotMaster) {
			t.Errorf("from a backup: %v", err)
		}
		if _, err := handover(b, "haproxy2"); !errors.Is(err, ErrSelf) {
			t.Errorf("to itself: %v", err)
		}
		if _, err := handover(b, "nobody"); !errors.Is(err, ErrNotMember) {
			t.Errorf("to nobody: %v", err)
		}
		if node, err := handover(b, "haproxy"); node != "haproxy" || err != nil {
			t.Fatalf("got %q %v", node, err)
		}
		pass(time.Minute)
		held(t, "handed back", a, b)
		gapless("handed back")

		if kept, err := a.set.Drain(t.Context(), true); len(kept) > 0 || err != nil {
			t.Errorf("drain: %v %v", kept, err)
		}
		pass(time.Minute)
		held(t, "drained", b, a)
		gapless("drained")
		if kept, err := b.set.Drain(t.Context(), true); len(kept) != 1 || err != nil {
			t.Errorf("drain of the last one: %v %v", kept, err)
		}
		if kept, err := b.set.Drain(t.Context(), false); len(kept) > 0 || err != nil {
			t.Errorf("end of its drain: %v %v", kept, err)
		}
		held(t, "nobody is left to take over", b, a)
		if _, err := a.set.Drain(t.Context(), false); err != nil {
			t.Error(err)
		}
		pass(5 * time.Second)
		held(t, "the end of the drain", a, b)
		gapless("the end of the drain")

		a.leave()
		pass(time.Second)
		if got := b.set.Instances()[0]; len(got.Held) != 1 {
			t.Errorf("stopped: %s", b.print())
		}
		gapless("stopped")
		a = l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, member("haproxy", 105))
		pass(5 * time.Second)
		held(t, "started again", a, b)
		gapless("started again")
		a.leave()
		b.leave()
	})
}

// TestTakes: only who is ready, was heard of late, and has asked what an offer can echo is offered anything.
func TestTakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a    agent
		want bool
	}{
		{agent{ready: true, number: 1, seen: time.Now()}, true},
		{agent{ready: true, seen: time.Now()}, false}, // it has only answered
		{agent{number: 1, seen: time.Now()}, false},
		{agent{ready: true, number: 1, seen: time.Now().Add(-2 * agentMemory)}, false},
	} {
		if got := tt.a.takes(); got != tt.want {
			t.Errorf("%+v: %t", tt.a, got)
		}
	}
}

// TestHandoverToNewLife: who was killed and is there again is offered the addresses by a number of its former life, and takes them
// all the same. One who cannot take them says so.
func TestHandoverToNewLife(t *testing.T) {
	t.Parallel()
	for wait := 10 * time.Millisecond; wait <= 2*helloPause; wait += 95 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			l, a, b := pair(t)
			b.die()
			b.leave()
			b = l.join(t, "haproxy2", "192.168.60.128/24")
			b.start(t, member("haproxy2", 99))
			pass(wait)
			l.take()
			if node, err := handover(a, ""); node != "haproxy2" || err != nil {
				t.Errorf("%v after its start: got %q %v", wait, node, err)
			}
			if two, none := owners(t, l.take()); none > 0 || two > 5*time.Millisecond {
				t.Errorf("%v after its start: nobody for %v, both for %v", wait, none, two)
			}
			a.leave()
			b.leave()
		})
	}
}

// TestSlowHandover: the kernel of the one that takes over is busy for longer than a backup waits for an advert. Somebody
// has the address all the time, and when it takes too long it stays where it is.
func TestSlowHandover(t *testing.T) {
	t.Parallel()
	for busy, moves := range map[time.Duration]bool{offerSure - 20*time.Millisecond: true, offerMost + 20*time.Millisecond: false} {
		synctest.Test(t, func(t *testing.T) {
			l, a, b := pair(t)
			b.change(func() { b.busy = true })
			time.AfterFunc(busy, func() { b.change(func() { b.busy = false }) })
			if _, err := handover(a, ""); moves != (err == nil) {
				t.Errorf("busy for %v: %v", busy, err)
			}
			pass(5 * time.Second)
			if moves {
				held(t, "moved", b, a)
			} else {
				held(t, "stayed", a, b)
			}
			if two, none := owners(t, l.take()); none > 0 || two > 5*time.Millisecond {
				t.Errorf("busy for %v: nobody for %v, both for %v", busy, none, two)
			}
			a.leave()
			b.leave()
		})
	}
}

// TestTrackerHandsOver: a failed tracker moves the addresses at once, without the skew.
func TestTrackerHandsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.talk = true
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		for node, n := range map[string]*node{"haproxy": a, "haproxy2": b} {
			m := member(node, map[string]uint8{"haproxy": 105, "haproxy2": 99}[node])
			m.Trackers = []spec.Check{{Name: "router"}}
			n.start(t, m)
			synctest.Wait()
			n.watch.turn("router", true, "")
		}
		pass(3 * time.Second)
		held(t, "started", a, b)
		l.take()
		a.watch.turn("router", false, "gone")
		held(t, "failed", b, a)
		if two, none := owners(t, l.take()); none > 0 || two > 5*time.Millisecond {
			t.Errorf("nobody for %v, both for %v", none, two)
		}
		a.leave()
		b.leave()
	})
}
