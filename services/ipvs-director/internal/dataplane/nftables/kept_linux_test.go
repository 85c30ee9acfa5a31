package nftables

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"

	"github.com/twotier/twotier/services/internal/netnstest"
)

// weigh gives both directors other weights, so that slots move. Connections that are there stay where they are.
func (p *pair) weigh(weights ...int) {
	p.t.Helper()
	for i, w := range weights {
		p.Want.Reals[i].Weight = w
	}
	p.load(0)
	p.load(1)
}

// tell has one director tell the other one where the connections are whose slot has moved, as notes do, and returns how many
// there were that were not known yet.
func (p *pair) tell(from, to int, known map[kept.Ends]netip.AddrPort) int {
	p.t.Helper()
	vip := p.Want.VIP.AddrPort
	var strays []kept.Flow
	p.Directors[from].Do(p.t, func() {
		flows, err := new(Kept).Flows(p.t.Context(), map[netip.AddrPort]bool{vip: true})
		if err != nil {
			p.t.Fatal(err)
		}
		strays = kept.Strays(flows, map[netip.AddrPort]slots.Table{vip: slots.Of(p.Want)}, known)
	})
	notes, err := kept.Encode(strays)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, note := range notes {
		flows, err := kept.Decode(note)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, f := range flows {
			known[f.Ends] = f.Real
		}
	}
	p.Directors[to].Do(p.t, func() {
		if err := new(Kept).Keep(p.t.Context(), known); err != nil {
			p.t.Fatal(err)
		}
	})
	return len(strays)
}

// Slots have moved beneath 1050 open connections when the active director's cables are pulled, and once more before it takes
// them back: who has been told of the connections that are elsewhere than their slot says sends them there, and nobody is lost.
func TestKernelTakeOverWithMovedSlots(t *testing.T) {
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

	known := map[kept.Ends]netip.AddrPort{}
	p.weigh(3, 2, 1)
	n := p.tell(0, 1, known)
	if n < len(all)/10 {
		t.Errorf("%d of %d connections are elsewhere than their slot says; the test needs more", n, len(all))
	}
	p.Settled(all)
	p.Cut(0, "down")
	planetest.Wait(ctx, 500*time.Millisecond) // somebody has to notice; what was on its way is heard
	p.Addresses(1, plan.AddAddress)
	if reset, hung := planetest.Lost(all); len(reset)+len(hung) > 0 {
		t.Errorf("taken over: %v flows were reset and %v hung", reset, hung)
	}

	p.Addresses(0, plan.RemoveAddress) // as whoever holds addresses by lease does before it is back
	p.Cut(0, "up")
	p.weigh(2, 0, 4)
	m := p.tell(1, 0, known)
	p.Addresses(1, plan.RemoveAddress)
	p.Addresses(0, plan.AddAddress)
	if reset, hung := planetest.Lost(all); len(reset)+len(hung) > 0 {
		t.Errorf("taken back: %v flows were reset and %v hung", reset, hung)
	}
	t.Logf("of %d connections %d were elsewhere than their slot said before the take-over, %d more before the way back", len(all), n, m)
}

// What the exceptions are for shows when they are missing.
func TestKernelTakeOverWithMovedSlotsUntold(t *testing.T) {
	p := newPair(t)
	p.load(0)
	p.Addresses(0, plan.AddAddress)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	all := p.Streams(ctx, &group, planetest.Asks, 100)
	p.Settled(all)
	p.weigh(3, 2, 1)
	p.Settled(all)
	p.Cut(0, "down")
	p.Addresses(1, plan.AddAddress)
	reset, hung := planetest.Lost(all)
	t.Logf("of 100 flows %v were reset and %v hung", reset, hung)
	if len(reset) == 0 {
		t.Error("nobody is lost; so the exceptions are not what holds them")
	}
}

// The table holds just what it is told, is mended after others have been at it, and goes when there is nothing to hold.
func TestKernelKept(t *testing.T) {
	netnstest.Require(t)
	ns := netnstest.New(t)
	ns.Do(t, func() {
		k := new(Kept)
		holds := func() (map[kept.Ends]netip.AddrPort, bool) {
			seen := new(Kept)
			if err := seen.read(openHalf(layout4).conn); err != nil {
				t.Fatal(err)
			}
			return seen.holds, seen.there
		}
		want := map[kept.Ends]netip.AddrPort{}
		keep := func(what string) {
			t.Helper()
			for range 2 { // the second time there is nothing to do
				if err := k.Keep(t.Context(), want); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			if have, there := holds(); !maps.Equal(have, want) || there != (len(want) > 0) {
				t.Errorf("%s: %d are there, want %d", what, len(have), len(want))
			}
		}
		keep("nothing")
		vip := netip.MustParseAddrPort("10.10.60.22:80")
		ends := func(i int) kept.Ends {
			return kept.Ends{Client: netip.AddrPortFrom(netip.MustParseAddr("10.10.60.1"), uint16(10000+i)), VIP: vip}
		}
		real := func(i int) netip.AddrPort {
			return netip.MustParseAddrPort(fmt.Sprintf("192.168.60.%d:80", 71+i%3))
		}
		for i := range kept.Most {
			want[ends(i)] = real(i)
		}
		keep("as many as one director tells of")
		for i := range kept.Most - 10 {
			delete(want, ends(i))
		}
		want[ends(kept.Most-1)] = real(kept.Most)
		keep("most have ended, one has another real server")
		conn := openHalf(layout4).conn
		conn.FlushSet(keptFlows())
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		keep("emptied by somebody")
		conn.FlushChain(keptChain())
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		keep("without its rule")
		if err := Open().Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, there := holds(); there {
			t.Error("it is there after the plane was removed")
		}
		keep("removed")
		clear(want)
		keep("all have ended")
	})
}
