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
	for node, on := range map[string]*agent{"haproxy": p.onA, "haproxy2": p.onB} {
		if claims := on.instances(t)["VI_1"].GetForeignClaims(); claims > 0 {
			t.Errorf("%s counts %d foreign claims after an ordinary start", node, claims)
		}
	}
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
	// Both answer for the moment of the handover and for no other; the last few answers are on their way.
	if got.two > 10 || got.nobody > 10 {
		t.Errorf("thawed: %v", got)
	}
	taken, given := p.onA.instances(t)["VI_1"].GetHistory(), p.onB.instances(t)["VI_1"].GetHistory()
	take, let := taken[len(taken)-1], given[len(given)-1]
	if take.GetReason() != "node haproxy2 hands over" || let.GetReason() != "handed over to node haproxy" {
		t.Fatalf("the last changes are %v and %v", take, let)
	}
	// Each change is noted when the address has come or gone: two answer without a break from shortly before the one to the other.
	begin, end := p.census.at(taken[len(taken)-2].GetTime().AsTime()), p.census.at(let.GetTime().AsTime())
	doubles := p.census.doubles(thawed)
	for n, double := range doubles {
		if double < begin || double >= end || n > 0 && double != doubles[n-1]+1 {
			t.Errorf("two answered questions %v, which is not one handover that ended with question %d", doubles, end)
			break
		}
	}
	if log := p.onA.output.String(); !strings.Contains(log, "did not run for") || !strings.Contains(p.onB.output.String(), "handed over to node haproxy") {
		t.Error("the node has not let go, or has not been given the address back")
	}
	p.onA.stop(t)
	p.onB.stop(t)
}
