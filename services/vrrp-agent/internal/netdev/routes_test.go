package netdev

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// TestKernelRoutes makes, finds and removes routes of both families, beside one of somebody else.
func TestKernelRoutes(t *testing.T) {
	t.Parallel()
	h, _ := pairV6(t)
	p := findV6(t, h)
	for _, a := range append(slices.Clone(vipsV6), vip) {
		if _, err := h.Add(p.Index, a, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	route := func(to, via, source string, metric uint32) nic.Route {
		r := nic.Route{Index: p.Index, Route: spec.Route{Destination: netip.MustParsePrefix(to), Metric: metric}}
		for text, a := range map[string]*netip.Addr{via: &r.Via, source: &r.Source} {
			if text != "" {
				*a = netip.MustParseAddr(text)
			}
		}
		return r
	}
	all := []nic.Route{
		route("0.0.0.0/0", "192.168.60.99", "192.168.60.78", 7),
		route("10.0.0.0/8", "", "", 0),
		route("::/0", "fe80::99", "2001:db8:60::78", 1024),
		route("2001:db8:70::/48", "2001:db8:60::99", "", 7),
		route("2001:db8:71::/48", "", "", 1024),
	}
	have := func(what string, want ...nic.Route) {
		t.Helper()
		got, err := h.Routes()
		if err != nil || len(got) != len(want) || slices.ContainsFunc(want, func(r nic.Route) bool { return !slices.Contains(got, r) }) {
			t.Errorf("%s: got %v %v, want %v", what, got, err, want)
		}
	}
	h.ns.Exec(t, "ip", "-6", "route", "add", "2001:db8:72::/48", "dev", "eth0")
	for _, r := range all {
		for n, want := range []bool{true, false} {
			if added, err := h.AddRoute(r); err != nil || added != want {
				t.Errorf("add %v, time %d: %v %v, want %v", r, n, added, err, want)
			}
		}
	}
	have("added", all...)
	if _, err := h.AddRoute(route("2001:db8:72::/48", "", "", 1024)); err == nil || !strings.Contains(err.Error(), "another one to 2001:db8:72::/48 with metric 1024 is there") {
		t.Errorf("somebody else's: %v", err)
	}

	// With the address from which it starts goes a route of IPv4, and of one of IPv6 only that it starts there.
	for _, a := range []netip.Addr{vip, vipsV6[1]} {
		if _, err := h.Remove(p.Index, a); err != nil {
			t.Fatal(err)
		}
	}
	have("without the addresses", all[1], route("::/0", "fe80::99", "", 1024), all[3], all[4])
	for _, a := range []netip.Addr{vip, vipsV6[1]} {
		if _, err := h.Add(p.Index, a, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []nic.Route{all[0], all[2]} {
		if added, err := h.AddRoute(r); err != nil || !added {
			t.Errorf("put back %v: %v %v", r, added, err)
		}
	}
	have("put back", all...)

	for _, r := range all {
		for n, want := range []bool{true, false} {
			if removed, err := h.RemoveRoute(r); err != nil || removed != want {
				t.Errorf("remove %v, time %d: %v %v, want %v", r, n, removed, err, want)
			}
		}
	}
	have("removed")
	if got := h.ns.Exec(t, "ip", "-6", "route", "show", "2001:db8:72::/48"); !strings.Contains(got, "2001:db8:72::/48") {
		t.Errorf("somebody else's is gone: %q", got)
	}
}
