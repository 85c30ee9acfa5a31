package nftables

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"sync"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"

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
	vip := p.Want.VIP
	var strays []kept.Flow
	p.Directors[from].Do(p.t, func() {
		flows, err := new(Kept).Flows(p.t.Context(), map[spec.VIP]bool{vip: true})
		if err != nil {
			p.t.Fatal(err)
		}
		strays = kept.Strays(flows, map[spec.VIP]slots.Table{vip: slots.Of(p.Want)}, known)
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
	if lost := p.TakeOver(ctx, 0, 1, all); !lost.None() {
		t.Errorf("taken over: %s", lost)
	}
	m := 0
	if lost := p.TakeBack(ctx, 1, 0, all, func() {
		p.weigh(2, 0, 4)
		m = p.tell(1, 0, known)
	}); !lost.None() {
		t.Errorf("taken back: %s", lost)
	}
	t.Logf("of %d connections %d were elsewhere than their slot said before the take-over, %d more before the way back", len(all), n, m)
}

// level has one director count its connections and lend slots, until a step changes nothing, and both deal by them.
func (p *pair) level(director int) {
	p.t.Helper()
	for lent, steps := -1, 0; lent != len(p.Want.Lent); steps++ {
		lent = len(p.Want.Lent)
		open := map[netip.AddrPort]uint64{}
		for key, n := range p.counted(director) {
			open[key.Real] = n
		}
		p.Want.Lent = slots.Level(p.Want, open)
		p.t.Logf("director %d, step %d: %v open, %d slots lent", director, steps, open, len(p.Want.Lent))
		p.load(0)
		p.load(1)
	}
}

// The connections of one real server last, so that wlc lends its slots to the others, beneath 1050 open connections and before more of
// them; then the active director's cables are pulled, and once more before it takes them back. Nobody is lost.
func TestKernelTakeOverWithLentSlots(t *testing.T) {
	p := newPair(t)
	p.Want.Scheduler = spec.WLC
	for i := range p.Want.Reals {
		p.Want.Reals[i].Weight = 1
	}
	p.load(0)
	p.load(1)
	p.Addresses(0, plan.AddAddress)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	// short opens connections that end, but for those of one real server.
	short := func(director, n, last int) (left []*planetest.Stream) {
		all := p.Streams(ctx, &group, planetest.Asks, n)
		at := map[netip.AddrPort]netip.AddrPort{}
		p.Directors[director].Do(t, func() {
			flows, err := new(Kept).Flows(ctx, map[spec.VIP]bool{p.Want.VIP: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range flows {
				at[f.Client] = f.Real
			}
		})
		for _, f := range all {
			if at[f.Client()] == p.Want.Reals[last].Address {
				left = append(left, f)
			} else {
				f.Close()
			}
		}
		return left
	}
	all := p.Streams(ctx, &group, planetest.Asks, 400)
	all = append(all, p.Streams(ctx, &group, planetest.Told, 450)...)
	all = append(all, p.Streams(ctx, &group, planetest.Floods, 50)...)
	all = append(all, short(0, 900, 2)...)
	p.Settled(all)

	known := map[kept.Ends]netip.AddrPort{}
	p.level(0)
	lent := len(p.Want.Lent)
	n := p.tell(0, 1, known)
	all = append(all, p.Streams(ctx, &group, planetest.Told, 100)...) // by the lent slots
	p.Settled(all)
	if lent < slots.SmallTable/slots.StepMost || n < len(all)/20 {
		t.Errorf("%d slots are lent, and %d of %d connections elsewhere than their slot says; the test needs more", lent, n, len(all))
	}
	if lost := p.TakeOver(ctx, 0, 1, all); !lost.None() {
		t.Errorf("taken over: %s", lost)
	}
	all = append(all, short(1, 600, 0)...)
	m := 0
	if lost := p.TakeBack(ctx, 1, 0, all, func() {
		p.level(1)
		m = p.tell(1, 0, known)
	}); !lost.None() {
		t.Errorf("taken back: %s", lost)
	}
	if len(p.Want.Lent) == lent || m == 0 {
		t.Errorf("%d slots are lent as before, and %d more connections are elsewhere than their slot says; the test needs more", lent, m)
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

// keptKinds are the kinds of connections.
var keptKinds = []struct{ vip, client, real string }{
	{planetest.VIP + ":80", "10.10.60.1", "192.168.60.%d:80"},
	{planetest.VIP + ":80/udp", "10.10.60.1", "192.168.60.%d:80"},
	{"[" + planetest.VIP6 + "]:80", "2001:db8:10::1", "[2001:db8:60::%d]:80"},
	{"[" + planetest.VIP6 + "]:80/udp", "2001:db8:10::1", "[2001:db8:60::%d]:80"},
}

// Slots have moved beneath connections of each kind when the kernel loses all that it knew of them, as if another director had taken them
// over: those that are told of go on where they were, and without that some are lost.
func TestKernelKeptOfEachKind(t *testing.T) {
	for _, kind := range keptKinds {
		for _, told := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, told: %v", kind.vip, told), func(t *testing.T) {
				n := planetest.NewNetwork(t)
				want := spec.Service{VIP: spec.MustParseVIP(kind.vip), Scheduler: spec.MH}
				reals := n.Reals
				if want.VIP.Is6() {
					reals = n.Reals6
				}
				become := func(weights ...int) {
					want.Reals = nil
					for i, w := range weights {
						want.Reals = append(want.Reals, spec.Real{Address: reals[i], Weight: w})
					}
					n.Director.Do(t, func() {
						plane := Open()
						have, err := plane.Observe(t.Context())
						if err == nil {
							_, err = plane.Apply(t.Context(), plan.Diff(spec.Want{Services: []spec.Service{want}}, have))
						}
						if err != nil {
							t.Fatal(err)
						}
					})
				}
				become(1, 2, 3)
				// each says a word and tells whether its real server, and no other, has answered.
				var all []func() error
				for range 60 {
					if want.VIP.Protocol == spec.UDP {
						flow := n.Open(t, want.VIP)
						first, err := flow.Ask("first")
						if err != nil {
							t.Fatal(err)
						}
						all = append(all, func() error {
							if real, err := flow.Ask("again"); err != nil || real != first {
								return fmt.Errorf("at %s, was at %s: %w", real, first, err)
							}
							return nil
						})
						continue
					}
					c, err := n.DialVIP(t, want.VIP)
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, func() error {
						word, heard := "again\n", make([]byte, 6)
						if _, err := io.WriteString(c, word); err != nil {
							return err
						}
						if _, err := io.ReadFull(c, heard); err != nil || string(heard) != word {
							return fmt.Errorf("heard %q: %w", heard, err)
						}
						return nil
					})
				}
				become(3, 2, 1)
				vips, known := map[spec.VIP]bool{want.VIP: true}, map[kept.Ends]netip.AddrPort{}
				n.Director.Do(t, func() {
					k := new(Kept)
					flows, err := k.Flows(t.Context(), vips)
					if err != nil || len(flows) != len(all) {
						t.Fatalf("%d connections of %d are seen: %v", len(flows), len(all), err)
					}
					for _, f := range kept.Strays(flows, map[spec.VIP]slots.Table{want.VIP: slots.Of(want)}, nil) {
						known[f.Ends] = f.Real
					}
					if told {
						if err := k.Keep(t.Context(), known); err != nil {
							t.Fatal(err)
						}
					}
					if err := k.Forget(t.Context(), vips); err != nil {
						t.Fatal(err)
					}
				})
				lost := 0
				for _, again := range all {
					if err := again(); err != nil {
						lost++
						t.Log(err)
					}
				}
				t.Logf("of %d connections %d are elsewhere than their slot says, and %d are lost", len(all), len(known), lost)
				if len(known) < 5 || told != (lost == 0) {
					t.Errorf("of %d connections %d are elsewhere than their slot says, and %d are lost", len(all), len(known), lost)
				}
			})
		}
	}
}

// The tables hold just what it is told, are mended after others have been at them, and go when there is nothing to hold.
func TestKernelKept(t *testing.T) {
	netnstest.Require(t)
	ns := netnstest.New(t)
	ns.Do(t, func() {
		k := new(Kept)
		holds := func() (map[kept.Ends]netip.AddrPort, bool) {
			all, there := map[kept.Ends]netip.AddrPort{}, false
			for _, l := range layouts {
				seen, err := l.readKept(openHalf(l).conn)
				if err != nil {
					t.Fatal(err)
				}
				maps.Copy(all, seen.holds)
				there = there || seen.there
			}
			return all, there
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
		ends := func(i int) kept.Ends {
			kind := keptKinds[i%len(keptKinds)]
			return kept.Ends{Client: netip.AddrPortFrom(netip.MustParseAddr(kind.client), uint16(10000+i)), VIP: spec.MustParseVIP(kind.vip)}
		}
		real := func(i int) netip.AddrPort {
			return netip.MustParseAddrPort(fmt.Sprintf(keptKinds[i%len(keptKinds)].real, 71+i%3))
		}
		for i := range kept.Most {
			want[ends(i)] = real(i)
		}
		keep("as many as one director tells of")
		for i := range kept.Most - 10 {
			delete(want, ends(i))
		}
		want[ends(kept.Most-1)] = real(kept.Most - 1 + len(keptKinds))
		keep("most have ended, one has another real server")
		conn := openHalf(layout4).conn
		conn.FlushSet(layout4.keptFlows())
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		keep("emptied by somebody")
		conn.FlushChain(layout4.keptChain())
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
