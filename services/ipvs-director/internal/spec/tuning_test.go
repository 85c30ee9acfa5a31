package spec

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

func TestTuning(t *testing.T) {
	t.Parallel()
	messages := []proto.Message{
		&directorv1.Tuning{Name: "lvs", Nodes: []string{"lvs"}, Timeouts: &directorv1.Timeouts{Tcp: durationpb.New(7500 * time.Second)},
			Sync: &directorv1.ConnectionSync{Network: "192.168.60.0/24", Id: 7}},
		&directorv1.Tuning{Name: "lvs2", Nodes: []string{"lvs2"}, Timeouts: &directorv1.Timeouts{Udp: durationpb.New(time.Second), TcpFin: durationpb.New(time.Minute)},
			Sync: &directorv1.ConnectionSync{Role: directorv1.SyncRole_SYNC_ROLE_BACKUP, Network: "10.99.0.0/24", Group: "224.0.0.99", Port: 8849, Ttl: 2}},
		&directorv1.Tuning{Name: "lvs3", Nodes: []string{"lvs3"}, Sync: &directorv1.ConnectionSync{Role: directorv1.SyncRole_SYNC_ROLE_NONE}},
	}
	group := SyncGroup{Address: DefaultSyncGroup, Port: DefaultSyncPort, TTL: DefaultSyncTTL}
	seventh := group
	seventh.ID = 7
	for node, want := range map[string]Tuning{
		"lvs": {Timeouts: Timeouts{TCP: 7500 * time.Second}, Sync: &Sync{Master: true, Backup: true, Network: netip.MustParsePrefix("192.168.60.0/24"), Group: seventh}},
		"lvs2": {Timeouts: Timeouts{UDP: time.Second, TCPFin: time.Minute}, Sync: &Sync{Backup: true, Network: netip.MustParsePrefix("10.99.0.0/24"),
			Group: SyncGroup{Address: netip.MustParseAddr("224.0.0.99"), Port: 8849, TTL: 2}}},
		"lvs3":  {Sync: &Sync{Group: group}},
		"other": {},
	} {
		got, violations := Parse(messages, node)
		if len(violations) > 0 || !reflect.DeepEqual(got.Tuning, want) {
			t.Errorf("%s: got %+v, %v; want %+v", node, got.Tuning, violations, want)
		}
	}
}

func TestBadTuning(t *testing.T) {
	t.Parallel()
	sync := func(change func(*directorv1.ConnectionSync)) *directorv1.Tuning {
		s := &directorv1.ConnectionSync{Network: "192.168.60.0/24"}
		change(s)
		return &directorv1.Tuning{Name: "t", Sync: s}
	}
	for _, c := range []struct {
		name     string
		messages []proto.Message
		fields   []string
	}{
		{"half a second", []proto.Message{&directorv1.Tuning{Name: "t", Timeouts: &directorv1.Timeouts{Tcp: durationpb.New(1500 * time.Millisecond)}}}, []string{"tuning/t.timeouts.tcp"}},
		{"no time", []proto.Message{&directorv1.Tuning{Name: "t", Timeouts: &directorv1.Timeouts{Udp: durationpb.New(0)}}}, []string{"tuning/t.timeouts.udp"}},
		{"two days", []proto.Message{&directorv1.Tuning{Name: "t", Timeouts: &directorv1.Timeouts{TcpFin: durationpb.New(48 * time.Hour)}}}, []string{"tuning/t.timeouts.tcp_fin"}},
		{"no node", []proto.Message{&directorv1.Tuning{Name: "t", Nodes: []string{" "}}}, []string{"tuning/t.nodes[0]"}},
		{"two for a node", []proto.Message{&directorv1.Tuning{Name: "t", Nodes: []string{"a", "lvs"}}, &directorv1.Tuning{Name: "u", Nodes: []string{"lvs"}}}, []string{"tuning/u.nodes[0]"}},
		{"one for all, one for a node", []proto.Message{&directorv1.Tuning{Name: "t"}, &directorv1.Tuning{Name: "u", Nodes: []string{"lvs"}}}, []string{"tuning/u.nodes[0]"}},
		{"one for a node, one for all", []proto.Message{&directorv1.Tuning{Name: "t", Nodes: []string{"lvs"}}, &directorv1.Tuning{Name: "u"}}, []string{"tuning/u.nodes"}},
		{"unknown role", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Role = 9 })}, []string{"tuning/t.sync.role"}},
		{"no network", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Network = "" })}, []string{"tuning/t.sync.network"}},
		{"an address", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Network = "192.168.60.1/24" })}, []string{"tuning/t.sync.network"}},
		{"an IPv6 network", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Network = "2001:db8::/64" })}, []string{"tuning/t.sync.network"}},
		{"id", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Id = 256 })}, []string{"tuning/t.sync.id"}},
		{"no multicast", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Group = "10.0.0.1" })}, []string{"tuning/t.sync.group"}},
		{"port", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Port = 65536 })}, []string{"tuning/t.sync.port"}},
		{"ttl", []proto.Message{sync(func(s *directorv1.ConnectionSync) { s.Ttl = 256 })}, []string{"tuning/t.sync.ttl"}},
		{"mixed families", []proto.Message{sync(func(*directorv1.ConnectionSync) {}), &directorv1.VirtualService{Name: "web", Address: "2001:db8::22", Port: 80,
			Forwarding: directorv1.Forwarding_FORWARDING_TUNNEL, RealServers: []*directorv1.RealServer{{Address: "192.168.60.78"}}}}, []string{"tuning/t.sync"}},
		{"each datagram anew by TCP", []proto.Message{&directorv1.VirtualService{Name: "web", Address: "10.10.60.22", Port: 80, OnePacket: true}}, []string{"virtual-service/web.one_packet"}},
		{"each datagram anew, and persistent", []proto.Message{&directorv1.VirtualService{Name: "dns", Address: "10.10.60.22", Port: 53,
			Protocol: directorv1.Protocol_PROTOCOL_UDP, OnePacket: true, Persistence: &directorv1.Persistence{}}}, []string{"virtual-service/dns.one_packet"}},
	} {
		_, violations := Parse(c.messages, "lvs")
		var fields []string
		for _, v := range violations {
			fields = append(fields, v.GetField())
		}
		if !slices.Equal(fields, c.fields) {
			t.Errorf("%s: got %v, want %v", c.name, violations, c.fields)
		}
	}
}
