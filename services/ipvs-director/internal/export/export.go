// Package export shows the virtual services to Prometheus: as the last pass saw them, a second ago at most. There are as many
// series as real servers are wanted, and no label that a client could fill.
package export

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// World tells what the last pass saw.
type World interface {
	View() loop.View
}

// Health tells what is known of a real server.
type Health interface {
	State(steer.Key) (health steer.Health, last string)
}

// Collector makes the figures at each scrape.
type Collector struct {
	world  World
	health Health

	observed, weight, up, active, total, unusual *prometheus.Desc
	packets, bytes                               *prometheus.Desc
}

// New makes a collector.
func New(world World, health Health) *Collector {
	real := []string{"vip", "real_server"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("twotier_director_"+name, help, labels, nil)
	}
	return &Collector{
		world: world, health: health,
		observed: desc("kernel_observed", "1: the last pass could read the kernel."),
		weight:   desc("real_server_weight", "Weight in force; 0: no new connections.", real...),
		up:       desc("real_server_up", "1: its checks are good; 0: they fail. Absent: not checked.", real...),
		active:   desc("real_server_active_connections", "Established connections. Absent on a plane that does not count them (nftables).", real...),
		total:    desc("real_server_connections_total", "New connections since the real server was added.", real...),
		packets:  desc("real_server_packets_total", "Packets to (in) and from (out) the real server since it was added, or the nftables plane was rebuilt.", append(real, "direction")...),
		bytes:    desc("real_server_bytes_total", "The same in bytes.", append(real, "direction")...),
		unusual:  desc("service_unusual", "1: panic, sorry server or leaving; ListServices says which.", "vip"),
	}
}

// Describe tells the figures.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.observed, c.weight, c.up, c.active, c.total, c.packets, c.bytes, c.unusual} {
		out <- d
	}
}

// Collect makes the figures.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	view := c.world.View()
	gauge(c.observed, one(view.Observed && view.Unusable == nil))
	for _, s := range view.Have.Services {
		vip := s.VIP.String()
		gauge(c.unusual, one(view.Course.Reasons[steer.Key{VIP: s.VIP}] != ""), vip)
		for _, r := range s.Reals {
			real := r.Address.String()
			gauge(c.weight, float64(r.Weight), vip, real)
			if health, _ := c.health.State(steer.Key{VIP: s.VIP, Real: r.Address}); health != steer.Unknown {
				gauge(c.up, one(health == steer.Up), vip, real)
			}
			if r.Active != nil {
				gauge(c.active, float64(*r.Active), vip, real)
			}
			counter(c.total, r.Total, vip, real)
			if t := r.Traffic; t != nil {
				counter(c.packets, t.PacketsIn, vip, real, "in")
				counter(c.packets, t.PacketsOut, vip, real, "out")
				counter(c.bytes, t.BytesIn, vip, real, "in")
				counter(c.bytes, t.BytesOut, vip, real, "out")
			}
		}
	}
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
