package gauges

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

type some []plan.Instance

func (s some) Instances() []plan.Instance { return s }

func TestCollect(t *testing.T) {
	t.Parallel()
	i := plan.Instance{
		Local: spec.Local{Name: "VI_1"}, State: fsm.Master, Priority: 105, Held: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
		Transitions: 2, Sent: 3, Received: 4, Mismatched: 5, Witnessed: 6, Unheard: true,
		Trackers: []plan.Finding{{Tracker: "router", Well: true}, {Tracker: "disk"}},
	}
	i.Dropped[packet.DropReplay] = 7
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(New(some{i})); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
				got = append(got, strings.TrimPrefix(f.GetName(), "twotier_vrrp_")+" "+m.String())
			}
		}
	}
	if all := strings.Join(got, "\n"); len(got) != 11 || !strings.Contains(all, `value:"router"`) || !strings.Contains(all, `value:"replay"`) || !strings.Contains(all, `value:"master"`) {
		t.Errorf("got\n%s", all)
	}
}
