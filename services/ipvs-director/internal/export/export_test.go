package export

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

type world loop.View

func (w world) View() loop.View { return loop.View(w) }

type health map[netip.AddrPort]steer.Health

func (h health) State(k steer.Key) (steer.Health, string) { return h[k.Real], "" }

func TestFigures(t *testing.T) {
	t.Parallel()
	vip, a, b := spec.MustParseVIP("10.10.60.22:80"), netip.MustParseAddrPort("192.168.60.78:80"), netip.MustParseAddrPort("192.168.60.55:80")
	three := uint64(3)
	w := world{Observed: true, Have: plan.Have{Services: []plan.Service{{VIP: vip, Reals: []plan.Real{
		{Real: spec.Real{Address: a, Weight: 2}, Active: &three, Total: 7, Traffic: &plan.Traffic{PacketsIn: 9, PacketsOut: 6, BytesIn: 1 << 33, BytesOut: 393}}, {Real: spec.Real{Address: b}, Total: 1},
	}}}}, Course: steer.Course{Reasons: map[steer.Key]string{{VIP: vip}: "panic"}}}
	const want = `
# HELP twotier_director_kernel_observed 1: the last pass could read the kernel.
# TYPE twotier_director_kernel_observed gauge
twotier_director_kernel_observed 1
# HELP twotier_director_real_server_active_connections Established connections. Absent on a plane that does not count them (nftables).
# TYPE twotier_director_real_server_active_connections gauge
twotier_director_real_server_active_connections{real_server="192.168.60.78:80",vip="10.10.60.22:80"} 3
# HELP twotier_director_real_server_bytes_total The same in bytes.
# TYPE twotier_director_real_server_bytes_total counter
twotier_director_real_server_bytes_total{direction="in",real_server="192.168.60.78:80",vip="10.10.60.22:80"} 8.589934592e+09
twotier_director_real_server_bytes_total{direction="out",real_server="192.168.60.78:80",vip="10.10.60.22:80"} 393
# HELP twotier_director_real_server_connections_total New connections since the real server was added.
# TYPE twotier_director_real_server_connections_total counter
twotier_director_real_server_connections_total{real_server="192.168.60.55:80",vip="10.10.60.22:80"} 1
twotier_director_real_server_connections_total{real_server="192.168.60.78:80",vip="10.10.60.22:80"} 7
# HELP twotier_director_real_server_packets_total Packets to (in) and from (out) the real server since it was added, or the nftables plane was rebuilt.
# TYPE twotier_director_real_server_packets_total counter
twotier_director_real_server_packets_total{direction="in",real_server="192.168.60.78:80",vip="10.10.60.22:80"} 9
twotier_director_real_server_packets_total{direction="out",real_server="192.168.60.78:80",vip="10.10.60.22:80"} 6
# HELP twotier_director_real_server_up 1: its checks are good; 0: they fail. Absent: not checked.
# TYPE twotier_director_real_server_up gauge
twotier_director_real_server_up{real_server="192.168.60.78:80",vip="10.10.60.22:80"} 0
# HELP twotier_director_real_server_weight Weight in force; 0: no new connections.
# TYPE twotier_director_real_server_weight gauge
twotier_director_real_server_weight{real_server="192.168.60.55:80",vip="10.10.60.22:80"} 0
twotier_director_real_server_weight{real_server="192.168.60.78:80",vip="10.10.60.22:80"} 2
# HELP twotier_director_service_unusual 1: panic, sorry server or leaving; ListServices says which.
# TYPE twotier_director_service_unusual gauge
twotier_director_service_unusual{vip="10.10.60.22:80"} 1
`
	if err := testutil.CollectAndCompare(New(w, health{a: steer.Down}), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(New(w, health{})); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
