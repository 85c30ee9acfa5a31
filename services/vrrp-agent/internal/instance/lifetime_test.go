package instance

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// freeze holds the node up until it is thawed.
func (n *node) freeze() chan struct{} {
	frozen := make(chan struct{})
	n.lan.mu.Lock()
	n.frozen = frozen
	for _, w := range n.wires {
		w.wake <- struct{}{}
	}
	n.lan.mu.Unlock()
	synctest.Wait()
	return frozen
}

func (n *node) thaw(frozen chan struct{}) {
	n.lan.mu.Lock()
	n.frozen = nil
	n.lan.mu.Unlock()
	close(frozen)
	synctest.Wait()
}

// TestRenewal: the address of a master lives on, and nobody hears of it.
func TestRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		pass(20 * time.Second)
		l.take()
		before := a.adds.Load()
		pass(time.Minute)
		if got := a.adds.Load() - before; got != 240 {
			t.Errorf("%d renewals in a minute, want 240", got)
		}
		if j := grep(l.take(), "add", "lapse", "remove", "announce"); j != "" {
			t.Errorf("journal\n%s", j)
		}
		a.leave()
		after := a.adds.Load()
		pass(time.Minute)
		if a.adds.Load() != after {
			t.Error("renewals after the end")
		}
	})
}

// rhythm is an interval that does not keep step with the renewals.
const rhythm = 1100 * time.Millisecond

// TestFrozen: a master that does not run loses its address before the backup takes it. When it runs again it listens
// first, and comes back by election.
func TestFrozen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, fast(105, rhythm))
		b.start(t, fast(99, rhythm))
		pass(19 * time.Second)
		l.take()
		frozen := a.freeze()
		pass(10 * time.Second)
		expect(t, grep(l.take(), "add", "remove", "lapse"), "19.949 haproxy lapse 192.168.60.78\n22.223 haproxy2 add 192.168.60.78")
		a.thaw(frozen)
		expect(t, a.print(), "haproxy: VI_1 backup [] (did not run for 10s)")
		pass(5 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (master 192.168.60.128 has priority 99)")
		journal := l.take()
		expect(t, grep(journal, "haproxy advert", "haproxy add", "haproxy remove", "haproxy lapse"),
			`29.000 haproxy advert 53 priority 0
32.949 haproxy advert 53 priority 105
32.949 haproxy add 192.168.60.78`)
		expect(t, grep(journal, "haproxy2 add", "haproxy2 remove"), `32.949 haproxy2 remove 192.168.60.78`)
		a.leave()
		b.leave()
	})
}

// TestFrozenDuringRenewal: the result of a renewal lies there when a master that was replaced wakes up. Which of all that
// waits is seen first is chance, so it is tried often.
func TestFrozenDuringRenewal(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			l := newLAN()
			a := l.join(t, "haproxy", "192.168.60.22/24")
			a.start(t, fast(105, rhythm))
			pass(19 * time.Second)
			busy := func(b bool) {
				l.mu.Lock()
				a.busy = b
				l.mu.Unlock()
			}
			busy(true)
			pass(renewal)
			frozen := a.freeze()
			busy(false)
			pass(10 * time.Second)
			a.thaw(frozen)
			expect(t, a.print(), "haproxy: VI_1 backup [] (did not run for 10s)")
			pass(10 * time.Second)
			expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.948828125s)")
			a.leave()
		})
	}
}

// TestHeldUpBriefly: nobody has taken over yet, and the address is put back.
func TestHeldUpBriefly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, fast(105, rhythm))
		b.start(t, fast(99, rhythm))
		pass(19 * time.Second)
		l.take()
		frozen := a.freeze()
		pass(2 * time.Second)
		a.thaw(frozen)
		pass(time.Second)
		expect(t, grep(l.take(), "add", "remove", "lapse"), "19.949 haproxy lapse 192.168.60.78\n21.000 haproxy add 192.168.60.78")
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.948828125s)")
		expect(t, b.print(), "haproxy2: VI_1 backup [] (started)")
		a.leave()
		b.leave()
	})
}

// TestRestored: an address that is found missing at its renewal is announced.
func TestRestored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		pass(20 * time.Second)
		l.take()
		l.mu.Lock()
		a.card.Addresses = a.card.Addresses[:1] // without an event
		l.mu.Unlock()
		pass(renewal)
		expect(t, grep(l.take(), "add", "announce"),
			"20.090 haproxy add 192.168.60.78"+strings.Repeat("\n20.090 haproxy announce 192.168.60.78", 5))
		a.leave()
	})
}

// slow is a kernel that lets nobody renew until it is told to.
type slow struct {
	deafNetwork
	calls chan string
	free  chan struct{}
}

func (s slow) Add(int, netip.Addr, time.Duration) (bool, error) {
	<-s.free
	s.calls <- "add"
	return false, nil
}

func (s slow) Remove(int, netip.Addr) (bool, error) {
	s.calls <- "remove"
	return true, nil
}

// TestSlowKernel: a renewal that takes its time does not hold up the adverts, and does not bring back what is removed.
func TestSlowKernel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := slow{calls: make(chan string, 10), free: make(chan struct{}, 1)}
		i := newInstance(s, deafNetwork{}, nil, zap.NewNop(), func() {}, func(spec.Local, plan.Transition) {}, order{local: vi1(105), keys: []parley.Key{{}}})
		if err := i.settle(nic.Port{Index: 2}); err != nil {
			t.Fatal(err)
		}
		s.free <- struct{}{}
		i.step(fsm.Event{Kind: fsm.Startup}, because("started"))
		i.step(fsm.Event{Kind: fsm.Timer}, because("alone"))
		i.renew()
		i.renew() // finds the first still under way
		before := i.counters.sent.Load()
		i.due = time.Now()
		i.timeout()
		if sent := i.counters.sent.Load() - before; sent != 1 {
			t.Errorf("%d adverts during a renewal, want 1", sent)
		}
		go func() {
			time.Sleep(time.Second) // in the time of synctest
			s.free <- struct{}{}
		}()
		i.step(fsm.Event{Kind: fsm.Shutdown}, because("stopped"))
		close(s.calls)
		got := ""
		for c := range s.calls {
			got += c + " "
		}
		if got != "add add remove " {
			t.Errorf("the kernel was told: %s", got)
		}
		i.hangUp()
		i.goroutine.Wait()
	})
}
