package spec

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

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
			VIP: netip.MustParseAddrPort("10.10.60.22:80"), Scheduler: WLC, Reals: []Real{
				{Address: netip.MustParseAddrPort("192.168.60.55:8080"), Weight: 0},
				{Address: netip.MustParseAddrPort("192.168.60.78:80"), Weight: 1},
			},
		}},
		Addresses: []Address{
			{Prefix: netip.MustParsePrefix("10.10.60.21/24")},
			{Prefix: netip.MustParsePrefix("10.10.60.22/24")},
		},
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
		{"ipv6 vip", service(func(s *directorv1.VirtualService) { s.Address = "2001:db8::1" }), "virtual-service/web.address"},
		{"mapped vip", service(func(s *directorv1.VirtualService) { s.Address = "::ffff:10.0.0.1" }), "virtual-service/web.address"},
		{"loopback vip", service(func(s *directorv1.VirtualService) { s.Address = "127.0.0.1" }), "virtual-service/web.address"},
		{"no port", service(func(s *directorv1.VirtualService) { s.Port = 0 }), "virtual-service/web.port"},
		{"port", service(func(s *directorv1.VirtualService) { s.Port = 65536 }), "virtual-service/web.port"},
		{"protocol", service(func(s *directorv1.VirtualService) { s.Protocol = 9 }), "virtual-service/web.protocol"},
		{"forwarding", service(func(s *directorv1.VirtualService) { s.Forwarding = 9 }), "virtual-service/web.forwarding"},
		{"scheduler", service(func(s *directorv1.VirtualService) { s.Scheduler = "lblc" }), "virtual-service/web.scheduler"},
		{"real address", service(func(s *directorv1.VirtualService) { s.RealServers[1].Address = "s2" }), "virtual-service/web.real_servers[1].address"},
		{"real port", service(func(s *directorv1.VirtualService) { s.RealServers[1].Port = 70000 }), "virtual-service/web.real_servers[1].port"},
		{"weight", service(func(s *directorv1.VirtualService) { s.RealServers[0].Weight = proto.Uint32(65536) }), "virtual-service/web.real_servers[0].weight"},
		{"same real", service(func(s *directorv1.VirtualService) {
			s.RealServers = append(s.RealServers, &directorv1.RealServer{Address: "192.168.60.78", Port: 80})
		}), "virtual-service/web.real_servers[2].address"},
		{"real servers of all", many(17, MaxRealServers), "virtual-service"},
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
		{"other message", []proto.Message{&directorv1.Object{}}, "Object"},
	} {
		t.Run(c.name, func(t *testing.T) { t.Parallel(); refused(t, c.messages, c.want) })
	}
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
