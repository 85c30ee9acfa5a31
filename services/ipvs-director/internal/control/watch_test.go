package control

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	directorv1 "github.com/twotier/twotier/proto/director/v1"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// changing is a world that can be changed.
type changing struct {
	fixed
	mu   sync.Mutex // guards what follows
	view loop.View
	news chan struct{}
}

func (c *changing) View() loop.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view
}

func (c *changing) News() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.news
}

// set has services with one real server each, whose weight is that of its port and which has had so many connections.
func (c *changing) set(total uint64, weights map[uint16]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view = loop.View{Chosen: dataplane.NFTables, Observed: true}
	for _, port := range []uint16{80, 81} {
		if weight, there := weights[port]; there {
			c.view.Have.Services = append(c.view.Have.Services, plan.Service{
				VIP: spec.VIP{AddrPort: netip.AddrPortFrom(netip.MustParseAddr("10.10.60.22"), port)}, Scheduler: spec.RR,
				Reals: []plan.Real{{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.78:80"), Weight: weight}, Total: total, Traffic: &plan.Traffic{PacketsIn: total}}},
			})
		}
	}
	if c.news != nil {
		close(c.news)
	}
	c.news = make(chan struct{})
}

// reader reads what it is sent when the test takes it.
type reader struct {
	grpc.ServerStream
	ctx context.Context
	got chan *directorv1.WatchServicesResponse
}

func (r *reader) Context() context.Context { return r.ctx }

func (r *reader) Send(m *directorv1.WatchServicesResponse) error {
	select {
	case r.got <- m:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

func TestWatchServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := &changing{}
		world.set(0, map[uint16]int{80: 1, 81: 1})
		ctx, cancel := context.WithCancel(t.Context())
		stream := &reader{ctx: ctx, got: make(chan *directorv1.WatchServicesResponse)}
		ended := make(chan error, 1)
		go func() { ended <- (&director{world: world, health: unchecked{}}).WatchServices(nil, stream) }()
		expect := func(whole bool, missed uint32, services, gone int) *directorv1.WatchServicesResponse {
			t.Helper()
			m := <-stream.got
			if m.GetWhole() != whole || m.GetMissed() != missed || len(m.GetServices()) != services || len(m.GetGone()) != gone {
				t.Errorf("got %v, want whole %t, %d missed, %d services, %d gone", m, whole, missed, services, gone)
			}
			return m
		}
		expect(true, 0, 2, 0)
		world.set(5, map[uint16]int{80: 1, 81: 1}) // traffic alone
		synctest.Wait()
		world.set(9, map[uint16]int{80: 1, 81: 0})
		if m := expect(false, 0, 1, 0); m.GetServices()[0].GetRealServers()[0].GetTotalConnections() != 9 {
			t.Errorf("the counters are not those of now: %v", m)
		}
		world.set(9, map[uint16]int{80: 1})
		if m := expect(false, 0, 0, 1); m.GetGone()[0] != "10.10.60.22:81" {
			t.Errorf("got %v", m)
		}

		// Nobody reads: one message is on its way, watchQueue wait, the others are missed. What comes next is the whole.
		synctest.Wait()
		for i := range watchQueue + 5 {
			world.set(0, map[uint16]int{80: 10 + i})
			synctest.Wait()
		}
		for i := range watchQueue + 1 {
			if m := expect(false, 0, 1, 0); m.GetServices()[0].GetRealServers()[0].GetWeight() != uint32(10+i) {
				t.Errorf("message %d: %v", i, m)
			}
		}
		world.set(0, map[uint16]int{80: 99})
		if m := expect(true, 4, 1, 0); m.GetServices()[0].GetRealServers()[0].GetWeight() != 99 {
			t.Errorf("got %v", m)
		}
		cancel()
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("ended with %v", err)
		}
	})
}

// A kernel that cannot be read ends the stream with the reason.
func TestWatchServicesOfNothing(t *testing.T) {
	t.Parallel()
	stream := &reader{ctx: t.Context(), got: make(chan *directorv1.WatchServicesResponse)}
	if err := (&director{world: fixed{Chosen: dataplane.NFTables}, health: unchecked{}}).WatchServices(nil, stream); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
