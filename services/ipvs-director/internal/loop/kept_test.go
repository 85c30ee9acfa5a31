package loop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/internal/board"

	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// wall is a board in memory, and who writes on it.
type wall struct {
	notes    *[]board.Note
	node     string
	unread   bool
	refuses  error
	revision *int64
}

func (w *wall) Notes() (all []board.Note, read bool) {
	for _, n := range *w.notes {
		n.Own = strings.HasPrefix(n.Key, w.node)
		all = append(all, n)
	}
	return all, !w.unread
}

func (w *wall) Pin(_ context.Context, value []byte) error {
	if w.refuses != nil {
		return w.refuses
	}
	*w.revision++
	*w.notes = append(*w.notes, board.Note{Key: fmt.Sprint(w.node, " ", *w.revision), Value: value, Revision: *w.revision})
	return nil
}

func (w *wall) Unpin(_ context.Context, key string) error {
	*w.notes = slices.DeleteFunc(*w.notes, func(n board.Note) bool { return n.Key == key })
	return nil
}

// tableau is a kernel with connections.
type tableau struct {
	flows []kept.Flow
	holds map[kept.Ends]netip.AddrPort
	looks int
	// forgot tells how often the connections to each VIP were forgotten; fail is the error of the next time.
	mu     sync.Mutex // guards them
	forgot map[spec.VIP]int
	fail   error
}

func (k *tableau) Forget(_ context.Context, vips map[spec.VIP]bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fail; err != nil {
		k.fail = nil
		return err
	}
	if k.forgot == nil {
		k.forgot = map[spec.VIP]int{}
	}
	for vip := range vips {
		k.forgot[vip]++
	}
	return nil
}

func (k *tableau) Flows(_ context.Context, vips map[spec.VIP]bool) ([]kept.Flow, error) {
	k.looks++
	return slices.DeleteFunc(slices.Clone(k.flows), func(f kept.Flow) bool { return !vips[f.VIP] }), nil
}

func (k *tableau) Keep(_ context.Context, flows map[kept.Ends]netip.AddrPort) error {
	k.holds = maps.Clone(flows)
	return nil
}

// hasForgotten tells how often the connections to a VIP were forgotten.
func (k *tableau) hasForgotten(vip spec.VIP) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.forgot[vip]
}

// pairOfLoops is two directors that know the same services.
type pairOfLoops struct {
	t       *testing.T
	notes   []board.Note
	loops   [2]*Loop
	walls   [2]*wall
	kernels [2]*tableau
	active  int
	service spec.Service
}

func newPairOfLoops(t *testing.T) *pairOfLoops {
	p := &pairOfLoops{t: t, service: spec.Service{VIP: spec.VIP{AddrPort: netip.MustParseAddrPort("10.10.60.22:80")}, Scheduler: spec.MH}}
	revision := new(int64)
	for i := range p.loops {
		p.walls[i] = &wall{notes: &p.notes, node: fmt.Sprint("node", i), revision: revision}
		p.kernels[i] = &tableau{}
		p.loops[i] = New(Config{Log: zaptest.NewLogger(t), Board: p.walls[i]})
		p.loops[i].kept.keeper = p.kernels[i]
	}
	for i := range 3 {
		p.service.Reals = append(p.service.Reals, spec.Real{Address: netip.MustParseAddrPort(fmt.Sprintf("192.168.60.%d:80", 71+i)), Weight: 1})
	}
	return p
}

// open opens connections at the active director, where its table says; if that says nothing, at the first real server.
func (p *pairOfLoops) open(n int) {
	table, k := slots.Of(p.service), p.kernels[p.active]
	for range n {
		f := kept.Flow{Ends: kept.Ends{Client: netip.AddrPortFrom(netip.MustParseAddr("10.10.60.1"), uint16(10000+len(k.flows))), VIP: p.service.VIP}}
		f.Real = p.service.Reals[0].Address
		if slot, ok := table.Slot(f.Client); ok {
			f.Real = table.Slots[slot]
		}
		k.flows = append(k.flows, f)
	}
}

