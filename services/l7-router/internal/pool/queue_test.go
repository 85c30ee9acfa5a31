package pool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// signal is a Waker.
type signal chan struct{}

func (s signal) Wake() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// TestQueueUnderChange has many ask for servers, wait, give up and end, while limits, servers and their states change. In the
// end nobody holds a slot or a place, and nobody has waited for ever.
func TestQueueUnderChange(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []spec.Algorithm{spec.RoundRobin, spec.LeastConn, spec.Source, spec.Random} {
		t.Run(algorithm.String(), func(t *testing.T) {
			t.Parallel()
			p := New(zap.NewNop())
			want := spec.Backend{Name: "web", Balance: spec.Balance{Algorithm: algorithm}}
			for i := range 4 {
				want.Servers = append(want.Servers, spec.Server{
					Name: fmt.Sprint("s", i), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 80),
					Weight: 1 + i, MaxConn: 1 + i%2, MaxQueue: 5, Cookie: fmt.Sprint("s", i), Backup: i == 3,
				})
			}
			p.Set(want)
			ctx, cancel := context.WithCancel(t.Context())
			var changes, requests sync.WaitGroup
			changes.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					w := want
					w.Servers = append([]spec.Server(nil), want.Servers[:3+n%2]...)
					w.Servers[n%3].MaxConn = n % 3
					p.Set(w)
					admin := []spec.Admin{spec.AdminMaint, spec.AdminReady, spec.AdminDrain, spec.AdminReady}[n%4]
					if _, err := p.SetServer("web", fmt.Sprint("s", n/4%3), Change{Admin: &admin}, "test"); err != nil {
						t.Error(err)
					}
				}
				p.Set(want)
				for i := range 4 {
					ready := spec.AdminReady
					_, _ = p.SetServer("web", fmt.Sprint("s", i), Change{Admin: &ready}, "test")
				}
			})
			for n := range 16 {
				requests.Go(func() {
					random := rand.New(rand.NewPCG(uint64(n), 1))
					ticket := &Ticket{Waker: make(signal, 1)}
					for range 400 {
						b := p.Backend("web")
						ticket.Reset()
						ticket.Hash, ticket.Hashed = random.Uint32(), true
						if random.IntN(3) == 0 {
							ticket.Named = b.ByCookie([]byte(fmt.Sprint("s", random.IntN(4))))
						}
						s := b.Next(ticket)
						for ticket.Waits() {
							if random.IntN(8) == 0 {
								ticket.Leave()
								break
							}
							select {
							case <-ticket.Waker.(signal):
								s = b.Next(ticket)
							case <-time.After(10 * time.Second):
								t.Error("stranded")
								ticket.Leave()
							}
						}
						if s != nil {
							if random.IntN(4) == 0 {
								s.ConnectFailed(nil)
								s.End()
								if s = b.Next(ticket); ticket.Waits() {
									ticket.Leave()
								}
							}
							if s != nil {
								s.End()
							}
						}
					}
				})
			}
			requests.Wait()
			cancel()
			changes.Wait()
			for _, q := range p.Queues() {
				if q.Length != 0 {
					t.Errorf("%+v", q)
				}
			}
			for _, s := range p.Servers() {
				if s.Active != 0 || s.Queued != 0 {
					t.Errorf("%s: %d under way, %d wait", s.Server.Name, s.Active, s.Queued)
				}
			}
		})
	}
}

// BenchmarkNext chooses servers from as many goroutines as there are processors.
func BenchmarkNext(b *testing.B) {
	for _, test := range []struct {
		name  string
		n     int
		named bool
		limit int
	}{{"4 servers", 4, false, 0}, {"4 servers with maxconn", 4, false, 1000}, {"256 servers", 256, false, 0}, {"by cookie", 4, true, 0}} {
		b.Run(test.name, func(b *testing.B) {
			p := New(zap.NewNop())
			want := spec.Backend{Name: "web"}
			for i := range test.n {
				want.Servers = append(want.Servers, spec.Server{
					Name: fmt.Sprint(i), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 80), Weight: 1 + i%3, MaxConn: test.limit,
				})
			}
			backend := p.Set(want)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				ticket := &Ticket{}
				for pb.Next() {
					ticket.Reset()
					if test.named {
						ticket.Named = backend.Server(1)
					}
					backend.Next(ticket).End()
				}
			})
		})
	}
}
