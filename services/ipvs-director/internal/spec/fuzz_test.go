package spec

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

// Whatever is asked for, Parse either names what is wrong or returns what the planes can take.
func FuzzParse(f *testing.F) {
	f.Add("web", "10.10.60.22", uint32(80), "wlc", "192.168.60.78", uint32(0), uint32(1), "10.10.60.22/24")
	f.Add("web", "2001:db8::22", uint32(80), "mh", "2001:db8:60::78", uint32(0), uint32(1), "10.10.60.22/24")
	f.Add("web", "::ffff:10.0.0.1", uint32(65536), "rr", "0.0.0.0", uint32(70000), uint32(65536), "10.0.0.0/33")
	f.Fuzz(func(t *testing.T, name, vip string, port uint32, scheduler, address string, realPort, weight uint32, prefix string) {
		want, violations := Parse([]proto.Message{
			&directorv1.VirtualService{Name: name, Address: vip, Port: port, Scheduler: scheduler, RealServers: []*directorv1.RealServer{
				{Address: address, Port: realPort, Weight: &weight},
			}},
			&directorv1.Address{Name: name, Prefix: prefix},
		}, "lvs")
		if len(violations) > 0 {
			return
		}
		s, a := want.Services[0], want.Addresses[0]
		if !Usable(s.VIP.Addr()) || s.VIP.Port() == 0 || !slices.Contains(Schedulers, s.Scheduler) {
			t.Errorf("service %+v", s)
		}
		if r := s.Reals[0]; r.Address.Addr().Is6() != s.VIP.Is6() || r.Address.Port() == 0 || r.Weight < 0 || r.Weight > MaxWeight || r.Address == s.VIP.AddrPort {
			t.Errorf("real server %+v", r)
		}
		if !a.Prefix.IsValid() || !a.Prefix.Addr().Is4() {
			t.Errorf("address %+v", a)
		}
	})
}
