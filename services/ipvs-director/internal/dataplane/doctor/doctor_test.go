package doctor

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func TestFull(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count, most int
		want        bool
	}{{0, 0, false}, {5, 0, false}, {79, 100, false}, {80, 100, true}, {100, 100, true}} {
		if got := full(c.count, c.most); got != c.want {
			t.Errorf("%d of %d: %t", c.count, c.most, got)
		}
	}
}

func TestSharedRealServers(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort
	service := func(vip string, method spec.Method, reals ...string) plan.Service {
		s := plan.Service{VIP: spec.MustParseVIP(vip)}
		for _, r := range reals {
			s.Reals = append(s.Reals, plan.Real{Real: spec.Real{Address: at(r), Forward: spec.Forward{Method: method}}})
		}
		return s
	}
	have := plan.Have{Services: []plan.Service{
		service("10.10.60.22:80", spec.Masquerade, "192.168.60.78:80", "192.168.60.79:80"),
		service("10.10.60.22:81", spec.Masquerade, "192.168.60.78:81", "192.168.60.79:80"),
		service("10.10.60.22:80/udp", spec.Masquerade, "192.168.60.78:80"),
		service("10.10.60.23:80", spec.Direct, "192.168.60.78:80"),
		service("fwmark:7", spec.Masquerade, "192.168.60.78:80"),
	}}
	var got []string
	for _, f := range shared(dataplane.IPVS, have) {
		got = append(got, f.What)
	}
	want := []string{"real server 192.168.60.79:80 stands behind 10.10.60.22:80 and 10.10.60.22:81: a client that uses one port for both has its first connection cut"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := shared(dataplane.NFTables, have); len(got) > 0 {
		t.Errorf("nftables: %v", got)
	}
}
