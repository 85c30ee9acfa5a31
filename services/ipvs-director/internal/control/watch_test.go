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
	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
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

// The largest state there can be reaches a client of gRPC, which takes 4 MiB at most: page by page, and as several messages.
func TestTheLargestStateIsToldInParts(t *testing.T) {
	t.Parallel()
	const services, reals, most = 1024, 32, 4 << 20
	view := loop.View{Chosen: dataplane.IPVS, Observed: true, Rates: map[steer.Key]loop.Rates{}, Course: steer.Course{Reasons: map[steer.Key]string{}}}
	for i := range services {
		s := plan.Service{VIP: spec.VIP{AddrPort: netip.AddrPortFrom(netip.MustParseAddr("2001:db8:aaaa:bbbb:cccc:dddd:eeee:1"), uint16(1+i))}, Scheduler: spec.WLC}
		for r := range reals {
			active := uint64(1 << 40)
			real := plan.Real{Real: spec.Real{Address: netip.AddrPortFrom(netip.MustParseAddr("2001:db8:aaaa:bbbb:cccc:dddd:eeee:2"), uint16(1+r)), Weight: 65535},
				Active: &active, Total: 1 << 50, Traffic: &plan.Traffic{PacketsIn: 1 << 50, PacketsOut: 1 << 50, BytesIn: 1 << 60, BytesOut: 1 << 60}}
			s.Reals = append(s.Reals, real)
			view.Course.Reasons[steer.Key{VIP: s.VIP, Real: real.Address}] = "takes new connections: its checks are good, and nobody drains it"
		}
		view.Have.Services = append(view.Have.Services, s)
	}
	d := &director{world: fixed(view), health: unchecked{}}
	count := func(size int, got []*directorv1.ServiceState, seen map[string]int) {
		t.Helper()
		if size > most {
			t.Errorf("%d services in %d bytes, want %d at most", len(got), size, most)
		}
		for _, s := range got {
			seen[s.GetAddress()] += len(s.GetRealServers())
		}
	}
	check := func(how string, seen map[string]int, messages int) {
		t.Helper()
		for _, s := range view.Have.Services {
			if seen[s.VIP.String()] != reals {
				t.Errorf("%s: %d real servers of %s, want %d", how, seen[s.VIP.String()], s.VIP, reals)
			}
		}
		if len(seen) != services || messages < 2 {
			t.Errorf("%s: %d services in %d messages", how, len(seen), messages)
		}
	}

	seen, pages := map[string]int{}, 0
	for request := (&directorv1.ListServicesRequest{}); pages == 0 || request.GetPageToken() != ""; pages++ {
		answer, err := d.ListServices(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		count(proto.Size(answer), answer.GetServices(), seen)
		request.PageToken = answer.GetNextPageToken()
	}
	check("pages", seen, pages)
	if _, err := d.ListServices(t.Context(), &directorv1.ListServicesRequest{PageToken: "no address"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a wrong token: %v", err)
	}

	seen = map[string]int{}
	var known telling
	var all []*directorv1.ServiceState
	for _, s := range view.Have.Services {
		all = append(all, d.serviceState(s, view))
	}
	messages := parts(known.next(all))
	for i, m := range messages {
		count(proto.Size(m), m.GetServices(), seen)
		if m.GetWhole() != (i == 0) || len(m.GetGone()) > 0 {
			t.Errorf("message %d: whole %t, %d gone", i, m.GetWhole(), len(m.GetGone()))
		}
	}
	check("messages", seen, len(messages))
}
