package warden

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

var (
	vip1 = netip.MustParseAddr("192.168.60.78")
	vip6 = netip.MustParseAddr("2001:db8::78")

	defaultRoute = spec.Route{
		Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.60.99"), Source: vip1, Metric: 7,
	}
)

// cards note what is removed from them.
type cards struct {
	removed []string
	refuse  bool
}

func (c *cards) Remove(index int, a netip.Addr) (bool, error) {
	return c.remove(fmt.Sprintf("%d %v", index, a))
}

func (c *cards) RemoveRoute(r nic.Route) (bool, error) {
	return c.remove(fmt.Sprintf("%d %v", r.Index, r))
}

func (c *cards) remove(what string) (bool, error) {
	c.removed = append(c.removed, what)
	if c.refuse {
		return false, errors.New("no")
	}
	return true, nil
}

func TestRecords(t *testing.T) {
	t.Parallel()
	for _, want := range []record{
		{op: opBeat, router: router{53, false}, patience: 90 * time.Millisecond, stamp: 12345678 * time.Microsecond, address: netip.IPv6Unspecified()},
		{op: opHold, router: router{53, true}, index: 70000, address: vip6, stamp: 1},
		{op: opRelease, router: router{255, false}, index: 2, address: vip1, stamp: 1},
		{op: opHoldRoute, router: router{53, false}, index: 2, route: defaultRoute, patience: 1, stamp: 1},
		{op: opReleaseRoute, router: router{53, true}, index: 2, route: spec.Route{Destination: netip.MustParsePrefix("2001:db8::/32"), Source: vip6}},
	} {
		var b [recordLength]byte
		want.put(&b)
		if got, ok := read(b[:]); !ok || got != want {
			t.Errorf("got %+v %v, want %+v", got, ok, want)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, recordLength), make([]byte, recordLength+1), {9}} {
		if r, ok := read(bad); ok {
			t.Errorf("%v: taken for %+v", bad, r)
		}
	}
}

// TestWatch drives the watch by hand: what is said at a time, and what has been removed after it.
func TestWatch(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	var on cards
	w := newWatch(&on, zap.NewNop())
	say := func(o op, id uint8, at, patience time.Duration, a netip.Addr) {
		w.take(record{op: o, router: router{id: id}, index: 2, address: a, patience: patience, stamp: at})
	}
	check := func(at time.Duration, want ...string) {
		t.Helper()
		w.judge(at)
		if !slices.Equal(on.removed, want) {
			t.Errorf("at %v: removed %v, want %v", at, on.removed, want)
		}
		on.removed = nil
	}
	if _, any := w.next(); any {
		t.Error("somebody holds something")
	}
	say(opBeat, 53, 0, 90*ms, netip.Addr{})
	check(time.Hour) // a backup may be silent
	say(opHold, 53, 99*ms, 90*ms, vip1)
	say(opHold, 53, 99*ms, 90*ms, vip1)
	check(100 * ms) // a hold is a beat
	say(opBeat, 53, 100*ms, 90*ms, netip.Addr{})
	say(opHold, 56, 100*ms, time.Second, vip6)
	if next, any := w.next(); next != 190*ms || !any {
		t.Errorf("next %v %v", next, any)
	}
	check(189 * ms)
	say(opBeat, 53, 130*ms, 90*ms, netip.Addr{}) // read late: its time counts, not ours
	check(219 * ms)
	check(220*ms, "2 192.168.60.78")
	check(300 * ms) // once is enough
	say(opHold, 53, 310*ms, 90*ms, vip1)
	say(opRelease, 53, 320*ms, 0, vip1)
	check(time.Second)
	route := record{op: opHoldRoute, router: router{id: 53}, index: 2, route: defaultRoute, patience: 90 * ms, stamp: 960 * ms}
	w.take(route)
	w.take(route)
	say(opHold, 53, 960*ms, 90*ms, vip1)
	check(1049 * ms)
	check(1050*ms, "2 0.0.0.0/0 via 192.168.60.99 src 192.168.60.78 metric 7", "2 192.168.60.78") // before its address
	w.take(route)
	route.op = opReleaseRoute
	w.take(route)
	on.refuse = true
	check(1100*ms, "2 2001:db8::78")
	say(opHold, 53, 1200*ms, 0, vip1)
	w.end()
	check(1200*ms, "2 192.168.60.78")
}

// TestGuard: what the agent says arrives, and nobody waits or allocates even when the warden does not listen.
func TestGuard(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guard{fd: pair[1]}
	g.Hold(53, false, 2, vip1, time.Hour)
	g.Beat(53, false, time.Hour)
	for g.lost.Load() == 0 { // until the line is full
		g.Beat(53, false, time.Hour)
	}
	if err := unix.Close(pair[1]); err != nil {
		t.Fatal(err)
	}
	var on cards
	cfg := Config{Log: zap.NewNop(), Cards: &on}
	if err := cfg.follow(pair[0]); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(on.removed, " "); got != "2 192.168.60.78" {
		t.Errorf("removed %s at the agent's end", got)
	}
	if err := unix.Close(pair[0]); err != nil {
		t.Fatal(err)
	}
	var none *Guard
	none.Beat(53, false, time.Hour) // no warden
}

func TestGuardDoesNotAllocate(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guard{fd: pair[1]}
	if n := testing.AllocsPerRun(100, func() { g.Beat(53, false, time.Second) }); n != 0 {
		t.Errorf("%v allocations per beat", n)
	}
	for _, fd := range pair {
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
}