// pass lets both look, a second later, until nobody has anything to say.
func (p *pairOfLoops) pass() {
	p.t.Helper()
	for range 4 {
		time.Sleep(time.Second) // in the time of synctest
		for i, l := range p.loops {
			have := plan.Have{Services: []plan.Service{{VIP: p.service.VIP, Scheduler: p.service.Scheduler}}}
			for _, r := range p.service.Reals {
				have.Services[0].Reals = append(have.Services[0].Reals, plan.Real{Real: r})
			}
			if i == p.active {
				have.Host.Addresses = []plan.HostAddress{{Prefix: netip.PrefixFrom(p.service.VIP.Addr(), 32)}}
			}
			service := p.service
			service.Reals = slices.Clone(service.Reals)
			if err := l.keep(p.t.Context(), steer.Course{Services: []spec.Service{service}}, have); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// knows checks that the director that stands by would send every connection where it is.
func (p *pairOfLoops) knows(what string) {
	p.t.Helper()
	tables := map[spec.VIP]slots.Table{p.service.VIP: slots.Of(p.service)}
	if lost := kept.Strays(p.kernels[p.active].flows, tables, p.kernels[1-p.active].holds); len(lost) > 0 {
		p.t.Errorf("%s: a take-over would lose %d of %d connections", what, len(lost), len(p.kernels[p.active].flows))
	}
	// What Explain answers from is what the kernel was given.
	if seen := p.loops[1-p.active].kept.known; !maps.Equal(seen, p.kernels[1-p.active].holds) {
		p.t.Errorf("%s: %d connections are seen, the kernel has %d", what, len(seen), len(p.kernels[1-p.active].holds))
	}
}

// The director that stands by knows where every connection is whose slot has moved, through take-overs and back, and nobody
// looks or tells without a reason.
func TestTheOtherDirectorKnowsWhatHasMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPairOfLoops(t)
		p.open(1000)
		p.pass()
		p.knows("as dealt")
		if len(p.notes) > 0 {
			t.Errorf("%d notes although nothing has moved", len(p.notes))
		}
		time.Sleep(keptAfter) // in the time of synctest
		looks := p.kernels[0].looks
		p.pass()
		if p.kernels[0].looks != looks || p.kernels[1].looks > 0 {
			t.Errorf("looked %d and %d times without a reason", p.kernels[0].looks-looks, p.kernels[1].looks)
		}

		p.service.Reals[0].Weight = 0
		p.pass()
		p.knows("one drained")
		p.open(500)
		p.service.Reals[1].Weight = 3
		p.pass()
		p.knows("another weight")

		p.active, p.kernels[1].flows = 1, p.kernels[0].flows
		p.service.Reals[0].Weight = 2
		p.pass()
		p.knows("taken over, and moved again")

		// A client uses a port again that a note still speaks of.
		table := slots.Of(p.service)
		for i, f := range p.kernels[1].flows {
			slot, _ := table.Slot(f.Client)
			p.kernels[1].flows[i].Real = table.Slots[slot]
		}
		p.pass()
		p.knows("ports used again")

		p.kernels[1].flows = nil
		p.pass()
		time.Sleep(2 * board.Lease) // in the time of synctest
		p.pass()
		if len(p.notes) > 0 {
			t.Errorf("%d notes are left after all connections have ended", len(p.notes))
		}
	})
}

// More than one may tell of are left out, visibly; many small notes become few.
func TestWhatIsToldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPairOfLoops(t)
		p.open(kept.Most + 1000)
		for i := range p.service.Reals {
			p.service.Reals[i].Weight = 0 // then none is where its slot says
		}
		p.pass()
		if got := p.loops[0].kept.notes(); len(got) != 1 || !strings.HasPrefix(got[0], "1000 connections more") {
			t.Errorf("notes of the status: %q", got)
		}
		told := 0
		for _, n := range p.notes {
			flows, err := kept.Decode(n.Value)
			if err != nil {
				t.Fatal(err)
			}
			told += len(flows)
		}
		if told != kept.Most {
			t.Errorf("told of %d", told)
		}
		p.kernels[0].flows = nil
		for range 3 * keptNotes {
			p.open(1)
			p.pass()
		}
		p.knows("one after the other")
		if len(p.notes) > keptNotes {
			t.Errorf("%d notes of %d connections", len(p.notes), len(p.kernels[0].flows))
		}
	})
}

