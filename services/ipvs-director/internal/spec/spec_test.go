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

func web() *directorv1.VirtualService {
	return &directorv1.VirtualService{Name: "web", Address: "10.10.60.22", Port: 80, RealServers: []*directorv1.RealServer{
		{Address: "192.168.60.78"}, {Address: "192.168.60.55", Port: 8080, Weight: proto.Uint32(0)},
	}}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, violations := Parse([]proto.Message{
		web(),
		&directorv1.Address{Name: "vip", Prefix: "10.10.60.22/24"},
		&directorv1.Address{Name: "elsewhere", Prefix: "10.10.60.23/24", Nodes: []string{"lvs2"}},
		&directorv1.Address{Name: "here", Prefix: "10.10.60.21/24", Nodes: []string{"lvs2", "lvs"}},
	}, "lvs")
	if len(violations) > 0 {
		t.Fatalf("violations: %v", violations)
	}
	want := Want{
		Services: []Service{{
			Name: "web", Quorum: 1, DrainTimeout: DefaultDrainTimeout,
			VIP: MustParseVIP("10.10.60.22:80"), Scheduler: WLC, Reals: []Real{
				{Address: netip.MustParseAddrPort("192.168.60.55:8080"), Weight: 0},
				{Address: netip.MustParseAddrPort("192.168.60.78:80"), Weight: 1},
			},
		}},
		Addresses: []Address{
			{Prefix: netip.MustParsePrefix("10.10.60.21/24")},
			{Prefix: netip.MustParsePrefix("10.10.60.22/24")},
		},
		Needs: []Need{{"virtual-service/web.scheduler", WLC.Feature()}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseNamesEachViolation(t *testing.T) {
	t.Parallel()
	service := func(change func(*directorv1.VirtualService)) []proto.Message {
		s := web()
		change(s)
		return []proto.Message{s}
	}
	address := func(prefix string) []proto.Message {
		return []proto.Message{&directorv1.Address{Name: "a", Prefix: prefix}}
	}
	for _, c := range []struct {
		name     string
		messages []proto.Message
		want     string // field paths, joined
	}{
		{"name", service(func(s *directorv1.VirtualService) { s.Name = "Web" }), "virtual-service/Web.name"},
		{"same name", []proto.Message{web(), func() proto.Message { s := web(); s.Port = 81; return s }()}, "virtual-service/web.name"},
		{"same vip", []proto.Message{web(), func() proto.Message { s := web(); s.Name = "web2"; return s }()}, "virtual-service/web2.address"},
		{"ipv6 vip, ipv4 real servers", service(func(s *directorv1.VirtualService) { s.Address = "2001:db8::1" }),
			"virtual-service/web.real_servers[0].address virtual-service/web.real_servers[1].address"},
		{"link-local vip", service(func(s *directorv1.VirtualService) { s.Address = "fe80::1" }), "virtual-service/web.address"},
		{"vip with a zone", service(func(s *directorv1.VirtualService) { s.Address = "2001:db8::1%eth0" }), "virtual-service/web.address"},
		{"mapped vip", service(func(s *directorv1.VirtualService) { s.Address = "::ffff:10.0.0.1" }), "virtual-service/web.address"},
		{"loopback vip", service(func(s *directorv1.VirtualService) { s.Address = "127.0.0.1" }), "virtual-service/web.address"},
		{"no port", service(func(s *directorv1.VirtualService) { s.Port = 0 }), "virtual-service/web.port"},
		{"port", service(func(s *directorv1.VirtualService) { s.Port = 65536 }), "virtual-service/web.port"},
		{"protocol", service(func(s *directorv1.VirtualService) { s.Protocol = 9 }), "virtual-service/web.protocol"},
		{"forwarding", service(func(s *directorv1.VirtualService) { s.Forwarding = 9 }), "virtual-service/web.forwarding"},
		{"scheduler", service(func(s *directorv1.VirtualService) { s.Scheduler = "wlcr" }), "virtual-service/web.scheduler"},
		{"real address", service(func(s *directorv1.VirtualService) { s.RealServers[1].Address = "s2" }), "virtual-service/web.real_servers[1].address"},
		{"real port", service(func(s *directorv1.VirtualService) { s.RealServers[1].Port = 70000 }), "virtual-service/web.real_servers[1].port"},
		{"weight", service(func(s *directorv1.VirtualService) { s.RealServers[0].Weight = proto.Uint32(65536) }), "virtual-service/web.real_servers[0].weight"},
		{"same real", service(func(s *directorv1.VirtualService) {
			s.RealServers = append(s.RealServers, &directorv1.RealServer{Address: "192.168.60.78", Port: 80})
		}), "virtual-service/web.real_servers[2].address"},
		{"real servers of all", many(MaxAllRealServers/MaxRealServers+1, MaxRealServers), "virtual-service"},
		{"real is vip", service(func(s *directorv1.VirtualService) { s.RealServers[0].Address = s.Address }), "virtual-service/web.real_servers[0].address"},
		{"no length", address("10.0.0.1"), "address/a.prefix"},
		{"length", address("10.0.0.1/33"), "address/a.prefix"},
		{"short length", address("10.0.0.1/7"), "address/a.prefix"},
		{"subnet", address("10.0.0.0/24"), "address/a.prefix"},
		{"ipv6", address("2001:db8::1/64"), "address/a.prefix"},
		{"same address", []proto.Message{
			&directorv1.Address{Name: "a", Prefix: "10.0.0.1/24"}, &directorv1.Address{Name: "b", Prefix: "10.0.0.1/32"},
		}, "address/b.prefix"},
		{"empty node", []proto.Message{&directorv1.Address{Name: "a", Prefix: "10.0.0.1/24", Nodes: []string{" "}}}, "address/a.nodes[0]"},
		{"2^16 real servers", many(1, 1<<16), "virtual-service/web0.real_servers virtual-service"},
		{"services", many(MaxServices+1, 0), "virtual-service"},
		{"no name", service(func(s *directorv1.VirtualService) { s.Name = "" }), "virtual-service/.name"},
		{"long name", service(func(s *directorv1.VirtualService) { s.Name = strings.Repeat("a", 64) }), "virtual-service/" + strings.Repeat("a", 64) + ".name"},
		{"name with a slash", service(func(s *directorv1.VirtualService) { s.Name = "a/b" }), "virtual-service/a/b.name"},
		{"no vip", service(func(s *directorv1.VirtualService) { s.Address = "" }), "virtual-service/web.address"},
		{"vip with a port", service(func(s *directorv1.VirtualService) { s.Address = "10.10.60.22:80" }), "virtual-service/web.address"},
		{"vip with a length", service(func(s *directorv1.VirtualService) { s.Address = "10.10.60.22/24" }), "virtual-service/web.address"},
		{"multicast vip", service(func(s *directorv1.VirtualService) { s.Address = "224.0.0.18" }), "virtual-service/web.address"},
		{"broadcast vip", service(func(s *directorv1.VirtualService) { s.Address = "255.255.255.255" }), "virtual-service/web.address"},
		{"any vip", service(func(s *directorv1.VirtualService) { s.Address = "0.0.0.0" }), "virtual-service/web.address"},
		{"ipv6 real", service(func(s *directorv1.VirtualService) { s.RealServers[0].Address = "2001:db8::1" }), "virtual-service/web.real_servers[0].address"},
		{"no real address", service(func(s *directorv1.VirtualService) { s.RealServers[0].Address = "" }), "virtual-service/web.real_servers[0].address"},
		{"scheduler in capitals", service(func(s *directorv1.VirtualService) { s.Scheduler = "WLC" }), "virtual-service/web.scheduler"},
		{"scheduler with a space", service(func(s *directorv1.VirtualService) { s.Scheduler = "wlc " }), "virtual-service/web.scheduler"},
		{"family of an address", service(func(s *directorv1.VirtualService) { s.Family = directorv1.Family_FAMILY_IPV4 }), "virtual-service/web.family"},
		{"mark and address", service(func(s *directorv1.VirtualService) { s.Fwmark = 7; s.Protocol = directorv1.Protocol_PROTOCOL_UDP }),
			"virtual-service/web.address virtual-service/web.port virtual-service/web.protocol"},
		{"mark of an unknown family", service(func(s *directorv1.VirtualService) { marked(s); s.Family = 9 }), "virtual-service/web.family"},
		{"same mark", []proto.Message{marked(web()), func() proto.Message { s := marked(web()); s.Name = "web2"; return s }()}, "virtual-service/web2.fwmark"},
		{"ipv4 real server of an ipv6 mark", service(func(s *directorv1.VirtualService) {
			marked(s).Family = directorv1.Family_FAMILY_IPV6
			s.RealServers = s.RealServers[:1]
		}), "virtual-service/web.real_servers[0].address"},
		{"check without a port behind a mark", service(func(s *directorv1.VirtualService) {
			marked(s).Check = &directorv1.Check{Kind: &directorv1.Check_Tcp{Tcp: &directorv1.TcpCheck{}}}
		}), "virtual-service/web.check.port"},
		{"other port by direct routing", service(func(s *directorv1.VirtualService) { s.Forwarding = directorv1.Forwarding_FORWARDING_DIRECT }), "virtual-service/web.real_servers[1].port"},
		{"tunnel without tunnelling", service(func(s *directorv1.VirtualService) { s.Tunnel = &directorv1.Tunnel{} }), "virtual-service/web.tunnel"},
		{"tunnel type", tunnel(&directorv1.Tunnel{Type: 9}), "virtual-service/web.real_servers[0].tunnel.type"},
		{"gue without a port", tunnel(&directorv1.Tunnel{Type: directorv1.TunnelType_TUNNEL_TYPE_GUE}), "virtual-service/web.real_servers[0].tunnel.port"},
		{"gre with a port", tunnel(&directorv1.Tunnel{Type: directorv1.TunnelType_TUNNEL_TYPE_GRE, Port: 80}), "virtual-service/web.real_servers[0].tunnel.port"},
		{"ipip with a checksum", tunnel(&directorv1.Tunnel{Checksum: directorv1.TunnelChecksum_TUNNEL_CHECKSUM_WHOLE}), "virtual-service/web.real_servers[0].tunnel.checksum"},
		{"gre with a remote checksum", tunnel(&directorv1.Tunnel{Type: directorv1.TunnelType_TUNNEL_TYPE_GRE, Checksum: directorv1.TunnelChecksum_TUNNEL_CHECKSUM_REMOTE}), "virtual-service/web.real_servers[0].tunnel.checksum"},
		{"unknown checksum", tunnel(&directorv1.Tunnel{Type: directorv1.TunnelType_TUNNEL_TYPE_GRE, Checksum: 9}), "virtual-service/web.real_servers[0].tunnel.checksum"},
		{"lower without upper threshold", service(func(s *directorv1.VirtualService) { s.RealServers[0].LowerThreshold = 1 }), "virtual-service/web.real_servers[0].lower_threshold"},
		{"lower above upper threshold", service(func(s *directorv1.VirtualService) {
			s.RealServers[0].UpperThreshold, s.RealServers[0].LowerThreshold = 3, 4
		}), "virtual-service/web.real_servers[0].lower_threshold"},
		{"persistence of no time", persists(&directorv1.Persistence{Timeout: durationpb.New(0)}), "virtual-service/web.persistence.timeout"},
		{"persistence of half a second", persists(&directorv1.Persistence{Timeout: durationpb.New(1500 * time.Millisecond)}), "virtual-service/web.persistence.timeout"},
		{"persistence by 33 bits", persists(&directorv1.Persistence{Prefix: 33}), "virtual-service/web.persistence.prefix"},
		{"slow start of rr", service(func(s *directorv1.VirtualService) { s.Scheduler = "rr"; s.SlowStart = durationpb.New(time.Minute) }), "virtual-service/web.slow_start"},
		{"slow start of days", service(func(s *directorv1.VirtualService) { s.SlowStart = durationpb.New(48 * time.Hour) }), "virtual-service/web.slow_start"},
		{"foreign", service(func(s *directorv1.VirtualService) { s.Foreign = 9 }), "virtual-service/web.foreign"},
		{"threshold of a sorry server", service(func(s *directorv1.VirtualService) {
			s.SorryServer = &directorv1.RealServer{Address: "192.168.60.99", UpperThreshold: 1}
		}), "virtual-service/web.sorry_server.upper_threshold"},
		{"other message", []proto.Message{&directorv1.Object{}}, "Object"},
	} {
		t.Run(c.name, func(t *testing.T) { t.Parallel(); refused(t, c.messages, c.want) })
	}
}

// marked is s as a service by mark.
func marked(s *directorv1.VirtualService) *directorv1.VirtualService {
	s.Fwmark, s.Address, s.Port = 7, "", 0
	return s
}

// tunnel is a service whose first real server is reached by it.
func tunnel(t *directorv1.Tunnel) []proto.Message {
	s := web()
	s.RealServers[0].Forwarding, s.RealServers[0].Tunnel = directorv1.Forwarding_FORWARDING_TUNNEL, t
	return []proto.Message{s}
}

// persists is a service that does.
func persists(p *directorv1.Persistence) []proto.Message {
	s := web()
	s.Persistence = p
	return []proto.Message{s}
}

// refused compares the fields that are named with those that are wrong.
func refused(t *testing.T, messages []proto.Message, want string) {
	t.Helper()
	_, violations := Parse(messages, "lvs")
	var fields []string
	for _, v := range violations {
		fields = append(fields, v.GetField())
	}
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("got fields %q, want %q\n%v", got, want, violations)
	}
}

// many makes services, each with that many real servers.
func many(services, reals int) (all []proto.Message) {
	for n := range services {
		s := &directorv1.VirtualService{Name: fmt.Sprintf("web%d", n), Address: "10.0.0.1", Port: uint32(1 + n)}
		for r := range reals {
			s.RealServers = append(s.RealServers, &directorv1.RealServer{Address: fmt.Sprintf("10.%d.%d.%d", 1+r/40000, r/200%200, 1+r%200)})
		}
		all = append(all, s)
	}
	return all
}
