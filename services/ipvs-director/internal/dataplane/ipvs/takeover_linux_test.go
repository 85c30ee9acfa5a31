package ipvs

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/address"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// known waits until a director knows of so many established connections.
func known(t *testing.T, p *planetest.Pair, director, n int) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for {
		var table []byte
		var err error
		p.Directors[director].Do(t, func() { table, err = os.ReadFile(connections) })
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Count(string(table), " ESTABLISHED ")
		if got >= n {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("the other director knows of %d connections, not of %d", got, n)
		}
	}
}

// The active director's cables are pulled, without a word to the other, and the other takes VIP and gateway: established
// connections that the kernel's daemon has told it of go on, whoever speaks first, and once more when the first comes back.
// Without the daemon none of them does.
func TestKernelTakeOver(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	each, bulk := 20, 3 // one emulated processor carries all of it
	if os.Getenv(planetest.Long) == "1" {
		each, bulk = 500, 50
	}
	for _, synced := range []bool{true, false} {
		name := "told of connections"
		if !synced {
			name = "not told"
		}
		t.Run(name, func(t *testing.T) {
			p := planetest.NewPair(t)
			want := spec.Want{Services: []spec.Service{p.Want}}
			if synced {
				want.Tuning.Sync = &spec.Sync{Master: true, Backup: true, Network: netip.MustParsePrefix("192.168.60.0/24"),
					Group: spec.SyncGroup{ID: 9, Address: spec.DefaultSyncGroup, Port: spec.DefaultSyncPort, TTL: spec.DefaultSyncTTL}}
			}
			for _, d := range p.Directors {
				d.Do(t, func() {
					plane := Open()
					have, err := plane.Observe(t.Context())
					if err == nil {
						have.Host, err = address.Host{}.Observe(t.Context())
					}
					if err == nil {
						_, err = plane.Apply(t.Context(), plan.Diff(want, have))
					}
					if err != nil {
						t.Fatal(err)
					}
				})
			}
			p.Addresses(0, plan.AddAddress)
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer cancel()
			n := each
			if !synced {
				n = 20
			}
			all := p.Streams(ctx, &group, planetest.Asks, n)
			if synced {
				all = append(all, p.Streams(ctx, &group, planetest.Told, each)...)
				all = append(all, p.Streams(ctx, &group, planetest.Floods, bulk)...)
			}
			p.Settled(all)
			if synced {
				known(t, p, 1, len(all))
			}

			lost := p.TakeOver(ctx, 0, 1, all)
			if !synced {
				if gone := lost.Reset[planetest.Asks] + lost.Hung[planetest.Asks]; gone < len(all) {
					t.Errorf("of %d connections %s; so the daemon is not what holds them", len(all), lost)
				}
				return
			}
			if !lost.None() {
				t.Errorf("taken over: %s", lost)
			}
			if lost := p.TakeBack(ctx, 1, 0, all, nil); !lost.None() {
				t.Errorf("taken back: %s", lost)
			}
			t.Logf("%d connections were taken over, and back", len(all))
		})
	}
}
