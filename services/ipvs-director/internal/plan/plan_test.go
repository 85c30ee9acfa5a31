package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// real reads "192.168.60.78:80=3".
func real(s string, weight int) spec.Real {
	return spec.Real{Address: netip.MustParseAddrPort(s), Weight: weight}
}

// foreign is want with a way to deal with somebody else's service.
func foreign(want spec.Want, how spec.Foreign) spec.Want {
	want.Services = slices.Clone(want.Services)
	want.Services[0].Foreign = how
	return want
}

func TestDiff(t *testing.T) {
	t.Parallel()
	vip := spec.MustParseVIP("10.10.60.22:80")
	vip2 := spec.MustParseVIP("10.10.60.22:443")
	a, b := "192.168.60.55:80", "192.168.60.78:80"
	want := spec.Want{Services: []spec.Service{{VIP: vip, Scheduler: spec.WLC, Reals: []spec.Real{real(a, 1), real(b, 3)}}}}
	same := Service{VIP: vip, Scheduler: spec.WLC, Reals: []Real{{Real: real(a, 1)}, {Real: real(b, 3)}}}
	held := spec.Want{Addresses: []spec.Address{{Prefix: netip.MustParsePrefix("10.10.60.22/24")}}}
	nic := HostAddress{Prefix: netip.MustParsePrefix("10.10.60.21/24"), Card: 3, CardName: "eth1"}
	other := HostAddress{Prefix: netip.MustParsePrefix("192.168.60.21/24"), Card: 2, CardName: "eth0"}
	ours := func(s string) HostAddress {
		return HostAddress{Prefix: netip.MustParsePrefix(s), Card: 3, CardName: "eth1", Ours: true}
	}

	for _, c := range []struct {
		name string
		want spec.Want
		have Have
		plan string
	}{
		{"nothing wanted, nothing there", spec.Want{}, Have{}, ""},
		{"equal", want, Have{Services: []Service{same}}, ""},
		{"first", want, Have{}, `
add service 10.10.60.22:80 scheduler wlc
add real server 192.168.60.55:80 weight 1 to 10.10.60.22:80
add real server 192.168.60.78:80 weight 3 to 10.10.60.22:80`},
		{"adds and weights before deletes", want, Have{Services: []Service{
			{VIP: vip2, Scheduler: spec.WRR, Reals: []Real{{Real: real(a, 1)}}},
			{VIP: vip, Scheduler: spec.WRR, Reals: []Real{{Real: real("192.168.60.1:80", 1)}, {Real: real(b, 1)}}},
		}}, `
set service 10.10.60.22:80 scheduler wlc (was wrr)
add real server 192.168.60.55:80 weight 1 to 10.10.60.22:80
set real server 192.168.60.78:80 weight 3 of 10.10.60.22:80 (was 1)
remove real server 192.168.60.1:80 from 10.10.60.22:80
remove service 10.10.60.22:443`},
		{"drift is mended", want, Have{Services: []Service{{VIP: vip, Scheduler: spec.WLC, Drift: "flags 0x1",
			Reals: []Real{{Real: real(a, 1), Drift: "forwarding 3"}, {Real: real(b, 3)}}}}}, `
set service 10.10.60.22:80 scheduler wlc: flags 0x1
set real server 192.168.60.55:80 weight 1 of 10.10.60.22:80: forwarding 3`},
		{"a wanted foreign service becomes ours, another stays", want, Have{Services: []Service{
			func() Service { s := same; s.Foreign = true; return s }(), {VIP: vip2, Scheduler: spec.WRR, Foreign: true},
		}}, "\nset service 10.10.60.22:80 scheduler wlc: somebody else made it"},
		{"a wanted foreign service that is to be ignored stays", foreign(want, spec.Ignore), Have{Services: []Service{
			{VIP: vip, Scheduler: spec.WRR, Foreign: true}}}, ""},
		{"a wanted foreign service that is to be refused stays", foreign(want, spec.RefuseForeign), Have{Services: []Service{
			{VIP: vip, Scheduler: spec.WRR, Foreign: true}}}, ""},
		{"only what is foreign is ignored", foreign(want, spec.Ignore), Have{Services: []Service{
			{VIP: vip, Scheduler: spec.WRR, Reals: same.Reals}}}, "\nset service 10.10.60.22:80 scheduler wlc (was wrr)"},
		{"damage", want, Have{Services: []Service{same}, Damage: "no chain prerouting"},
			"\nrebuild the data plane with 1 services: no chain prerouting"},
		{"rules before the address, address away before the rules",
			spec.Want{Services: want.Services, Addresses: held.Addresses},
			Have{Services: []Service{{VIP: vip2, Scheduler: spec.WLC}}, Host: Host{Addresses: []HostAddress{other, nic, ours("10.10.60.23/24")}}}, `
add service 10.10.60.22:80 scheduler wlc
add real server 192.168.60.55:80 weight 1 to 10.10.60.22:80
add real server 192.168.60.78:80 weight 3 to 10.10.60.22:80
add address 10.10.60.22/24 to eth1
remove address 10.10.60.23/24 from eth1
remove service 10.10.60.22:443`},
		{"address there", held, Have{Host: Host{Addresses: []HostAddress{nic, ours("10.10.60.22/24")}}}, ""},
		{"address there, not ours", held, Have{Host: Host{Addresses: []HostAddress{nic, {Prefix: netip.MustParsePrefix("10.10.60.22/32"), Card: 3}}}}, ""},
		{"other length", held, Have{Host: Host{Addresses: []HostAddress{nic, ours("10.10.60.22/32")}}}, `
add address 10.10.60.22/24 to eth1
remove address 10.10.60.22/32 from eth1`},
		{"not ours stays", spec.Want{}, Have{Host: Host{Addresses: []HostAddress{nic, other}}}, ""},
		{"no card", held, Have{Host: Host{Addresses: []HostAddress{other}}},
			"\nadd address 10.10.60.22/24: no network card has an address in 10.10.60.0/24"},
		{"our own address does not show the card", held, Have{Host: Host{Addresses: []HostAddress{ours("10.10.60.23/24")}}}, `
add address 10.10.60.22/24: no network card has an address in 10.10.60.0/24
remove address 10.10.60.23/24 from eth1`},
		{"longest subnet wins", held, Have{Host: Host{Addresses: []HostAddress{
			{Prefix: netip.MustParsePrefix("10.1.1.1/8"), Card: 1, CardName: "eth9"}, nic,
		}}}, "\nadd address 10.10.60.22/24 to eth1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var lines []string
			for _, change := range Diff(c.want, c.have) {
				lines = append(lines, change.String())
			}
			if got, want := strings.Join(lines, "\n"), strings.TrimPrefix(c.plan, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
