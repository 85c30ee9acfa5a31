package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/board"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// sharedWall is a wall that two loops write on at a time.
type sharedWall struct {
	mu *sync.Mutex
	*wall
}

func (w sharedWall) Notes() ([]board.Note, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wall.Notes()
}

func (w sharedWall) Pin(ctx context.Context, value []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wall.Pin(ctx, value)
}

func (w sharedWall) Unpin(ctx context.Context, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wall.Unpin(ctx, key)
}

// lenders are two directors with the same service of wlc.
type lenders struct {
	t        *testing.T
	vip      spec.VIP
	reals    []netip.AddrPort
	rigs     [2]*rig
	boards   [2]sharedWall
	tableaus [2]*tableau
	notes    []board.Note
}

func newLenders(t *testing.T) *lenders {
	p := &lenders{t: t, vip: spec.MustParseVIP("10.10.60.22:80")}
	service := &directorv1.VirtualService{Name: "web", Address: "10.10.60.22", Port: 80, Scheduler: "wlc"}
	for i := range 3 {
		p.reals = append(p.reals, netip.MustParseAddrPort(fmt.Sprintf("192.168.60.%d:80", 71+i)))
		service.RealServers = append(service.RealServers, &directorv1.RealServer{Address: p.reals[i].Addr().String()})
	}
	mu, revision := new(sync.Mutex), new(int64)
	for i := range p.rigs {
		r := newRig(t, dataplane.Auto)
		p.boards[i] = sharedWall{mu, &wall{notes: &p.notes, node: fmt.Sprint("node", i), revision: revision}}
		p.tableaus[i] = &tableau{}
		r.board, r.keeper = p.boards[i], p.tableaus[i]
		r.loop = r.make()
		r.store.set(service)
		p.rigs[i] = r
	}
	return p
}

func (p *lenders) run() {
	for _, r := range p.rigs {
		r.run()
	}
}

// holds gives one of them the VIP and takes it from the other, which has the connections no more.
func (p *lenders) holds(active int) {
	for i, r := range p.rigs {
		r.host.edit(func(h *plan.Host) {
			h.Addresses = slices.DeleteFunc(h.Addresses, func(a plan.HostAddress) bool { return a.Prefix.Addr() == p.vip.Addr() })
			if i == active {
				h.Addresses = append(h.Addresses, plan.HostAddress{Prefix: netip.PrefixFrom(p.vip.Addr(), 24), Card: 2, CardName: "eth0"})
			}
		})
	}
}

// kernel is the service in the kernel of one of them.
func (p *lenders) kernel(i int) (s spec.Service) {
	p.rigs[i].first.Edit(func(services map[spec.VIP]spec.Service) { s = services[p.vip] })
	return s
}

// open opens connections at one of them as its table says, each real server so many.
func (p *lenders) open(active int, numbers ...int) {
	table, port := slots.Of(p.kernel(active)), uint16(1024)
	k := p.tableaus[active]
	k.flows = nil
	for i, n := range numbers {
		for found := 0; found < n; port++ {
			f := kept.Flow{Ends: kept.Ends{Client: netip.AddrPortFrom(netip.MustParseAddr("10.10.60.1"), port), VIP: p.vip}, Real: p.reals[i]}
			if slot, _ := table.Slot(f.Client); table.Slots[slot] == f.Real {
				k.flows = append(k.flows, f)
				found++
			}
		}
		p.rigs[active].first.Connect(steer.Key{VIP: p.vip, Real: p.reals[i]}, uint64(n))
	}
}

// agree checks that both deal by the same table, and that a take-over would lose none of the connections of one of them.
func (p *lenders) agree(what string, active int) {
	p.t.Helper()
	if _, err := p.rigs[1-active].loop.Reconcile(p.t.Context()); err != nil { // a note on the board is a kick
		p.t.Fatal(err)
	}
	here, there := p.kernel(active), p.kernel(1-active)
	if !slices.Equal(here.Lent, there.Lent) {
		p.t.Errorf("%s: %d slots are lent here and %d there", what, len(here.Lent), len(there.Lent))
	}
	tables := map[spec.VIP]slots.Table{p.vip: slots.Of(there)}
	if lost := kept.Strays(p.tableaus[active].flows, tables, p.tableaus[1-active].holds); len(lost) > 0 {
		p.t.Errorf("%s: a take-over would lose %d of %d connections", what, len(lost), len(p.tableaus[active].flows))
	}
}

func (p *lenders) passes(n int) {
	for range n {
		resync()
	}
}

