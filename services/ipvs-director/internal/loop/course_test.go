package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// A real server that is full gets no new connections until it has fewer, on a plane that only counts.
func TestFullRealServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		wanted := web(1)
		wanted.RealServers = append(wanted.RealServers, &directorv1.RealServer{Address: "192.168.60.79", UpperThreshold: 4, LowerThreshold: 2})
		r.store.set(wanted)
		r.run()
		key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.79:80")}
		for _, step := range []struct {
			open   uint64
			weight int
		}{{0, 1}, {3, 1}, {4, 0}, {3, 0}, {2, 0}, {1, 1}, {3, 1}} {
			r.first.Connect(key, step.open)
			resync()
			r.expect(good, "", fmt.Sprintf("%s 192.168.60.79:80=%d", asWanted, step.weight))
		}
		r.first.Connect(key, 5)
		resync()
		r.first.FailCounting(errors.New("no memory"))
		r.first.Connect(key, 0)
		resync()
		r.expect(commonv1.Outcome_OUTCOME_RETRY, "no memory", asWanted+" 192.168.60.79:80=0")
	})
}

// checked has real servers 192.168.60.N with a check and a minute to leave.
func checked(last ...string) *directorv1.VirtualService {
	s := &directorv1.VirtualService{
		Name: "web", Address: "10.10.60.22", Port: 80, DrainTimeout: durationpb.New(time.Minute),
		Check: &directorv1.Check{Kind: &directorv1.Check_Tcp{Tcp: &directorv1.TcpCheck{}}},
	}
	for _, n := range last {
		s.RealServers = append(s.RealServers, &directorv1.RealServer{Address: "192.168.60." + n})
	}
	return s
}

func TestHealthDecidesWhoTakesConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		vip := &directorv1.Address{Name: "vip", Prefix: "10.10.60.22/24"}
		r.store.set(checked("78", "79"), vip)
		r.health.say("192.168.60.78:80", steer.Unknown)
		r.run()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=0 192.168.60.79:80=1")
		h, _ := r.host.Observe(t.Context())
		if len(h.Addresses) != 1 || r.ready.Load() != 0 {
			t.Errorf("before all is checked: addresses %v, ready %d times", h.Addresses, r.ready.Load())
		}
		r.health.say("192.168.60.78:80", steer.Down)
		resync()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=0 192.168.60.79:80=1")
		if h, _ = r.host.Observe(t.Context()); len(h.Addresses) != 2 || r.ready.Load() != 1 {
			t.Errorf("when all is checked: addresses %v, ready %d times", h.Addresses, r.ready.Load())
		}
		r.health.say("192.168.60.78:80", steer.Up)
		resync()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=1")
		if n := len(r.health.checked); n != 2 {
			t.Errorf("%d real servers are checked", n)
		}
	})
}

// A real server that is not wanted any more stays without new connections until the last is over, over a restart too.
func TestRemovalIsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.79:80")}
		r.store.set(checked("78", "79"))
		r.first.Connect(key, 1)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.loop.Run(ctx) }()
		synctest.Wait()
		r.store.set(checked("78"))
		const leaving, left = "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=0", "10.10.60.22:80 wlc 192.168.60.78:80=1"
		for range 20 {
			resync()
			r.expect(good, "", leaving)
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		r.loop = r.make()
		r.run()
		for range 35 {
			resync()
			r.expect(good, "", leaving)
		}
		for range 10 { // its minute began before the restart
			resync()
		}
		r.expect(good, "", left)
	})
}

func TestRemovalWaitsForTheLastConnectionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.79:80")}
		r.store.set(checked("78", "79"), &directorv1.Address{Name: "vip", Prefix: "10.10.60.22/24"})
		r.first.Connect(key, 1)
		r.run()
		r.store.set() // the service and its address
		resync()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=0 192.168.60.79:80=0")
		for range 4 {
			resync()
		}
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.79:80=0")
		if h, _ := r.host.Observe(t.Context()); len(h.Addresses) != 2 {
			t.Errorf("the address went before the last connection: %v", h.Addresses)
		}
		if notes := strings.Join(r.status.latest.GetNotes(), "\n"); !strings.Contains(notes, "its open connections are waited for") {
			t.Errorf("notes:\n%s", notes)
		}
		r.first.Connect(key, 0)
		for range 4 {
			resync()
		}
		r.expect(good, "")
		if h, _ := r.host.Observe(t.Context()); len(h.Addresses) != 1 {
			t.Errorf("the address stays: %v", h.Addresses)
		}
	})
}

func TestDrainsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(checked("78", "79"), &directorv1.Drain{Name: "d", Service: "web", Address: "192.168.60.79", Reason: "disk"})
		r.run()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=0")
		r.store.set(checked("78", "79"))
		resync()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=1")
	})
}

// An address that can be put nowhere, and connections that cannot be counted, hold up nothing else: whose time is up goes, and
// what it has open is ended.
func TestWhatFailsElsewhereHoldsUpNoRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.79:80")}
		nowhere := &directorv1.Address{Name: "nowhere", Prefix: "172.16.0.1/24"}
		before, after := checked("78", "79"), checked("78")
		before.ResetAfterDrain, after.ResetAfterDrain = true, true
		r.store.set(before, nowhere)
		r.first.Connect(key, 1)
		r.first.FailCounting(errors.New("deaf"))
		r.run()
		r.store.set(after, nowhere)
		resync()
		resync()
		r.expect(retry, "deaf", "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=0")
		r.health.say("192.168.60.78:80", steer.Down)
		resync()
		r.expect(retry, "no network card", "10.10.60.22:80 wlc 192.168.60.78:80=0 192.168.60.79:80=0") // health counts
		r.health.say("192.168.60.78:80", steer.Up)
		for range 60 {
			resync()
		}
		r.expect(retry, "no network card", "10.10.60.22:80 wlc 192.168.60.78:80=1")
		if n := r.first.Connections(key); n != 0 {
			t.Errorf("%d connections are open behind the one that left", n)
		}
	})
}

// The old pool takes connections until the first of the new one has been checked.
func TestPoolIsSwappedWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(checked("78"))
		r.run()
		r.health.say("192.168.60.79:80", steer.Unknown)
		r.store.set(checked("79"))
		resync()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=0")
		r.health.say("192.168.60.79:80", steer.Up)
		resync()
		r.expect(good, "", "10.10.60.22:80 wlc 192.168.60.78:80=0 192.168.60.79:80=1")
	})
}

// A director that cannot keep its last good copy serves all the same, and says what it lacks.
func TestFullDiskIsNoReasonNotToServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(checked("78"))
		r.store.full = errors.New("no space left")
		r.run()
		r.expect(retry, "no space left", "10.10.60.22:80 wlc 192.168.60.78:80=1")
		if n := r.ready.Load(); n != 1 {
			t.Errorf("ready %d times", n)
		}
	})
}

// When a real server began to leave is saved as soon as there is room, although nothing changes any more.
func TestWhatWasNotSavedIsSavedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.79:80")}
		r.store.set(checked("78", "79"))
		r.first.Connect(key, 1)
		r.run()
		r.recall.fill(errors.New("no space left"))
		r.store.set(checked("78"))
		const leaving = "10.10.60.22:80 wlc 192.168.60.78:80=1 192.168.60.79:80=0"
		for range 3 {
			resync()
			r.expect(retry, "no space left", leaving)
		}
		r.recall.fill(nil)
		resync()
		r.expect(good, "", leaving)
		if m, err := r.recall.Load(); err != nil || reflect.DeepEqual(m, steer.Memory{}) {
			t.Errorf("saved: %+v, %v", m, err)
		}
	})
}
