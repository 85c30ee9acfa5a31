package spec

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

func TestVIPIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"10.10.60.22:80", "10.10.60.22:53/udp", "[2001:db8::22]:80", "[2001:db8::22]:53/udp", "fwmark:7", "fwmark:4294967295/ipv6"} {
		v, err := ParseVIP(s)
		if err != nil || v.String() != s || !v.IsValid() {
			t.Errorf("%s: got %q, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "10.10.60.22", "10.10.60.22:80/tcp", "fwmark:0", "fwmark:", "fwmark:4294967296", "fwmark:7/udp", ":80"} {
		if v, err := ParseVIP(s); err == nil {
			t.Errorf("%q: got %v", s, v)
		}
	}
}

// Each feature that is asked for is read, and the plane that has it not refuses it at the field.
func TestFeatures(t *testing.T) {
	t.Parallel()
	gue := &directorv1.Tunnel{Type: directorv1.TunnelType_TUNNEL_TYPE_GUE, Port: 6080, Checksum: directorv1.TunnelChecksum_TUNNEL_CHECKSUM_REMOTE}
	want, violations := Parse([]proto.Message{
		&directorv1.VirtualService{
			Name: "dns", Address: "10.10.60.22", Port: 53, Protocol: directorv1.Protocol_PROTOCOL_UDP, Scheduler: "twos",
			Persistence: &directorv1.Persistence{Prefix: 24}, SlowStart: durationpb.New(time.Minute), Foreign: directorv1.Foreign_FOREIGN_REFUSE,
			RealServers: []*directorv1.RealServer{
				{Address: "192.168.60.78", Port: 5353, UpperThreshold: 10, LowerThreshold: 5},
				{Address: "192.168.60.79", Forwarding: directorv1.Forwarding_FORWARDING_DIRECT},
				{Address: "2001:db8:60::80", Forwarding: directorv1.Forwarding_FORWARDING_TUNNEL, Tunnel: gue},
			},
		},
		&directorv1.VirtualService{
			Name: "marked", Fwmark: 7, Family: directorv1.Family_FAMILY_IPV6, Forwarding: directorv1.Forwarding_FORWARDING_TUNNEL,
			RealServers: []*directorv1.RealServer{
				{Address: "2001:db8:60::80"}, {Address: "2001:db8:60::81", Forwarding: directorv1.Forwarding_FORWARDING_MASQUERADE, Port: 8080},
			},
		},
	}, "lvs")
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	at := netip.MustParseAddrPort
	services := []Service{{
		Name: "marked", VIP: VIP{Mark: 7, Mark6: true}, Scheduler: WLC, Quorum: 1, DrainTimeout: DefaultDrainTimeout, Reals: []Real{
			{Address: at("[2001:db8:60::80]:0"), Weight: 1, Forward: Forward{Method: ByTunnel}},
			{Address: at("[2001:db8:60::81]:8080"), Weight: 1},
		},
	}, {
		Name: "dns", VIP: MustParseVIP("10.10.60.22:53/udp"), Scheduler: TWOS, Persistence: Persistence{Timeout: DefaultPersistence, Prefix: 24},
		Quorum: 1, DrainTimeout: DefaultDrainTimeout, SlowStart: time.Minute, Foreign: RefuseForeign, Reals: []Real{
			{Address: at("192.168.60.78:5353"), Weight: 1, Upper: 10, Lower: 5},
			{Address: at("192.168.60.79:53"), Weight: 1, Forward: Forward{Method: Direct}},
			{Address: at("[2001:db8:60::80]:53"), Weight: 1, Forward: Forward{Method: ByTunnel, Tunnel: GUE, Port: 6080, Checksum: RemoteChecksum}},
		},
	}}
	if !reflect.DeepEqual(want.Services, services) {
		t.Errorf("got  %+v\nwant %+v", want.Services, services)
	}

	lacks := Lacks{}
	for _, f := range Features {
		lacks[f] = "not here"
	}
	var refused []string
	for _, v := range Refuse(want.Needs, "none", lacks) {
		refused = append(refused, strings.TrimPrefix(v.GetField(), KindVirtualService+"/")+" "+strings.Fields(v.GetDescription())[6])
	}
	const fields = `dns.protocol udp:
dns.scheduler scheduler-twos:
dns.persistence persistence:
dns.real_servers[0].upper_threshold thresholds:
dns.real_servers[1].forwarding direct:
dns.real_servers[2].forwarding tunnel-gue:
dns.real_servers[2].address mixed-families:
marked.fwmark fwmark:
marked.family ipv6:
marked.scheduler scheduler-wlc:
marked.forwarding tunnel-ipip:`
	if got := strings.Join(refused, "\n"); got != fields {
		t.Errorf("refused\n%s\nwant\n%s", got, fields)
	}
	if left := Refuse(want.Needs, "all", nil); len(left) > 0 {
		t.Errorf("a plane that lacks nothing refuses %v", left)
	}
	// What a plane itself is asked for needs the same.
	if why := lacks.Lacking(Service{VIP: services[1].VIP, Scheduler: RR}); why != "no scheduler-rr: not here" {
		t.Errorf("a plane says %q", why)
	}
	for i, want := range []string{"no thresholds: not here", "no direct: not here", "no tunnel-gue: not here"} {
		if why := lacks.LackingReal(services[1].VIP, services[1].Reals[i]); why != want {
			t.Errorf("of real server %d a plane says %q", i, why)
		}
	}
}

func TestRefill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ upper, lower, want uint32 }{{0, 0, 0}, {1, 0, 1}, {4, 0, 3}, {5, 0, 4}, {100, 0, 75}, {100, 20, 20}, {1<<32 - 1, 0, 3221225472}} {
		if got := (Real{Upper: c.upper, Lower: c.lower}).Refill(); got != c.want {
			t.Error(fmt.Sprint(c), "got", got)
		}
	}
}