// Who holds the VIP lends slots by what it counts, a step in each pass, and the other follows, through take-overs, restarts and a loss
// of everything in etcd.
func TestBothDirectorsLendTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLenders(t)
		p.holds(0)
		p.run()
		p.open(0, 500, 500, 500)
		p.passes(3)
		if n := len(p.kernel(0).Lent); n > 0 || len(p.notes) > 0 {
			t.Errorf("nobody has too many, and %d slots are lent, %d notes", n, len(p.notes))
		}

		p.open(0, 1500, 100, 100)
		for range 8 {
			before := len(p.kernel(0).Lent)
			p.passes(1)
			if n := len(p.kernel(0).Lent); n-before > slots.SmallTable/slots.StepMost {
				t.Errorf("%d slots were lent in one pass", n-before)
			}
		}
		p.passes(2)
		p.agree("lent", 0)
		lent := len(p.kernel(0).Lent)
		if lent < slots.SmallTable/8 {
			t.Errorf("%d slots are lent after ten passes", lent)
		}
		note := p.rigs[0].loop.View().Course.Reasons[steer.Key{VIP: p.vip}]
		if !strings.Contains(note, fmt.Sprintf("%d slots are lent", lent)) {
			t.Errorf("the service's note is %q", note)
		}

		p.tableaus[1].flows, p.tableaus[0].flows = p.tableaus[0].flows, nil
		p.holds(1) // it has counted nothing yet: what it was told stays
		p.passes(1)
		p.agree("taken over", 1)
		if n := len(p.kernel(1).Lent); n != lent {
			t.Errorf("taken over: %d slots are lent where %d were", n, lent)
		}
		p.open(1, 100, 100, 1500)
		p.passes(10)
		p.agree("decided by the other", 1)
		if slices.ContainsFunc(p.kernel(1).Lent, func(l spec.Loan) bool { return l.To == p.reals[2] }) {
			t.Error("who has most has borrowed")
		}

		p.rigs[1].first.Damage("somebody was there") // what was told is made anew
		p.passes(1)
		p.agree("damaged", 1)

		p.boards[0].mu.Lock()
		p.notes = nil // another etcd
		p.boards[0].mu.Unlock()
		p.passes(3)
		p.agree("told anew", 1)
		if len(p.kernel(1).Lent) == 0 {
			t.Error("nothing is lent after etcd has forgotten it")
		}

		p.open(1, 500, 500, 500)
		p.passes(2 * slots.StepMost)
		p.agree("no pressure", 1)
		if n := len(p.kernel(1).Lent); n > 0 {
			t.Errorf("%d slots are still lent", n)
		}
		for _, n := range p.notes {
			if lent, is, _ := kept.DecodeLent(n.Value); is && len(lent.Loans) > 0 && n.Key == p.notes[len(p.notes)-1].Key {
				t.Errorf("the last word is that %d slots are lent", len(lent.Loans))
			}
		}
	})
}

// As long as the other director cannot be told, or has been told of too many connections, no more slots move than that one step.
func TestNothingIsLentInSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLenders(t)
		p.holds(0)
		p.run()
		p.boards[0].refuses = errors.New("away")
		p.open(0, 1500, 100, 100)
		p.passes(10)
		if n := len(p.kernel(0).Lent); n == 0 || n > slots.SmallTable/slots.StepMost {
			t.Errorf("%d slots are lent while nobody can be told", n)
		}
		if notes := strings.Join(p.rigs[0].status.latest.GetNotes(), "\n"); !strings.Contains(notes, "away") {
			t.Errorf("the status does not tell: %s", notes)
		}
		p.boards[0].mu.Lock()
		p.boards[0].refuses = nil
		p.boards[0].mu.Unlock()
		p.passes(3)
		p.agree("etcd is back", 0)

		many := kept.Ends{VIP: p.vip}
		var flows []kept.Flow
		for i := range kept.Most/2 + 1 {
			many.Client = netip.AddrPortFrom(netip.MustParseAddr("10.10.61.1"), uint16(1+i))
			flows = append(flows, kept.Flow{Ends: many, Real: p.reals[0]})
		}
		notes, err := kept.Encode(flows)
		if err != nil {
			t.Fatal(err)
		}
		for _, note := range notes {
			if err := p.boards[1].Pin(t.Context(), note); err != nil {
				t.Fatal(err)
			}
		}
		p.passes(2)
		before := len(p.kernel(0).Lent)
		p.passes(5)
		if n := len(p.kernel(0).Lent); n != before {
			t.Errorf("%d slots are lent, %d were when the exceptions were half used up", n, before)
		}
	})
}

// A director that has no other needs neither etcd nor an address of its own to lend, and a restart forgets nothing.
func TestAloneItLendsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLenders(t)
		r := p.rigs[0]
		r.board = nil
		r.loop = r.make()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.loop.Run(ctx) }()
		synctest.Wait()
		p.open(0, 1500, 100, 100)
		p.passes(5)
		lent := p.kernel(0).Lent
		if len(lent) == 0 {
			t.Fatal("nothing is lent")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		r.loop = r.make()
		r.first.Connect(steer.Key{VIP: p.vip, Real: p.reals[0]}, 100) // of no matter until all are counted
		r.run()
		if got := p.kernel(0).Lent; !slices.Equal(got, lent) {
			t.Errorf("%d slots are lent after the restart, %d were before", len(got), len(lent))
		}
	})
}

// What it takes to move the slots of many services is bounded, and all of them have their turn.
func TestManyServicesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		const many = 2*steer.StepsAtOnce + 5
		var services []*directorv1.VirtualService
		for i := range many {
			services = append(services, &directorv1.VirtualService{Name: fmt.Sprint("web", i), Address: "10.10.60.22", Port: uint32(1000 + i), RealServers: []*directorv1.RealServer{
				{Address: "192.168.60.71"}, {Address: "192.168.60.72"}}})
			vip := spec.MustParseVIP(fmt.Sprintf("10.10.60.22:%d", 1000+i))
			r.first.Connect(steer.Key{VIP: vip, Real: netip.AddrPortFrom(netip.MustParseAddr("192.168.60.71"), vip.Port())}, 1000)
		}
		r.store.set(messages(services)...)
		r.run()
		lenders := func() (n int) {
			r.first.Edit(func(all map[spec.VIP]spec.Service) {
				for _, s := range all {
					if len(s.Lent) > 0 {
						n++
					}
				}
			})
			return n
		}
		for pass, was := 0, 0; was < many; pass++ {
			resync()
			n := lenders()
			if n-was > steer.StepsAtOnce || pass > many {
				t.Fatalf("pass %d: %d of %d services lend, %d before", pass, n, many, was)
			}
			was = n
		}
	})
}

func messages(services []*directorv1.VirtualService) (all []proto.Message) {
	for _, s := range services {
		all = append(all, s)
	}
	return all
}
