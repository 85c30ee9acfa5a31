package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestKernelFrozen freezes agent and warden of a master for ten seconds and thaws them. The node answers for the address
// no longer, and when it goes on not before it has listened: it gets the address back by a handover.
func TestKernelFrozen(t *testing.T) {
	t.Parallel()
	p := newPair(t, "profile: PROFILE_FAST")
	macA, macB := p.a.mac(t, "eth0"), p.b.mac(t, "eth0")
	p.onA.signal(t, syscall.SIGSTOP)
	frozen := p.census.mark()
	p.census.await(t, macB)
	awaitThat(t, "ten thousand questions", func() string {
		if got := p.census.mark(); got < frozen+10_000 {
			return fmt.Sprint(got - frozen)
		}
		return ""
	})
	thawed := p.census.mark()
	p.onA.signal(t, syscall.SIGCONT)
	p.census.await(t, macA)
	got := p.census.count(thawed)
	t.Logf("frozen: %v", p.census.between(frozen, thawed))
	t.Logf("thawed: %v", got)
	// Both answer for the moment of the handover; the last few answers are on their way.
	if got.two > 10 || got.nobody > 10 {
		t.Errorf("thawed: %v", got)
	}
	if log := p.onA.output.String(); !strings.Contains(log, "did not run for") || !strings.Contains(p.onB.output.String(), "handed over to node haproxy") {
		t.Error("the node has not let go, or has not been given the address back")
	}
	p.onA.stop(t)
	p.onB.stop(t)
}
