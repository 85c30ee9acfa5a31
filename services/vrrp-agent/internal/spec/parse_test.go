package spec

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// tutorial is the pair of instances of the tutorial, with a tracker on the first.
func tutorial() []*vrrpv1.Instance {
	return []*vrrpv1.Instance{
		{
			Name: "VI_3", VirtualRouterId: 56, VirtualAddresses: []string{"192.168.60.55"},
			Members: []*vrrpv1.Member{{Node: "haproxy", Priority: 99}, {Node: "haproxy2", Priority: 105}}, Version: 2,
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
			Members: []Member{{Node: "haproxy", Priority: 105}, {Node: "haproxy2", Priority: 99}},
			Version: packet.V2, Interval: 2 * time.Second, PasswordFile: "/run/secrets/VI_1.pass", Refresh: time.Minute,
			Trackers: []Tracker{{
				Name: "router", What: What{Target: "twotier.router.v1.Router"},
				Addresses: map[string]string{"haproxy": "10.99.0.22:7402", "haproxy2": "unix:/run/router.sock"},
				Interval:  200 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 3,
			}},
		},
		{
			Name: "VI_3", VirtualRouterID: 56, Refresh: time.Minute, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.55")},
			Members: []Member{{Node: "haproxy", Priority: 99}, {Node: "haproxy2", Priority: 105}},
			Version: packet.V2, Interval: time.Second, Preempt: true,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseRhythm(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		message  *vrrpv1.Instance
		version  packet.Version
		interval time.Duration
		checksum Checksum
	}{
		{"nothing said", &vrrpv1.Instance{}, packet.V3, 30 * time.Millisecond, ChecksumAuto},
		{"version 2", &vrrpv1.Instance{Version: 2}, packet.V2, time.Second, ChecksumAuto},
		{"authentication", &vrrpv1.Instance{Authentication: &vrrpv1.Authentication{PasswordFile: "/p"}}, packet.V2, time.Second, ChecksumAuto},
		{"compat", &vrrpv1.Instance{Profile: vrrpv1.Profile_PROFILE_COMPAT}, packet.V2, time.Second, ChecksumAuto},
		{"fast", &vrrpv1.Instance{Profile: vrrpv1.Profile_PROFILE_FAST}, packet.V3, 30 * time.Millisecond, ChecksumAuto},
		{"fast, but slower", &vrrpv1.Instance{Profile: vrrpv1.Profile_PROFILE_FAST, AdvertInterval: durationpb.New(time.Second / 2)},
			packet.V3, time.Second / 2, ChecksumAuto},
		{"compat, version 3", &vrrpv1.Instance{Profile: vrrpv1.Profile_PROFILE_COMPAT, Version: 3}, packet.V3, time.Second, ChecksumAuto},
		{"longest", &vrrpv1.Instance{Version: 3, AdvertInterval: durationpb.New(40950 * time.Millisecond),
			Checksum: vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE}, packet.V3, 40950 * time.Millisecond, ChecksumMessage},
		{"shortest", &vrrpv1.Instance{Version: 3, AdvertInterval: durationpb.New(10 * time.Millisecond),
			Checksum: vrrpv1.ChecksumForm_CHECKSUM_FORM_PSEUDO_HEADER}, packet.V3, 10 * time.Millisecond, ChecksumPseudoHeader},
	}
	for _, tt := range tests {
		m := tutorial()[:1]
		m[0].Version, m[0].Profile, m[0].AdvertInterval, m[0].Checksum, m[0].Authentication =
			tt.message.Version, tt.message.Profile, tt.message.AdvertInterval, tt.message.Checksum, tt.message.Authentication
		got, violations := Parse(m)
		if len(violations) > 0 {
			t.Errorf("%s: %v", tt.name, violations)
			continue
		}
		if i := got[0]; i.Version != tt.version || i.Interval != tt.interval || i.Checksum != tt.checksum {
			t.Errorf("%s: got version %d, %v, %v, want %d, %v, %v", tt.name, i.Version, i.Interval, i.Checksum,
				tt.version, tt.interval, tt.checksum)
		}
		if on := On("haproxy", got)[0]; on.Version != tt.version || on.Interval != tt.interval || on.Checksum != tt.checksum {
			t.Errorf("%s: on the node: %+v", tt.name, on)
		}
	}
}

func TestOn(t *testing.T) {
	t.Parallel()
	instances, _ := Parse(tutorial())
	instances[0].Members[0].Addresses = []netip.Addr{netip.MustParseAddr("192.168.60.22")}
	got := On("haproxy2", instances)
	want := []Local{
		{
			Name: "VI_1", Node: "haproxy2", Peers: []Peer{{Node: "haproxy", Priority: 105, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.22")}}}, VirtualRouterID: 53, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")}, Priority: 99,
			Version: packet.V2, Interval: 2 * time.Second, PasswordFile: "/run/secrets/VI_1.pass", Refresh: time.Minute,
			Trackers: []Check{{
				Name: "router", Address: "unix:/run/router.sock", What: What{Target: "twotier.router.v1.Router"},
				Interval: 200 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 3,
			}},
		},
		{
			Name: "VI_3", Node: "haproxy2", Refresh: time.Minute, Peers: []Peer{{Node: "haproxy", Priority: 99}}, VirtualRouterID: 56, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.55")}, Priority: 105,
			Version: packet.V2, Interval: time.Second, Preempt: true,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := On("server1", instances); got != nil {
		t.Errorf("no member: got %+v", got)
	}
}

func mailed(m *vrrpv1.Mail) func([]*vrrpv1.Instance) {
	return func(i []*vrrpv1.Instance) { i[1].Mail = m }
}

// TestParseIPv6: an instance of IPv6 may share the identifier of one of IPv4, and a sync group with it.
func TestParseIPv6(t *testing.T) {
	t.Parallel()
	messages := tutorial()
	v4, v6 := messages[0], proto.Clone(messages[0]).(*vrrpv1.Instance)
	v4.Version, v4.SyncGroup = 3, "both"
	v6.Name, v6.Version, v6.VirtualAddresses, v6.SyncGroup = "VI_6", 3, []string{"fe80::55", "fd00::55"}, "both"
	v6.Members[0].Addresses = []string{"10.99.0.22", "fd00::22"}
	got, violations := Parse([]*vrrpv1.Instance{v4, v6})
	if len(violations) > 0 || len(got) != 2 {
		t.Fatal(violations)
	}
	want := []netip.Addr{netip.MustParseAddr("fe80::55"), netip.MustParseAddr("fd00::55")}
	if i := got[1]; !slices.Equal(i.Addresses, want) || !i.V6() || got[0].V6() || len(i.Members[0].Addresses) != 2 {
		t.Errorf("%+v", got)
	}
}

func TestParseTelling(t *testing.T) {
	t.Parallel()
	messages := tutorial()
	messages[1].Notify = []*vrrpv1.Script{{Argv: []string{"/usr/local/bin/tell", "all"}, User: "root"}}
	program := func(name string) []*vrrpv1.Script { return []*vrrpv1.Script{{Argv: []string{"/bin/" + name}}} }
	messages[1].NotifyMaster, messages[1].NotifyBackup = program("up"), program("backup")
	messages[1].NotifyFault, messages[1].NotifyStop = program("fault"), program("stop")
	mailed(&vrrpv1.Mail{From: "kaadmin@9527du.com", To: []string{"root@localhost"}, Server: "192.168.60.22"})(messages)
	got, violations := Parse(messages)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	hooks := []Hook{{Command: "/bin/up\x00", User: "nobody", State: StateMaster}, {Command: "/bin/backup\x00", User: "nobody", State: StateBackup},
		{Command: "/bin/fault\x00", User: "nobody", State: StateFault}, {Command: "/bin/stop\x00", User: "nobody", State: StateStop},
		{Command: "/usr/local/bin/tell\x00all\x00", User: "root"}}
	mail := Mail{From: "kaadmin@9527du.com", To: []string{"root@localhost"}, Server: "192.168.60.22:25", Timeout: 30 * time.Second}
	if i := got[0]; !reflect.DeepEqual(i.Hooks, hooks) || !reflect.DeepEqual(i.Mail, mail) {
		t.Errorf("got %+v %+v", i.Hooks, i.Mail)
	}
}

func signedBy(h *vrrpv1.Hmac) func([]*vrrpv1.Instance) {
	return func(i []*vrrpv1.Instance) { i[1].Authentication = &vrrpv1.Authentication{Hmac: h} }
}

func TestParseHMAC(t *testing.T) {
	t.Parallel()
	keys := []*vrrpv1.HmacKey{{Id: 1, File: "/k"}, {Id: 0, File: "/l"}}
	for mode, want := range map[vrrpv1.HmacMode]HMAC{
		vrrpv1.HmacMode_HMAC_MODE_UNSPECIFIED:  {Active: 1, Send: true, Require: true},
		vrrpv1.HmacMode_HMAC_MODE_ENFORCE:      {Active: 1, Send: true, Require: true},
		vrrpv1.HmacMode_HMAC_MODE_PERMISSIVE:   {Active: 1, Send: true},
		vrrpv1.HmacMode_HMAC_MODE_RECEIVE_ONLY: {Active: 1},
	} {
		want.Keys = []KeyFile{{1, "/k"}, {0, "/l"}}
		for _, version := range []uint32{2, 3} {
			messages := tutorial()
			signedBy(&vrrpv1.Hmac{Keys: keys, Mode: mode})(messages)
			messages[1].Version = version
			got, violations := Parse(messages)
			if len(violations) > 0 || !reflect.DeepEqual(got[0].HMAC, want) {
				t.Errorf("%v, version %d: got %+v %v", mode, version, got, violations)
			}
		}
	}
	messages := tutorial()
	signedBy(&vrrpv1.Hmac{Keys: keys, Active: new(uint32(0))})(messages)
	if got, _ := Parse(messages); got == nil || got[0].HMAC.Active != 0 {
		t.Errorf("active: got %+v", got)
	}
}

// tracked puts one tracker in the place of all others.
func tracked(tracker *vrrpv1.Tracker) func([]*vrrpv1.Instance) {
	return func(i []*vrrpv1.Instance) {
		tracker.Name = "it"
		i[1].Trackers = []*vrrpv1.Tracker{tracker}
	}
}

func TestParseTrackers(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{"haproxy": "127.0.0.1:80", "haproxy2": "127.0.0.1:81"}
	for _, tt := range []struct {
		message *vrrpv1.Tracker
		want    What
	}{
		{&vrrpv1.Tracker{Script: &vrrpv1.Script{Argv: []string{"/bin/check", "a b", ""}}},
			What{Kind: CheckScript, Target: "nobody", Command: "/bin/check\x00a b\x00\x00"}},
		{&vrrpv1.Tracker{Script: &vrrpv1.Script{Argv: []string{"/bin/check"}, User: "root"}},
			What{Kind: CheckScript, Target: "root", Command: "/bin/check\x00"}},
		{&vrrpv1.Tracker{Process: &vrrpv1.Process{Name: "haproxy"}, Weight: -20}, What{Kind: CheckProcess, Target: "haproxy"}},
		{&vrrpv1.Tracker{File: &vrrpv1.File{Path: "/run/out", Number: true}}, What{Kind: CheckFile, Target: "/run/out", Number: true}},
		{&vrrpv1.Tracker{File: &vrrpv1.File{Path: "/run/out"}, Reverse: true}, What{Kind: CheckFile, Target: "/run/out", Reverse: true}},
		{&vrrpv1.Tracker{File: &vrrpv1.File{Path: "/run/rules", Namespace: true}}, What{Kind: CheckFile, Target: "/run/rules", Namespace: true}},
		{&vrrpv1.Tracker{GrpcHealth: &vrrpv1.GrpcHealth{Service: "d", Address: addresses, LastResort: true}}, What{Kind: CheckGRPC, Target: "d", LastResort: true}},
		{&vrrpv1.Tracker{Interface: &vrrpv1.Interface{Name: "eth1"}}, What{Kind: CheckInterface, Target: "eth1"}},
		{&vrrpv1.Tracker{Route: &vrrpv1.Route{Destination: "0.0.0.0/0"}}, What{Kind: CheckRoute, Target: "0.0.0.0/0"}},
		{&vrrpv1.Tracker{Route: &vrrpv1.Route{Destination: "::/0"}}, What{Kind: CheckRoute, Target: "::/0"}},
		{&vrrpv1.Tracker{Tcp: &vrrpv1.Tcp{Address: addresses}}, What{Kind: CheckTCP}},
		{&vrrpv1.Tracker{EtcdKey: &vrrpv1.EtcdKey{Key: "/in/{node}"}, Reverse: true}, What{Kind: CheckEtcd, Reverse: true}},
		{&vrrpv1.Tracker{EtcdKey: &vrrpv1.EtcdKey{Key: "/in/{node}", Value: new("")}}, What{Kind: CheckEtcd, Exact: true}},
		{&vrrpv1.Tracker{EtcdKey: &vrrpv1.EtcdKey{Key: "/in", Value: new("yes")}}, What{Kind: CheckEtcd, Target: "yes", Exact: true}},
		{&vrrpv1.Tracker{Http: &vrrpv1.Http{Address: addresses, Host: "bbs.9527du.com"}},
			What{Kind: CheckHTTP, Target: "/", Host: "bbs.9527du.com"}},
	} {
		messages := tutorial()
		tracked(tt.message)(messages)
		got, violations := Parse(messages)
		if len(violations) > 0 {
			t.Errorf("%v: %v", tt.message, violations)
			continue
		}
		tracker := got[0].Trackers[0]
		if tracker.What != tt.want || tracker.Weight != int(tt.message.GetWeight()) {
			t.Errorf("got %+v, want %+v", tracker, tt.want)
		}
		if key := tt.message.GetEtcdKey().GetKey(); key != "" && On("haproxy2", got)[0].Trackers[0].Address != strings.ReplaceAll(key, "{node}", "haproxy2") {
			t.Errorf("addresses %v", tracker.Addresses)
		}
		others := ""
		if tt.want.LastResort {
			others = addresses["haproxy"] + "\x00"
		}
		if got := On("haproxy2", got)[0].Trackers[0].Others; got != others {
			t.Errorf("%v: the others are asked at %q, want %q", tt.message, got, others)
		}
		if a := tracker.What.Arguments(); strings.Join(a, "|") != strings.Join(tt.message.GetScript().GetArgv(), "|") {
			t.Errorf("arguments %q", a)
		}
	}
}

// inNetwork gives the first instance a network.
func inNetwork(network string, outside bool) func([]*vrrpv1.Instance) {
	return func(i []*vrrpv1.Instance) { i[0].Network, i[0].OutsideNetwork = network, outside }
}

// routed gives the first instance routes.
func routed(routes ...*vrrpv1.VirtualRoute) func([]*vrrpv1.Instance) {
	return func(i []*vrrpv1.Instance) { i[0].VirtualRoutes = routes }
}

// nowhere is what is said of that many routes without a destination.
func nowhere(count int) (text string) {
	for n := range count {
		text += fmt.Sprintf("\ninstance/VI_3.virtual_routes[%d].destination: want an IPv4 network as in 0.0.0.0/0, got \"\"", n)
	}
	return text
}

// addressV6 gives the first instance those addresses.
func addressV6(a ...string) func([]*vrrpv1.Instance) {
	return func(i []*vrrpv1.Instance) { i[0].VirtualAddresses, i[0].Version = a, 3 }
}

func TestParsePlacement(t *testing.T) {
	t.Parallel()
	messages := tutorial()
	messages[0].Placement = vrrpv1.Placement_PLACEMENT_SPREAD
	got, violations := Parse(messages)
	if len(violations) > 0 || !got[1].Spread || got[1].Preempt || !On("haproxy", got)[1].Spread || got[0].Spread {
		t.Errorf("got %+v %v", got, violations)
	}
}

func TestParseRoutes(t *testing.T) {
	t.Parallel()
	messages := tutorial()
	routed(&vrrpv1.VirtualRoute{Destination: "0.0.0.0/0", Via: "192.168.60.99", Source: "192.168.60.55", Metric: 7},
		&vrrpv1.VirtualRoute{Destination: "10.0.0.0/8"})(messages)
	got, violations := Parse(messages)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	if text := fmt.Sprint(On("haproxy", got)[1].Routes); text != "[0.0.0.0/0 via 192.168.60.99 src 192.168.60.55 metric 7 10.0.0.0/8]" {
		t.Errorf("got %s", text)
	}

	addressV6("fe80::55", "fd00::55")(messages)
	routed(&vrrpv1.VirtualRoute{Destination: "::/0", Via: "fe80::1", Source: "fd00::55"},
		&vrrpv1.VirtualRoute{Destination: "fd00:1::/64", Via: "fd00::1", Metric: 7})(messages)
	got, violations = Parse(messages)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	if text := fmt.Sprint(On("haproxy", got)[1].Routes); text != "[::/0 via fe80::1 src fd00::55 metric 1024 fd00:1::/64 via fd00::1 metric 7]" {
		t.Errorf("got %s", text)
	}
}

func TestParseNetwork(t *testing.T) {
	t.Parallel()
	messages := tutorial()
	inNetwork("192.168.60.0/24", false)(messages)
	got, violations := Parse(messages)
	if want := netip.MustParsePrefix("192.168.60.0/24"); len(violations) > 0 || On("haproxy", got)[1].Network != want {
		t.Errorf("inside: got %+v %v", got, violations)
	}
	inNetwork("192.168.61.0/24", true)(messages)
	messages[0].VirtualAddresses = []string{"192.168.60.55", "203.0.113.9"}
	if got, violations = Parse(messages); len(violations) > 0 || len(got[1].Addresses) != 2 {
		t.Errorf("outside: got %+v %v", got, violations)
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
		{"member's address", func(i []*vrrpv1.Instance) { i[1].Members[1].Addresses = []string{"192.168.60.128", "2001:db8::1/64"} },
			`instance/VI_1.members[1].addresses[1]: want an IPv4 or IPv6 address of that node, without a mask, got "2001:db8::1/64"`},
		{"too many addresses of a member", func(i []*vrrpv1.Instance) {
			for n := range 17 {
				i[1].Members[0].Addresses = append(i[1].Members[0].Addresses, fmt.Sprintf("192.168.60.%d", n+1))
			}
		}, "instance/VI_1.members[0].addresses: want 16 addresses at most, got 17"},
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
			`instance/VI_3.virtual_addresses[0]: want an IPv4 or IPv6 address without a mask, got "192.168.60.55/24"`},
		{"IPv6 in version 2", address("fe80::55", "fd00::55"), "instance/VI_3.version: IPv6 needs version 3"},
		{"IPv6 without a link-local address", addressV6("fd00::55"),
			"instance/VI_3.virtual_addresses[0]: want a link-local address first (RFC 9568, section 5.2.9), such as fe80::55, got fd00::55"},
		{"IPv6, link-local only", addressV6("fe80::55"),
			"instance/VI_3.virtual_addresses: want one that is not link-local: the network card is found by its subnet"},
		{"both families", addressV6("fe80::55", "fd00::55", "192.168.60.55"),
			"instance/VI_3.virtual_addresses[2]: want one family in all addresses: fe80::55 and 192.168.60.55 are two instances, which a sync group can hold together"},
		{"IPv6 with a zone", addressV6("fe80::55%eth0", "fd00::55"),
			`instance/VI_3.virtual_addresses[0]: want an IPv4 or IPv6 address without a mask, got "fe80::55%eth0"`},
		{"IPv4 in IPv6", address("::ffff:192.168.60.55"),
			`instance/VI_3.virtual_addresses[0]: want an IPv4 or IPv6 address without a mask, got "::ffff:192.168.60.55"`},
		{"IPv6 multicast", addressV6("fe80::55", "ff02::12"),
			"instance/VI_3.virtual_addresses[1]: want an address that one machine can have, got ff02::12\n" +
				"instance/VI_3.virtual_addresses: want one that is not link-local: the network card is found by its subnet"},
		{"IPv6 with the sum of the message", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			i[0].Checksum = vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE
		}, "instance/VI_3.checksum: on IPv6 the checksum always covers the pseudo-header"},
		{"IPv6 with a network of IPv4", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			inNetwork("192.168.60.0/24", false)(i)
		}, "instance/VI_3.network: want a network of the family of virtual_addresses, got 192.168.60.0/24"},
		{"IPv6 outside the network", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00:60::55")(i)
			inNetwork("fd00:61::/64", false)(i)
		}, "instance/VI_3.virtual_addresses[1]: fd00:60::55 is not in network fd00:61::/64; with outside_network it may be elsewhere"},
		{"IPv6 with routes", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			i[0].VirtualRoutes = []*vrrpv1.VirtualRoute{{Destination: "10.0.0.0/8"}}
		}, `instance/VI_3.virtual_routes[0].destination: want an IPv6 network as in ::/0, got "10.0.0.0/8"`},
		{"IPv6 with a gateway of IPv4", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			i[0].VirtualRoutes = []*vrrpv1.VirtualRoute{{Destination: "::/0", Via: "192.168.60.99"}}
		}, `instance/VI_3.virtual_routes[0].via: want the IPv6 address of a gateway, got "192.168.60.99"`},
		{"IPv6 with a gateway on a card", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			i[0].VirtualRoutes = []*vrrpv1.VirtualRoute{{Destination: "::/0", Via: "fe80::1%eth0"}}
		}, `instance/VI_3.virtual_routes[0].via: want the IPv6 address of a gateway, got "fe80::1%eth0"`},
		{"IPv6 with the same route twice", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			i[0].VirtualRoutes = []*vrrpv1.VirtualRoute{{Destination: "::/0", Via: "fe80::1"}, {Destination: "::/0", Metric: 1024}}
		}, "instance/VI_3.virtual_routes[1]: instance VI_3 has a route to ::/0 with metric 1024 already; give this one another metric"},
		{"IPv6 routes on IPv4", routed(&vrrpv1.VirtualRoute{Destination: "::/0"}),
			`instance/VI_3.virtual_routes[0].destination: want an IPv4 network as in 0.0.0.0/0, got "::/0"`},
		{"unicast of another family", func(i []*vrrpv1.Instance) {
			addressV6("fe80::55", "fd00::55")(i)
			i[0].Unicast = true
			i[0].Members[0].Addresses, i[0].Members[1].Addresses = []string{"fd00::22"}, []string{"192.168.60.128", "fd00::128"}
		}, "instance/VI_3.members[1].addresses[0]: want an address of the family of virtual_addresses for adverts by unicast, got 192.168.60.128"},
		{"loopback", address("127.0.0.1"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 127.0.0.1"},
		{"unspecified", address("0.0.0.0"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 0.0.0.0"},
		{"multicast", address("224.0.0.18"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 224.0.0.18"},
		{"broadcast", address("255.255.255.255"),
			"instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 255.255.255.255"},
		{"link-local", address("169.254.0.1"), "instance/VI_3.virtual_addresses[0]: want an address that one machine can have, got 169.254.0.1"},
		{"addresses of no network", address("192.168.60.55", "10.0.0.1"), "instance/VI_3.virtual_addresses[1]: 192.168.60.55 and 10.0.0.1 are " +
			"in no network together; use an instance for each, or give network and outside_network"},
		{"own address of a member", func(i []*vrrpv1.Instance) { i[0].Members[1].Addresses = []string{"10.99.0.128", "192.168.60.55"} },
			"instance/VI_3.virtual_addresses[0]: 192.168.60.55 is members[1]'s own address, which cannot move"},
		{"address outside the network", inNetwork("192.168.61.0/24", false),
			"instance/VI_3.virtual_addresses[0]: 192.168.60.55 is not in network 192.168.61.0/24; with outside_network it may be elsewhere"},
		{"network with a host part", inNetwork("192.168.60.1/24", false),
			`instance/VI_3.network: want a network as in 192.168.60.0/24, got "192.168.60.1/24"`},
		{"network of one address", inNetwork("192.168.60.55/32", false),
			`instance/VI_3.network: want a network as in 192.168.60.0/24, got "192.168.60.55/32"`},
		{"network of everything", inNetwork("0.0.0.0/0", false), `instance/VI_3.network: want a network as in 192.168.60.0/24, got "0.0.0.0/0"`},
		{"outside of what", inNetwork("", true), "instance/VI_3.network: want the network that the addresses may lie outside of"},
		{"unicast to another network", func(i []*vrrpv1.Instance) {
			inNetwork("192.168.60.0/24", false)(i)
			i[0].Unicast, i[0].Members[0].Addresses, i[0].Members[1].Addresses = true, []string{"192.168.60.22"}, []string{"10.99.0.128"}
		}, "instance/VI_3.members[1].addresses[0]: 10.99.0.128 is not in network 192.168.60.0/24, where adverts go"},
		{"adverts from the card without need", func(i []*vrrpv1.Instance) { i[0].AdvertsFromCard = true },
			"instance/VI_3.adverts_from_card: without virtual_mac adverts always come from the card"},
		{"refresh too often", func(i []*vrrpv1.Instance) { i[0].AnnounceRefresh = durationpb.New(time.Millisecond) },
			"instance/VI_3.announce_refresh: want 1s to 1h0m0s, got 1ms"},
		{"too many routes", routed(make([]*vrrpv1.VirtualRoute, 17)...), "instance/VI_3.virtual_routes: want 16 routes at most, got 17" +
			nowhere(17)},
		{"route with a host part", routed(&vrrpv1.VirtualRoute{Destination: "10.0.0.1/8"}),
			`instance/VI_3.virtual_routes[0].destination: want an IPv4 network as in 0.0.0.0/0, got "10.0.0.1/8"`},
		{"route via nowhere", routed(&vrrpv1.VirtualRoute{Destination: "0.0.0.0/0", Via: "127.0.0.1"}),
			`instance/VI_3.virtual_routes[0].via: want the IPv4 address of a gateway, got "127.0.0.1"`},
		{"route from another address", routed(&vrrpv1.VirtualRoute{Destination: "0.0.0.0/0", Source: "192.168.60.78"}),
			`instance/VI_3.virtual_routes[0].source: want one of the virtual addresses, got "192.168.60.78"`},
		{"route twice", func(i []*vrrpv1.Instance) {
			r := &vrrpv1.VirtualRoute{Destination: "0.0.0.0/0", Via: "192.168.60.99"}
			i[0].VirtualRoutes, i[1].VirtualRoutes = []*vrrpv1.VirtualRoute{r}, []*vrrpv1.VirtualRoute{r}
		}, "instance/VI_3.virtual_routes[0]: instance VI_1 has a route to 0.0.0.0/0 with metric 0 already; give this one another metric"},
		{"spread in a sync group", func(i []*vrrpv1.Instance) {
			i[1].Placement, i[1].SyncGroup = vrrpv1.Placement_PLACEMENT_SPREAD, "g"
		}, "instance/VI_1.placement: the instances of a sync group are held by one node; they cannot be spread"},
		{"spread and preempted", func(i []*vrrpv1.Instance) {
			i[0].Placement, i[0].PreemptDelay = vrrpv1.Placement_PLACEMENT_SPREAD, durationpb.New(time.Second)
		}, "instance/VI_3.preempt_delay: an instance that is spread is not preempted"},
		{"unknown placement", func(i []*vrrpv1.Instance) { i[0].Placement = 9 }, "instance/VI_3.placement: want priority or spread, got 9"},
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
			"instance/VI_3.advert_interval: want whole seconds with version 2, got 1.5s"},
		{"interval too long", func(i []*vrrpv1.Instance) { i[0].AdvertInterval = durationpb.New(256 * time.Second) },
			"instance/VI_3.advert_interval: want 1s to 4m15s, got 4m16s"},
		{"version 4", func(i []*vrrpv1.Instance) { i[0].Version = 4 }, "instance/VI_3.version: want 2 or 3, got 4"},
		{"unknown profile", func(i []*vrrpv1.Instance) { i[0].Profile = 7 }, "instance/VI_3.profile: want compat or fast, got 7"},
		{"profile fast with version 2", func(i []*vrrpv1.Instance) { i[0].Version, i[0].Profile = 2, vrrpv1.Profile_PROFILE_FAST },
			"instance/VI_3.version: the profile fast needs version 3"},
		{"version 3: interval too short", func(i []*vrrpv1.Instance) {
			i[0].Version, i[0].AdvertInterval = 3, durationpb.New(9*time.Millisecond)
		}, "instance/VI_3.advert_interval: want 10ms to 40.95s, got 9ms"},
		{"version 3: interval too long", func(i []*vrrpv1.Instance) {
			i[0].Version, i[0].AdvertInterval = 3, durationpb.New(40960*time.Millisecond)
		}, "instance/VI_3.advert_interval: want 10ms to 40.95s, got 40.96s"},
		{"version 3: interval of parts of a centisecond", func(i []*vrrpv1.Instance) {
			i[0].Version, i[0].AdvertInterval = 3, durationpb.New(15*time.Millisecond)
		}, "instance/VI_3.advert_interval: want steps of 10ms, got 15ms"},
		{"version 3 with a password", func(i []*vrrpv1.Instance) { i[1].Version = 3 }, "instance/VI_1.authentication.password_file: version 3 has no password; hmac signs its adverts"},
		{"checksum with version 2", func(i []*vrrpv1.Instance) { i[0].Checksum = vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE },
			"instance/VI_3.checksum: only version 3 has a choice"},
		{"unknown checksum", func(i []*vrrpv1.Instance) { i[0].Version, i[0].Checksum = 3, 9 },
			"instance/VI_3.checksum: want pseudo-header or message, got 9"},
		{"relative password file", func(i []*vrrpv1.Instance) { i[1].Authentication.PasswordFile = "pass" },
			`instance/VI_1.authentication.password_file: want the absolute path of a file, got "pass"`},
		{"tracker twice", func(i []*vrrpv1.Instance) { i[1].Trackers = append(i[1].Trackers, i[1].Trackers[0]) },
			`instance/VI_1.trackers[1].name: "router" is the name of trackers[0] already`},
		{"tracker without a name", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Name = "" },
			"instance/VI_1.trackers[0].name: " + wantName + `, got ""`},
		{"password and keys", func(i []*vrrpv1.Instance) { i[1].Authentication.Hmac = &vrrpv1.Hmac{} },
			"instance/VI_1.authentication: want password_file or hmac, not both"},
		{"no keys", signedBy(&vrrpv1.Hmac{}), "instance/VI_1.authentication.hmac.keys: want 1 to 8 keys, got 0"},
		{"key without a file", signedBy(&vrrpv1.Hmac{Keys: []*vrrpv1.HmacKey{{Id: 1}}}),
			`instance/VI_1.authentication.hmac.keys[0].file: want the absolute path of a file, got ""`},
		{"two keys of one name", signedBy(&vrrpv1.Hmac{Keys: []*vrrpv1.HmacKey{{Id: 1, File: "/k"}, {Id: 1, File: "/l"}}}),
			"instance/VI_1.authentication.hmac.keys[1].id: 1 is the identifier of another key already"},
		{"active key that is not there", signedBy(&vrrpv1.Hmac{Active: new(uint32(3)), Keys: []*vrrpv1.HmacKey{{Id: 1, File: "/k"}}}),
			"instance/VI_1.authentication.hmac.active: 3 is the identifier of no key"},
		{"sync group of different members", func(i []*vrrpv1.Instance) { i[0].SyncGroup, i[1].SyncGroup = "g", "g" },
			"instance/VI_3.members: want the members and priorities of instance VI_1, which is in sync group g too\n" +
				"instance/VI_3.sync_group: want version, advert_interval, nopreempt and preempt_delay of instance VI_1, which is in sync group g too"},
		{"sync group with a weight", func(i []*vrrpv1.Instance) { i[1].SyncGroup, i[1].Trackers[0].Weight = "g", -20 },
			"instance/VI_1.trackers[0].weight: in a sync group a failure is the fault of all; a weight would part them"},
		{"name of a sync group", func(i []*vrrpv1.Instance) { i[1].SyncGroup = "a b" }, "instance/VI_1.sync_group: " + wantName + `, got "a b"`},
		{"unicast to nowhere", func(i []*vrrpv1.Instance) { i[1].Unicast, i[1].Members[0].Addresses = true, []string{"192.168.60.22"} },
			"instance/VI_1.members[1].addresses: want the address for adverts by unicast"},
		{"too many programs", func(i []*vrrpv1.Instance) {
			for range 9 {
				i[1].Notify = append(i[1].Notify, &vrrpv1.Script{Argv: []string{"/bin/true"}})
			}
		}, "instance/VI_1.notify: want 8 programs at most, got 9"},
		{"program without a path", func(i []*vrrpv1.Instance) { i[1].Notify = []*vrrpv1.Script{{Argv: []string{"tell"}}} },
			`instance/VI_1.notify[0].argv[0]: want the absolute path of a program, got "tell"`},
		{"mail to nobody", mailed(&vrrpv1.Mail{From: "a@b", Server: "c"}), "instance/VI_1.mail.to: want 1 to 16 addresses, got 0"},
		{"mail from nobody", mailed(&vrrpv1.Mail{To: []string{"a@b"}, Server: "c"}), `instance/VI_1.mail.from: want an address of mail, got ""`},
		{"mail with a line end", mailed(&vrrpv1.Mail{From: "a@b", To: []string{"a@b\nDATA"}, Server: "c"}),
			`instance/VI_1.mail.to[0]: want an address of mail, got "a@b\nDATA"`},
		{"mail without a server", mailed(&vrrpv1.Mail{From: "a@b", To: []string{"a@b"}}), `instance/VI_1.mail.server: want HOST or HOST:PORT, got ""`},
		{"hasty mail", mailed(&vrrpv1.Mail{From: "a@b", To: []string{"a@b"}, Server: "c:26", Timeout: durationpb.New(1)}),
			"instance/VI_1.mail.timeout: want 1s to 5m0s, got 1ns"},
		{"weight that moves nothing", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Weight = -5 },
			"instance/VI_1.trackers[0].weight: -5 can never move the addresses, whatever all trackers find: -7 would do; or leave the weight out, and a failure is a fault"},
		{"weight out of range", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Weight = -254 },
			"instance/VI_1.trackers[0].weight: want -253 to 253, got -254"},
		{"tracker of two things", func(i []*vrrpv1.Instance) { i[1].Trackers[0].Process = &vrrpv1.Process{Name: "haproxy"} },
			"instance/VI_1.trackers[0]: want exactly one of grpc_health, script, process, file, interface, route, tcp, http and etcd_key, got 2"},
		{"relative script", tracked(&vrrpv1.Tracker{Script: &vrrpv1.Script{Argv: []string{"check"}}}),
			`instance/VI_1.trackers[0].script.argv[0]: want the absolute path of a program, got "check"`},
		{"no script", tracked(&vrrpv1.Tracker{Script: &vrrpv1.Script{}}),
			"instance/VI_1.trackers[0].script.argv: want a program and its arguments, 32 at most, got 0"},
		{"user of a script", tracked(&vrrpv1.Tracker{Script: &vrrpv1.Script{Argv: []string{"/bin/true"}, User: "Nobody 1"}}),
			`instance/VI_1.trackers[0].script.user: want the name of a user, got "Nobody 1"`},
		{"reversed script", tracked(&vrrpv1.Tracker{Reverse: true, Script: &vrrpv1.Script{Argv: []string{"/bin/true"}}}),
			"instance/VI_1.trackers[0].reverse: only process, file, interface, route and etcd_key can be reversed"},
		{"long process", tracked(&vrrpv1.Tracker{Process: &vrrpv1.Process{Name: "a-name-that-is-cut"}}),
			`instance/VI_1.trackers[0].process.name: want 1 to 15 bytes without slashes, got "a-name-that-is-cut"`},
		{"relative file", tracked(&vrrpv1.Tracker{File: &vrrpv1.File{Path: "/run/../etc"}}),
			`instance/VI_1.trackers[0].file.path: want the absolute path of a file, got "/run/../etc"`},
		{"file with two meanings", tracked(&vrrpv1.Tracker{File: &vrrpv1.File{Path: "/run/rules", Number: true, Namespace: true}}),
			"instance/VI_1.trackers[0].file.namespace: the file holds either a number or the mark of a namespace"},
		{"last resort by a socket", func(i []*vrrpv1.Instance) {
			i[1].Trackers[0].GrpcHealth.LastResort = true
			i[1].Trackers[0].GrpcHealth.Address = map[string]string{"haproxy": "unix:/a", "haproxy2": "b:1"}
		}, `instance/VI_1.trackers[0].grpc_health.address[haproxy]: want HOST:PORT, got "unix:/a"`},
		{"no key", tracked(&vrrpv1.Tracker{EtcdKey: &vrrpv1.EtcdKey{}}), "instance/VI_1.trackers[0].etcd_key.key: want 1 to 1024 bytes, got 0"},
		{"no card", tracked(&vrrpv1.Tracker{Interface: &vrrpv1.Interface{}}),
			`instance/VI_1.trackers[0].interface.name: want the name of a network card, got ""`},
		{"route with a host part", tracked(&vrrpv1.Tracker{Route: &vrrpv1.Route{Destination: "10.0.0.1/8"}}),
			`instance/VI_1.trackers[0].route.destination: want a network as in 10.0.0.0/8 or ::/0, got "10.0.0.1/8"`},
		{"HTTP to a socket", tracked(&vrrpv1.Tracker{Http: &vrrpv1.Http{Address: map[string]string{"haproxy": "unix:/a", "haproxy2": "a:80"}}}),
			`instance/VI_1.trackers[0].http.address[haproxy]: want HOST:PORT, got "unix:/a"`},
		{"HTTP path", tracked(&vrrpv1.Tracker{Http: &vrrpv1.Http{Path: "x", Address: map[string]string{"haproxy": "a:80", "haproxy2": "a:80"}}}),
			`instance/VI_1.trackers[0].http.path: want a path that begins with a slash, got "x"`},
		{"TCP without an address", tracked(&vrrpv1.Tracker{Tcp: &vrrpv1.Tcp{Address: map[string]string{"haproxy": "a:80"}}}),
			"instance/VI_1.trackers[0].tcp.address: want an address for each member, none for haproxy2"},
		{"long hold down", func(i []*vrrpv1.Instance) { i[1].Trackers[0].HoldDown = durationpb.New(time.Hour) },
			"instance/VI_1.trackers[0].hold_down: want 0s to 10m0s, got 1h0m0s"},
		{"delay of nothing", func(i []*vrrpv1.Instance) { i[1].Nopreempt, i[1].PreemptDelay = true, durationpb.New(time.Second) },
			"instance/VI_1.preempt_delay: nopreempt leaves nothing to delay"},
		{"tracker of nothing", func(i []*vrrpv1.Instance) { i[1].Trackers[0].GrpcHealth = nil },
			"instance/VI_1.trackers[0]: want exactly one of grpc_health, script, process, file, interface, route, tcp, http and etcd_key, got 0"},
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
