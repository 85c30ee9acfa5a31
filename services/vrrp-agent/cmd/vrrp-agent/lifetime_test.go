package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lived is how long an address may stay on a node whose agent does not renew it: a lifetime of one second, a quarter for
// the kernel, and the rest for a busy machine.
const lived = 2 * time.Second

// passing is how an address went from one machine to another.
type passing struct {
	lastHeld time.Duration // after the beginning, when the first machine was last seen with it
	both     int           // how often both were seen with it
	lastBoth time.Duration // after the beginning, when they were last
}

// follow watches an address until the second machine holds it and the first does not. The moments are those before each
// look, so that a slow look makes nothing longer than it was.
func follow(t *testing.T, address string, from, to *machine) (p passing) {
	t.Helper()
	begin := time.Now()
	awaitEach(t, 10*time.Millisecond, "address passes to "+to.name, func() string {
		now := time.Since(begin)
		arrived := strings.Contains(to.held(t), address) // first: who holds it keeps it
		left := strings.Contains(from.held(t), address)
		if left {
			p.lastHeld = now
		}
		if left && arrived {
			p.both++
			p.lastBoth = now
		}
		if left || !arrived {
			return fmt.Sprintf("%s holds it: %v, %s: %v", from.name, left, to.name, arrived)
		}
		return ""
	})
	return p
}

// TestKernelKilled kills and freezes the agent of a master. The kernel takes the address away without anybody's help; at
// one advert a second before the other node has it, at 30 ms soon after.
func TestKernelKilled(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"PROFILE_COMPAT", "PROFILE_FAST"} {
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
			t.Run(fmt.Sprintf("%s %v", profile, signal), func(t *testing.T) {
				t.Parallel()
				n := newLAN(t)
				a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
				desired := version3(t, "profile: "+profile)
				onA, onB := a.agent(t, desired), b.agent(t, desired)
				await(t, "both started", map[*machine]string{a: vip1, b: vip3})

				if signal == syscall.SIGKILL {
					onA.kill(t) // its warden too, which would be quicker: see TestKernelWarden
				} else {
					onA.signal(t, signal)
				}
				p := follow(t, vip1, a, b)
				t.Logf("last seen on haproxy after %v; on both %d times, last after %v", p.lastHeld, p.both, p.lastBoth)
				if p.lastHeld > lived {
					t.Errorf("the address was on haproxy after %v, want %v at most", p.lastHeld, lived)
				}
				if profile == "PROFILE_COMPAT" && p.both > 0 {
					t.Errorf("both machines were seen with the address %d times", p.both)
				}

				if signal == syscall.SIGKILL {
					onA = a.agent(t, desired)
				} else {
					onA.signal(t, syscall.SIGCONT)
				}
				await(t, "haproxy is back", map[*machine]string{a: vip1, b: vip3})
				if signal == syscall.SIGSTOP && profile == "PROFILE_COMPAT" && !strings.Contains(onA.output.String(), "did not run for") {
					t.Error("the agent has not noticed that it was held up")
				}
				onA.stop(t)
				onB.stop(t)
			})
		}
	}
}

// TestKernelRenewal: renewing an address is nothing that the network hears of.
func TestKernelRenewal(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a := n.machine(t, "haproxy", "192.168.60.22/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	onA := a.agent(t, tutorial(t, ""))
	arp := "arp " + vip1
	awaitThat(t, "announcements of the take-over", func() string {
		if got := w.count(0, arp); got < 10 {
			return fmt.Sprintf("%d, want 10", got)
		}
		return ""
	})
	since := len(w.all())
	awaitThat(t, "adverts", func() string {
		if got := w.count(since, "advert 53"); got < 6 {
			return fmt.Sprintf("%d, want 6", got)
		}
		return ""
	})
	if got := w.count(0, arp); got != 10 {
		t.Errorf("%d announcements, want 10", got)
	}
	if i := onA.instances(t)["VI_1"]; i.GetTransitions() != 2 || a.held(t) != vip3+" "+vip1 {
		t.Errorf("%v, holds %s", i, a.held(t))
	}
	if strings.Contains(onA.output.String(), "put back") {
		t.Error("an address has lapsed")
	}
	onA.stop(t)
}
