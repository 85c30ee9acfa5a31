package plan

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

func one() spec.Local {
	return spec.Local{Name: "VI_1", VirtualRouterID: 53, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
		Priority: 105, Version: packet.V2, Interval: time.Second, Preempt: true}
}

func three() spec.Local {
	return spec.Local{Name: "VI_3", VirtualRouterID: 56, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.55")},
		Priority: 99, Version: packet.V2, Interval: time.Second, Preempt: true}
}

var toAll = spec.Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.60.99")}

func routed() spec.Local {
	return with(one(), func(l *spec.Local) { l.Routes = []spec.Route{toAll} })
}

func with(l spec.Local, change func(*spec.Local)) spec.Local {
	change(&l)
	return l
}

func TestDiff(t *testing.T) {
	t.Parallel()
	single := []netip.Addr{netip.MustParseAddr("192.168.60.78"), netip.MustParseAddr("192.168.60.99")}
	check := spec.Check{Name: "router", Address: "10.99.0.22:7402"}
	tests := []struct {
		name string
		want []spec.Local
		have Have
		plan string
	}{
		{"nothing", nil, Have{Single: single}, ""},
		{"first start", []spec.Local{one(), three()}, Have{},
			"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]\n" +
				"start instance VI_3: virtual router 56, priority 99, [192.168.60.55]"},
		{"start after a crash", []spec.Local{one(), three()}, Have{Single: single},
			"remove 192.168.60.78 of instance VI_1, left by an earlier run\n" +
				"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]\n" +
				"start instance VI_3: virtual router 56, priority 99, [192.168.60.55]"},
		{"start after a crash, meanwhile moved away", nil, Have{Single: single, Marked: single[:1]},
			"remove 192.168.60.78, left by an earlier run"},
		{"marked and wanted", []spec.Local{one()}, Have{Single: single, Marked: single[:1]},
			"remove 192.168.60.78 of instance VI_1, left by an earlier run\n" +
				"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]"},
		{"marked and running", []spec.Local{one()}, Have{Running: []Instance{{Local: one()}}, Single: single, Marked: single[:1]}, ""},
		{"routes left by a crash", []spec.Local{routed()}, Have{Routes: []nic.Route{{Route: toAll, Index: 2}}},
			"remove route 0.0.0.0/0 via 192.168.60.99, left by an earlier run\n" +
				"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]"},
		{"routes of who runs", []spec.Local{routed()}, Have{Running: []Instance{{Local: routed()}}, Routes: []nic.Route{{Route: toAll, Index: 2}}}, ""},
		{"other routes", []spec.Local{one()}, Have{Running: []Instance{{Local: routed()}}}, "update instance VI_1: routes"},
		{"as wanted", []spec.Local{one()}, Have{Running: []Instance{{Local: one()}}, Single: single}, ""},
		{"no longer wanted", nil, Have{Running: []Instance{{Local: one()}}, Single: single},
			"stop instance VI_1: no longer wanted on this node"},
		{"other router id", []spec.Local{with(one(), func(l *spec.Local) { l.VirtualRouterID = 54 })},
			Have{Running: []Instance{{Local: one()}}, Single: single},
			"stop instance VI_1: virtual router 53 -> 54\n" +
				"start instance VI_1: virtual router 54, priority 105, [192.168.60.78]"},
		{"other interval", []spec.Local{with(one(), func(l *spec.Local) { l.Interval = 2 * time.Second })},
			Have{Running: []Instance{{Local: one()}}},
			"stop instance VI_1: advert interval 1s -> 2s\n" +
				"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]"},
		{"other version", []spec.Local{with(one(), func(l *spec.Local) { l.Version = packet.V3 })},
			Have{Running: []Instance{{Local: one()}}},
			"stop instance VI_1: VRRP version 2 -> 3\n" +
				"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]"},
		{"other checksum", []spec.Local{with(one(), func(l *spec.Local) { l.Checksum = spec.ChecksumMessage })},
			Have{Running: []Instance{{Local: one()}}}, "update instance VI_1: checksum auto -> message"},
		{"other priority", []spec.Local{with(one(), func(l *spec.Local) { l.Priority = 90 })},
			Have{Running: []Instance{{Local: one()}}}, "update instance VI_1: priority 105 -> 90"},
		{"everything that can be updated", []spec.Local{with(one(), func(l *spec.Local) {
			l.Addresses, l.Preempt, l.PasswordFile = []netip.Addr{single[1]}, false, "/run/p"
			l.Trackers = []spec.Check{check}
		})}, Have{Running: []Instance{{Local: one()}}},
			"update instance VI_1: addresses [192.168.60.78] -> [192.168.60.99], preempt true -> false, " +
				"password file  -> /run/p, trackers"},
		{"an address goes from one instance to a new one", []spec.Local{with(three(), func(l *spec.Local) { l.Addresses = one().Addresses })},
			Have{Running: []Instance{{Local: one()}}, Single: single},
			"stop instance VI_1: no longer wanted on this node\n" +
				"start instance VI_3: virtual router 56, priority 99, [192.168.60.78]"},
		{"trackers as wanted", []spec.Local{with(one(), func(l *spec.Local) { l.Trackers = []spec.Check{check} })},
			Have{Running: []Instance{{Local: with(one(), func(l *spec.Local) { l.Trackers = []spec.Check{check} })}}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var lines []string
			for _, c := range Diff(tt.want, tt.have) {
				lines = append(lines, c.String())
			}
			if got := strings.Join(lines, "\n"); got != tt.plan {
				t.Errorf("got\n%s\nwant\n%s", got, tt.plan)
			}
		})
	}
}