// Without a board that has been read the kernel keeps what it has; without etcd the status says what is at stake; a note that
// cannot be read spoils no other.
func TestKeptWithoutEtcd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPairOfLoops(t)
		p.open(100)
		p.pass()
		p.service.Reals[0].Weight = 0
		p.walls[0].refuses = errors.New("away")
		p.pass()
		if got := p.loops[0].kept.notes(); len(got) != 1 || !strings.HasSuffix(got[0], "away") {
			t.Errorf("notes of the status: %q", got)
		}
		foreign := `{"10.10.60.22:80 192.168.60.71:80": ["[2001:db8::1]:9"], "10.10.60.22:80 192.168.60.9:80": ["10.10.60.1:9"], "10.10.60.23:80 192.168.60.71:80": ["10.10.60.1:9"]}`
		p.notes = append(p.notes, board.Note{Key: "somebody", Value: []byte("nonsense")}, board.Note{Key: "somebody else", Value: []byte(foreign)})
		p.walls[0].refuses = nil
		p.pass()
		p.knows("etcd is back")
		if got := p.loops[0].kept.notes(); len(got) > 0 {
			t.Errorf("notes of the status: %q", got)
		}
		for ends, real := range p.kernels[1].holds {
			if ends.Client.Port() == 9 {
				t.Errorf("the kernel was told of %v at %v, which it cannot have", ends, real)
			}
		}
		p.notes = nil
		time.Sleep(keptAfter) // in the time of synctest
		p.pass()
		p.knows("etcd has lost all notes")
		before := p.kernels[1].holds
		p.walls[1].unread, p.notes = true, nil
		p.pass()
		if !maps.Equal(before, p.kernels[1].holds) {
			t.Error("an unread board was taken for an empty one")
		}
	})
}

// Connections of each protocol and family are held and told of; of another family than their VIP none can be.
func TestConnectionsOfEachKind(t *testing.T) {
	t.Parallel()
	have := plan.Have{}
	told, want, held := map[kept.Ends]netip.AddrPort{}, map[kept.Ends]netip.AddrPort{}, map[spec.VIP]bool{}
	clients := []netip.AddrPort{netip.MustParseAddrPort("10.10.60.1:4000"), netip.MustParseAddrPort("[2001:db8:10::1]:4000")}
	for _, text := range []string{"10.10.60.22:80", "10.10.60.22:80/udp", "[2001:db8:10::22]:80", "[2001:db8:10::22]:80/udp"} {
		vip, real := spec.MustParseVIP(text), netip.MustParseAddrPort("192.168.60.78:80")
		if vip.Is6() {
			real = netip.MustParseAddrPort("[2001:db8:60::78]:80")
		}
		have.Services = append(have.Services, plan.Service{VIP: vip, Reals: []plan.Real{{Real: spec.Real{Address: real}}}})
		have.Host.Addresses = append(have.Host.Addresses, plan.HostAddress{Prefix: netip.PrefixFrom(vip.Addr(), 24)})
		held[vip] = true
		for _, client := range clients {
			told[kept.Ends{Client: client, VIP: vip}] = real
			if client.Addr().Is6() == vip.Is6() {
				want[kept.Ends{Client: client, VIP: vip}] = real
			}
		}
	}
	if got := usable(told, have); !maps.Equal(got, want) {
		t.Errorf("usable: got %v, want %v", got, want)
	}
	if got := holds(have); !maps.Equal(got, held) {
		t.Errorf("held: got %v, want %v", got, held)
	}
}
