package nftables

import (
	"context"
	"sync"
	"testing"
	"time"

	nft "github.com/google/nftables"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// pair is two directors with this plane.
type pair struct {
	*planetest.Pair
	t testing.TB
}

func newPair(t testing.TB) *pair {
	t.Helper()
	return &pair{planetest.NewPair(t), t}
}

// load gives a director the rules; and be_liberal, without which it believes its own old entries about connections that
// have gone on elsewhere when it takes them back.
func (p *pair) load(director int) {
	p.t.Helper()
	p.Directors[director].Do(p.t, func() {
		plane := Open()
		have, err := plane.Observe(p.t.Context())
		if err == nil {
			_, err = plane.Apply(p.t.Context(), plan.Diff(spec.Want{Services: []spec.Service{p.Want}}, have))
		}
		if err != nil {
			p.t.Fatal(err)
		}
	})
	p.Directors[director].Set(p.t, "net/netfilter/nf_conntrack_tcp_be_liberal", "1")
}

// The active director's cables are pulled, without a word to the other, and the other takes VIP and gateway: 1000
// established connections go on, half of them continued by the real server first, and 50 more in bulk; and once more when
// the first comes back.
func TestKernelTakeOver(t *testing.T) {
	p := newPair(t)
	p.load(0)
	p.load(1)
	p.Addresses(0, plan.AddAddress)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	all := p.Streams(ctx, &group, planetest.Asks, 500)
	all = append(all, p.Streams(ctx, &group, planetest.Told, 500)...)
	all = append(all, p.Streams(ctx, &group, planetest.Floods, 50)...)
	p.Settled(all)

	if lost := p.TakeOver(ctx, 0, 1, all); !lost.None() {
		t.Errorf("taken over: %s", lost)
	}
	if lost := p.TakeBack(ctx, 1, 0, all, nil); !lost.None() {
		t.Errorf("taken back: %s", lost)
	}
}

// What the take-over owes to the way back and to the guard shows when they are missing: without the way back all flows hang that the
// real server continues first, and no others; without the guard, those that the client continues first are reset while the addresses
// are there and the rules are not.
func TestKernelTakeOverWithoutItsParts(t *testing.T) {
	for _, c := range []struct {
		name string
		// spoil takes something away from the director that takes over.
		spoil func(p *pair)
		// lost tells whether those are lost that are to be.
		lost func(reset, hung map[byte]int) bool
	}{
		{"without the way back", func(p *pair) {
			p.load(1)
			p.Directors[1].Do(p.t, func() {
				conn := openHalf(layout4).conn
				conn.FlushSet(layout4.reverse())
				if err := conn.Flush(); err != nil {
					p.t.Fatal(err)
				}
			})
			p.Addresses(1, plan.AddAddress)
		}, func(reset, hung map[byte]int) bool {
			return len(reset) == 0 && len(hung) == 1 && hung[planetest.Told] == 50
		}},
		{"addresses before rules and guard", func(p *pair) {
			p.Addresses(1, plan.AddAddress)
			planetest.Wait(p.t.Context(), time.Second)
			p.load(1)
		}, func(reset, hung map[byte]int) bool {
			return reset[planetest.Asks] > 0 && reset[planetest.Told] == 0 && len(hung) == 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			p.load(0)
			p.Addresses(0, plan.AddAddress)
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer cancel()
			all := append(p.Streams(ctx, &group, planetest.Asks, 50), p.Streams(ctx, &group, planetest.Told, 50)...)
			p.Settled(all)
			p.Cut(0, "down")
			c.spoil(p)
			reset, hung := planetest.Lost(all)
			t.Logf("of 50 flows that the client continues and 50 that the real server does %v were reset and %v hung", reset, hung)
			if !c.lost(reset, hung) {
				t.Errorf("%v were reset and %v hung; so the part is not what holds them", reset, hung)
			}
		})
	}
}

// With the guard alone, and the rules later, nobody is reset: what no rule claims is dropped, and sent again.
func TestKernelGuardHoldsUntilTheRulesCome(t *testing.T) {
	p := newPair(t)
	p.load(0)
	p.Addresses(0, plan.AddAddress)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	all := append(p.Streams(ctx, &group, planetest.Asks, 50), p.Streams(ctx, &group, planetest.Told, 50)...)
	p.Settled(all)
	p.Cut(0, "down")
	p.load(1)
	l := layout4
	element := []nft.SetElement{serviceElement(p.Want.VIP)}
	p.Directors[1].Do(t, func() { // the table as it is before the service is in it
		conn := openHalf(layout4).conn
		_ = conn.SetDeleteElements(l.services(), element)
		conn.FlushSet(l.reverse())
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	p.Addresses(1, plan.AddAddress)
	planetest.Wait(ctx, time.Second)
	p.load(1) // mends the table
	if reset, hung := planetest.Lost(all); len(reset)+len(hung) > 0 {
		t.Errorf("%v flows were reset and %v hung", reset, hung)
	}
}
