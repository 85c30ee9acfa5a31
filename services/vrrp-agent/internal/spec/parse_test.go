package spec

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
)

// tutorial is the pair of instances of the tutorial, with a tracker on the first.
func tutorial() []*vrrpv1.Instance {
	return []*vrrpv1.Instance{
		{
			Name: "VI_3", VirtualRouterId: 56, VirtualAddresses: []string{"192.168.60.55"},
			Members: []*vrrpv1.Member{{Node: "haproxy", Priority: 99}, {Node: "haproxy2", Priority: 105}},
		},
		{
			Name: "VI_1", VirtualRouterId: 53, VirtualAddresses: []string{"192.168.60.78"},
			Members:        []*vrrpv1.Member{{Node: "haproxy", Priority: 105}, {Node: "haproxy2", Priority: 99}},
			AdvertInterval: durationpb.New(2 * time.Second), Nopreempt: true,
			Authentication: &vrrpv1.Authentication{PasswordFile: "/run/secrets/VI_1.pass"},
			Trackers: []*vrrpv1.Tracker{{
				Name: "router",
				GrpcHealth: &vrrpv1.GrpcHealth{
					Address: map[string]string{"haproxy": "10.99.0.22:7402", "haproxy2": "unix:/run/router.sock"},
					Service: "twotier.router.v1.Router",
				},
				Fall: 3,
			}},
		},
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, violations := Parse(tutorial())
	if len(violations) > 0 {
		t.Fatalf("violations: %v", violations)
	}
	want := []Instance{
		{
			Name: "VI_1", VirtualRouterID: 53, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
			Members:  []Member{{"haproxy", 105}, {"haproxy2", 99}},
			Interval: 2 * time.Second, PasswordFile: "/run/secrets/VI_1.pass",
			Trackers: []Tracker{{
				Name: "router", Service: "twotier.router.v1.Router",
				Addresses: map[string]string{"haproxy": "10.99.0.22:7402", "haproxy2": "unix:/run/router.sock"},
				Interval:  200 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 3,
			}},
		},
		{
			Name: "VI_3", VirtualRouterID: 56, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.55")},
			Members:  []Member{{"haproxy", 99}, {"haproxy2", 105}},
			Interval: time.Second, Preempt: true,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestOn(t *testing.T) {
	t.Parallel()
	instances, _ := Parse(tutorial())
	got := On("haproxy2", instances)
	want := []Local{
		{
			Name: "VI_1", VirtualRouterID: 53, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")}, Priority: 99,
			Interval: 2 * time.Second, PasswordFile: "/run/secrets/VI_1.pass",
			Trackers: []Check{{
				Name: "router", Address: "unix:/run/router.sock", Service: "twotier.router.v1.Router",
				Interval: 200 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 3,
			}},
		},
		{
			Name: "VI_3", VirtualRouterID: 56, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.55")}, Priority: 105,
			Interval: time.Second, Preempt: true,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := On("server1", instances); got != nil {
		t.Errorf("no member: got %+v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	address := func(a ...string) func([]*vrrpv1.Instance) {
		return func(i []*vrrpv1.Instance) { i[0].VirtualAddresses = a }
	}
	tests := []struct {
		name   string
		change func(i []*vrrpv1.Instance)
		want   string // field: description, without the instance's name
	}{
		{"no name", func(i []*vrrpv1.Instance) { i[0].Name = "" }, "instance/.name: " + wantName + `, got ""`},
		{"name with a slash", func(i []*vrrpv1.Instance) { i[0].Name = "a/b" }, "instance/a/b.name: " + wantName + `, got "a/b"`},
		{"same name", func(i []*vrrpv1.Instance) { i[0].Name = "VI_1" }, "instance/VI_1.name: there is another instance of this name"},
		{"router id 0", func(i []*vrrpv1.Instance) { i[0].VirtualRouterId = 0 }, "instance/VI_3.virtual_router_id: want 1 to 255, got 0"},
		{"router id 256", func(i []*vrrpv1.Instance) { i[0].VirtualRouterId = 256 }, "instance/VI_3.virtual_router_id: want 1 to 255, got 256"},
		{"same router id", func(i []*vrrpv1.Instance) { i[0].VirtualRouterId = 53 },
			"instance/VI_3.virtual_router_id: 53 belongs to instance VI_1 already"},
		{"no address", address(), "instance/VI_3.virtual_addresses: want 1 to 20 addresses, got 0"},
		{"too many addresses", func(i []*vrrpv1.Instance) {
			i[0].VirtualAddresses = nil
			for n := range 21 {
				i[0].VirtualAddresses = append(i[0].VirtualAddresses, fmt.Sprintf("192.168.60.%d", 100+n))
			}
		}, "instance/VI_3.virtual_addresses: want 1 to 20 addresses, got 21"},
		{"address of the other", address("192.168.60.78"), "instance/VI_3.virtual_addresses[0]: 192.168.60.78 belongs to instance VI_1 already"},
		{"address twice", address("192.168.60.55", "192.168.60.55"),
			"instance/VI_3.virtual_addresses[1]: 192.168.60.55 belongs to instance VI_3 already"},
		{"address with mask", address("192.168.60.55/24"),
			`instance/VI_3.virtual_addresses[0]: want an IPv4 address without a mask, got "192.168.60.55/24"`},
		{"IPv6", address("fd00::1"), `instance/VI_3.virtual_addresses[0]: want an IPv4 address without a mask, got "fd00::1"`},
		{"loopback", address("127.0.0.1"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 127.0.0.1"},
		{"unspecified", address("0.0.0.0"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 0.0.0.0"},
		{"multicast", address("224.0.0.18"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 224.0.0.18"},
		{"broadcast", address("255.255.255.255"),
			"instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 255.255.255.255"},
		{"link-local", address("169.254.0.1"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 169.254.0.1"},
		{"no members", func(i []*vrrpv1.Instance) { i[0].Members = nil }, "instance/VI_3.members: want 1 to 32 members, got 0"},
		{"no node", func(i []*vrrpv1.Instance) { i[0].Members[0].Node = "" }, `instance/VI_3.members[0].node: ` + wantName + `, got ""`},
		{"node twice", func(i []*vrrpv1.Instance) { i[0].Members[1].Node = "haproxy" },
			"instance/VI_3.members[1].node: haproxy is members[0] already"},
		{"priority 0", func(i []*vrrpv1.Instance) { i[0].Members[1].Priority = 0 }, "instance/VI_3.members[1].priority: want 1 to 254, got 0"},
		{"priority 255", func(i []*vrrpv1.Instance) { i[0].Members[1].Priority = 255 },
			"instance/VI_3.members[1].priority: want 1 to 254, got 255"},
		{"equal priorities", func(i []*vrrpv1.Instance) { i[0].Members[1].Priority = 99 }, "instance/VI_3.members[1].priority: " +
			"99 is the priority of members[0] already; with two equals chance decides who is master"},
		{"interval below a second", func(i []*vrrpv1.Instance) { i[0].AdvertInterval = durationpb.New(time.Millisecond) },
			"instance/VI_3.advert_interval: want 1s to 4m15s, got 1ms"},
		{"interval of parts of a second", func(i []*vrrpv1.Instance) { i[0].AdvertInterval = durationpb.New(1500 * time.Millisecond) },
			"instance/VI_3.advert_interval: want whole seconds, got 1.5s"},
		{"interval too long", func(i []*vrrpv1.Instance) { i[0].AdvertInterval = durationpb.New(256 * time.Second) },
			"instance/VI_3.advert_interval: want 1s to 4m15s, got 4m16s"},
		{"relative password file", func(i []*vrrpv1.Instance) { i[1].Authentication.PasswordFile = "pass" },
			`instance/VI_1.authentication.password_file: want the absolute path of a file, got "pass"`},
		{"tracker twice", func(i []*vrrpv1.Instance) { i[1].Trackers = append(i[1].Trackers, i[1].Trackers[0]) },
			`instance/VI_1.trackers[1].name: "router" is the name of trackers[0] already`},
		{"tracker without a name", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Name = "" },
			"instance/VI_1.trackers[0].name: " + wantName + `, got ""`},
		{"tracker of nothing", func(i []*vrrpv1.Instance) { i[1].Trackers[0].GrpcHealth = nil },
			"instance/VI_1.trackers[0].grpc_health: want what to ask"},
		{"member without a check", func(i []*vrrpv1.Instance) { delete(i[1].Trackers[0].GrpcHealth.Address, "haproxy") },
			"instance/VI_1.trackers[0].grpc_health.address: want an address for each member, none for haproxy"},
		{"check of a stranger", func(i []*vrrpv1.Instance) { i[1].Trackers[0].GrpcHealth.Address["haproxy3"] = "10.99.0.3:1" },
			`instance/VI_1.trackers[0].grpc_health.address[haproxy3]: "haproxy3" is no member of this instance`},
		{"address without port", func(i []*vrrpv1.Instance) { i[1].Trackers[0].GrpcHealth.Address["haproxy"] = "10.99.0.22" },
			`instance/VI_1.trackers[0].grpc_health.address[haproxy]: want HOST:PORT or unix:PATH, got "10.99.0.22"`},
		{"port 0", func(i []*vrrpv1.Instance) { i[1].Trackers[0].GrpcHealth.Address["haproxy"] = "10.99.0.22:0" },
			`instance/VI_1.trackers[0].grpc_health.address[haproxy]: want HOST:PORT or unix:PATH, got "10.99.0.22:0"`},
		{"relative socket", func(i []*vrrpv1.Instance) { i[1].Trackers[0].GrpcHealth.Address["haproxy"] = "unix:a" },
			`instance/VI_1.trackers[0].grpc_health.address[haproxy]: want HOST:PORT or unix:PATH, got "unix:a"`},
		{"check too often", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Interval = durationpb.New(time.Millisecond) },
			"instance/VI_1.trackers[0].interval: want 10ms to 1m0s, got 1ms"},
		{"negative timeout", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Timeout = durationpb.New(-1) },
			"instance/VI_1.trackers[0].timeout: want 1ms to 1m0s, got -1ns"},
		{"rise", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Rise = 101 }, "instance/VI_1.trackers[0].rise: want 1 to 100, got 101"},
		{"fall", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Fall = 101 }, "instance/VI_1.trackers[0].fall: want 1 to 100, got 101"},
		{"too many trackers", func(i []*vrrpv1.Instance) {
			first := i[1].Trackers[0]
			for n := range 16 {
				i[1].Trackers = append(i[1].Trackers, &vrrpv1.Tracker{Name: fmt.Sprint("t", n), GrpcHealth: first.GrpcHealth})
			}
		}, "instance/VI_1.trackers: want 16 trackers at most, got 17"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			messages := tutorial()
			tt.change(messages)
			instances, violations := Parse(messages)
			var got []string
			for _, v := range violations {
				got = append(got, v.Field+": "+v.Description)
			}
			if instances != nil || strings.Join(got, "\n") != tt.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), tt.want)
			}
		})
	}
}
