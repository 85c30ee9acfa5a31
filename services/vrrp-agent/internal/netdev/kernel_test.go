package netdev

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

var vip = netip.MustParseAddr("192.168.60.78")

// pair lays a cable between two namespaces and opens both ends.
func pair(t *testing.T) (a, b end) {
	t.Helper()
	netnstest.Require(t)
	nsA, nsB := netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t, nsA, "eth0", "192.168.60.22/24", nsB, "eth0", "192.168.60.128/24")
	open := func(ns *netnstest.NS) (e end) {
		ns.Do(t, func() {
			h, err := Open(zaptest.NewLogger(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(h.Close)
			e = end{Host: h, ns: ns}
		})
		return e
	}
	a, b = open(nsA), open(nsB)
	a.up(t)
	b.up(t)
	return a, b
}

// end is one end of the cable.
type end struct {
	*Host
	ns *netnstest.NS
}

// up waits until the card carries, which the kernel finds out a moment after the cable is laid.
func (e end) up(t *testing.T) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for {
		v, err := e.Refresh()
		if err == nil {
			_, err = v.Find([]netip.Addr{vip}, netip.Prefix{})
		}
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// listen opens a wire. The namespace of a socket is that of the thread that opens it.
func (e end) listen(t *testing.T, p nic.Port) (w *Wire) {
	t.Helper()
	e.ns.Do(t, func() {
		var err error
		if w, err = e.Listen(p); err != nil {
			t.Fatal(err)
		}
	})
	return w
}

func find(t *testing.T, h end) nic.Port {
	t.Helper()
	p, err := h.View().Find([]netip.Addr{vip}, netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKernelAddresses(t *testing.T) {
	t.Parallel()
	h, _ := pair(t)
	p := find(t, h)
	if p.Source != netip.MustParseAddr("192.168.60.22") || p.Name != "eth0" || p.MAC == (packet.MAC{}) {
		t.Errorf("port %+v", p)
	}
	for n, want := range []bool{true, false} {
		if added, err := h.Add(p.Index, vip, time.Minute); err != nil || added != want {
			t.Errorf("add %d: got %v %v, want %v", n, added, err, want)
		}
	}
	v, err := h.Refresh()
	if err != nil || !v.On(p.Index, vip) || !slices.Equal(v.Single(), []netip.Addr{vip}) {
		t.Errorf("added: %+v %v", v, err)
	}
	if again := find(t, h); again != p {
		t.Errorf("with the virtual address the port is %+v, was %+v", again, p)
	}
	// The mark outlives the name of the card.
	h.ns.Exec(t, "ip", "link", "set", "eth0", "down")
	h.ns.Exec(t, "ip", "link", "set", "eth0", "name", "uplink-to-rack4")
	h.ns.Exec(t, "ip", "link", "set", "uplink-to-rack4", "up")
	if v, err = h.Refresh(); err != nil || !slices.Equal(v.Marked(), []netip.Addr{vip}) {
		t.Errorf("renamed: %+v %v", v, err)
	}
	other := netip.MustParseAddr("192.168.60.79")
	if _, err := h.Add(p.Index, other, time.Minute); err != nil {
		t.Error(err)
	}
	if v, err = h.Refresh(); err != nil || !slices.Equal(v.Marked(), []netip.Addr{vip, other}) {
		t.Errorf("with a long name: %+v %v", v, err)
	}
	for n, want := range []bool{true, false} {
		if removed, err := h.Remove(p.Index, vip); err != nil || removed != want {
			t.Errorf("remove %d: got %v %v, want %v", n, removed, err, want)
		}
	}
	if v, err = h.Refresh(); err != nil || v.On(p.Index, vip) {
		t.Errorf("removed: %+v %v", v, err)
	}
	if removed, err := h.Remove(4711, vip); err != nil || removed {
		t.Errorf("remove from a card that is not there: %v %v", removed, err)
	}
	if _, err := h.Add(4711, vip, time.Minute); err == nil {
		t.Error("add to a card that is not there")
	}
}

// TestKernelLifetime: the kernel removes an address that is not added again in time, two added at different moments
// together, and keeps one that is.
func TestKernelLifetime(t *testing.T) {
	t.Parallel()
	h, _ := pair(t)
	p := find(t, h)
	others := []netip.Addr{netip.MustParseAddr("192.168.60.79"), netip.MustParseAddr("192.168.60.80")}
	// The first was left for good by something else; its time runs from now on as well.
	h.ns.Exec(t, "ip", "address", "add", "192.168.60.79/32", "dev", "eth0")
	for _, a := range others {
		if _, err := h.Add(p.Index, a, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for {
		if added, err := h.Add(p.Index, vip, 5*time.Second); err != nil {
			t.Fatalf("added again %v: %v", added, err)
		}
		v, err := h.Refresh()
		if err != nil || !v.On(p.Index, vip) {
			t.Fatalf("%v is gone: %+v %v", vip, v, err)
		}
		if !v.On(p.Index, others[0]) && !v.On(p.Index, others[1]) {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("still there: %+v", v)
		}
	}
}

func TestKernelWire(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	from, to := find(t, a), find(t, b)
	sender, receiver := a.listen(t, from), b.listen(t, to)
	if n, err := receiver.Receive(make([]byte, 100)); n != 0 || err != nil {
		t.Errorf("nothing sent: received %d %v", n, err)
	}
	advert := packet.Advertisement{VirtualRouterID: 53, Priority: 105, Interval: time.Second, Addresses: []netip.Addr{vip}}
	if err := sender.Send(advert.Append(nil, packet.Format{Version: packet.V2})); err != nil {
		t.Fatal(err)
	}
	if err := receiver.Wait(); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1500)
	n, err := receiver.Receive(buffer)
	if err != nil {
		t.Fatal(err)
	}
	expect := packet.Expect{Version: packet.V2, VirtualRouterID: 53, Interval: time.Second, Self: to.Source}
	if got, err := expect.Receive(buffer[:n], nil); err != nil || got.Priority != 105 || got.From != from.Source {
		t.Errorf("got %+v %v", got, err)
	}
	// What was sent does not come back.
	if n, err := sender.Receive(buffer); n != 0 || err != nil {
		t.Errorf("received %d bytes of our own, %v", n, err)
	}
	if err := sender.Announce(packet.GratuitousARP(from.MAC, vip)); err != nil {
		t.Error(err)
	}

	waiting := make(chan error, 1)
	go func() { waiting <- receiver.Wait() }()
	if err := receiver.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waiting; err == nil {
		t.Error("a closed wire has something to receive")
	}
	if err := sender.Close(); err != nil {
		t.Error(err)
	}
}

// TestKernelSendDoesNotAllocate measures the steady state of a master.
func TestKernelSendDoesNotAllocate(t *testing.T) {
	a, _ := pairV6(t)
	advert := packet.Advertisement{VirtualRouterID: 53, Priority: 105, Interval: time.Second, Addresses: []netip.Addr{vip}}
	buffer := make([]byte, 1500)
	for _, p := range []nic.Port{find(t, a), findV6(t, a)} {
		w := a.listen(t, p)
		payload := advert.Append(nil, packet.Format{Version: packet.V3, Source: p.Source})
		if n := testing.AllocsPerRun(20, func() {
			if err := w.Send(payload); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Receive(buffer); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("from %v: %v allocations per advert", p.Source, n)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestKernelEvents follows what happens to the card.
func TestKernelEvents(t *testing.T) {
	t.Parallel()
	a, _ := pair(t)
	changes := make(chan struct{}, 1)
	var calls atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go a.ns.Do(t, func() {
		ended <- a.Run(ctx, func() {
			calls.Add(1)
			select {
			case changes <- struct{}{}:
			default:
			}
		})
	})
	until := func(what string, is func(nic.View) bool) {
		t.Helper()
		for !is(a.View()) {
			select {
			case <-changes:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the view is %+v", what, a.View())
			}
		}
	}
	<-changes // the first look, after which events are followed
	p := find(t, a)
	a.ns.Exec(t, "ip", "address", "add", "192.168.60.78/32", "dev", "eth0")
	until("address added", func(v nic.View) bool { return v.On(p.Index, vip) })
	a.ns.Exec(t, "ip", "address", "del", "192.168.60.78/32", "dev", "eth0")
	until("address removed", func(v nic.View) bool { return !v.On(p.Index, vip) })

	// That an address is to live longer is no news.
	if _, err := a.Add(p.Index, vip, time.Minute); err != nil {
		t.Fatal(err)
	}
	until("address added by us", func(v nic.View) bool { return v.On(p.Index, vip) })
	before := calls.Load()
	for range 200 {
		if added, err := a.Add(p.Index, vip, time.Minute); err != nil || added {
			t.Fatal(added, err)
		}
	}
	other := netip.MustParseAddr("192.168.60.79")
	if _, err := a.Add(p.Index, other, time.Minute); err != nil {
		t.Fatal(err)
	}
	until("another address added", func(v nic.View) bool { return v.On(p.Index, other) })
	if got := calls.Load() - before; got > 5 {
		t.Errorf("%d calls for 200 renewals and one address", got)
	}

	a.ns.Exec(t, "ip", "link", "set", "eth0", "down")
	until("card down", func(v nic.View) bool { _, err := v.Find([]netip.Addr{vip}, netip.Prefix{}); return err != nil })
	a.ns.Exec(t, "ip", "link", "set", "eth0", "up")
	until("card up", func(v nic.View) bool { _, err := v.Find([]netip.Addr{vip}, netip.Prefix{}); return err == nil })
	a.ns.Exec(t, "ip", "link", "del", "eth0")
	until("card gone", func(v nic.View) bool { return len(v.Cards) == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// pairV6 gives the two ends addresses of IPv6 too.
func pairV6(t *testing.T) (a, b end) {
	t.Helper()
	a, b = pair(t)
	a.ns.Exec(t, "ip", "address", "add", "2001:db8:60::22/64", "dev", "eth0", "nodad")
	b.ns.Exec(t, "ip", "address", "add", "2001:db8:60::128/64", "dev", "eth0", "nodad")
	return a, b
}

var vipsV6 = []netip.Addr{netip.MustParseAddr("fe80::78"), netip.MustParseAddr("2001:db8:60::78")}

// findV6 waits for the port: the kernel asks first whether the link-local address is free.
func findV6(t *testing.T, h end) (p nic.Port) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for {
		v, err := h.Refresh()
		if err == nil {
			p, err = v.Find(vipsV6, netip.Prefix{})
		}
		if err == nil {
			return p
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func TestKernelAddressesV6(t *testing.T) {
	t.Parallel()
	h, _ := pairV6(t)
	p := findV6(t, h)
	if !p.Source.IsLinkLocalUnicast() || p.Own != netip.MustParseAddr("2001:db8:60::22") || p.Router {
		t.Errorf("port %+v", p)
	}
	for _, vip := range vipsV6 {
		for n, want := range []bool{true, false} {
			if added, err := h.Add(p.Index, vip, time.Minute); err != nil || added != want {
				t.Errorf("add %v %d: got %v %v, want %v", vip, n, added, err, want)
			}
		}
	}
	v, err := h.Refresh()
	if err != nil || !v.On(p.Index, vipsV6[0]) || !v.On(p.Index, vipsV6[1]) || len(v.Single()) != 2 {
		t.Errorf("added: %+v %v", v, err)
	}
	if again := findV6(t, h); again != p {
		t.Errorf("with the virtual addresses the port is %+v, was %+v", again, p)
	}
	// One of somebody else's is not marked.
	h.ns.Exec(t, "ip", "address", "add", "2001:db8:60::79/128", "dev", "eth0", "nodad")
	h.ns.Exec(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/forwarding")
	if v, err = h.Refresh(); err != nil || !slices.Equal(v.Marked(), []netip.Addr{vipsV6[1], vipsV6[0]}) {
		t.Errorf("marked: %v %v", v.Marked(), err)
	}
	if p, err = v.Find(vipsV6, netip.Prefix{}); err != nil || !p.Router {
		t.Errorf("a card that forwards: %+v %v", p, err)
	}
	for n, want := range []bool{true, false} {
		if removed, err := h.Remove(p.Index, vipsV6[1]); err != nil || removed != want {
			t.Errorf("remove %d: got %v %v, want %v", n, removed, err, want)
		}
	}
	// What is not added again the kernel removes; this one had a minute before.
	if _, err := h.Add(p.Index, vipsV6[0], time.Second); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for ticker := time.Tick(20 * time.Millisecond); h.mustSee(t).On(p.Index, vipsV6[0]); <-ticker {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("still there")
		}
	}
	t.Logf("gone after %v", time.Since(begin))
	if _, err := h.Add(4711, vipsV6[1], time.Minute); err == nil {
		t.Error("add to a card that is not there")
	}
}

func (e end) mustSee(t *testing.T) nic.View {
	t.Helper()
	v, err := e.Refresh()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestKernelWireV6 sends by multicast and by unicast, with both kinds of addresses, and hears claims.
func TestKernelWireV6(t *testing.T) {
	t.Parallel()
	a, b := pairV6(t)
	from, to := findV6(t, a), findV6(t, b)
	sender, receiver := a.listen(t, from), b.listen(t, to)
	expect := packet.Expect{Version: packet.V3, VirtualRouterID: 53, Self: to.Source, Also: to.Own}
	advert := packet.Advertisement{VirtualRouterID: 53, Priority: 105, Interval: time.Second, Addresses: vipsV6}
	buffer := make([]byte, 1500)
	for _, destination := range []netip.Addr{packet.Group(true), to.Source, to.Own} {
		f := packet.Format{Version: packet.V3, Source: from.Source, Destination: destination}
		send := func() error { return sender.Send(advert.Append(nil, f)) }
		if !destination.IsMulticast() {
			f.Source = from.From(destination)
			payload := advert.Append(nil, f)
			send = func() error { return sender.SendTo(destination, payload) }
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		if err := receiver.Wait(); err != nil {
			t.Fatal(err)
		}
		n, err := receiver.Receive(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := expect.Receive(buffer[:n], nil); err != nil || got.Priority != 105 || got.From != f.Source || !slices.Equal(got.Addresses, vipsV6) {
			t.Errorf("to %v: got %+v %v from %x", destination, got, err, buffer[:n])
		}
	}
	if n, err := sender.Receive(buffer); n != 0 || err != nil {
		t.Errorf("received %d bytes of our own, %v", n, err)
	}
	if err := receiver.Watch(vipsV6); err != nil {
		t.Fatal(err)
	}
	// Only the last is a claim to one of ours.
	for _, address := range []string{"2001:db8:60::79", "fe80::79", "2001:db8:60::78"} {
		if err := sender.Announce(packet.NeighborAdvertisement(packet.MAC{2, 9}, netip.MustParseAddr(address), false)); err != nil {
			t.Fatal(err)
		}
	}
	if a, mac, err := receiver.Claims(); err != nil || a != vipsV6[1] || mac != (packet.MAC{2, 9}) {
		t.Errorf("claim of %v by %v, %v", a, mac, err)
	}
	for _, w := range []*Wire{sender, receiver} {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
