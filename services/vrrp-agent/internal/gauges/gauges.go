// Package gauges answers: which numbers does Prometheus get?
package gauges

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
)

// Instances is what runs on this node.
type Instances interface {
	Instances() []plan.Instance
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("twotier_vrrp_"+name, help, append([]string{"instance"}, labels...), nil)
}

var (
	state       = describe("state", "1 for the state that the instance is in, 0 for the others.", "state")
	priority    = describe("priority", "Priority at present, with the weights of the trackers.")
	held        = describe("held_addresses", "Virtual addresses that this node holds.")
	transitions = describe("transitions_total", "Changes of state.")
	sent        = describe("adverts_sent_total", "Adverts sent.")
	received    = describe("adverts_received_total", "Adverts taken in.")
	mismatched  = describe("addresses_mismatched_total", "Adverts taken in that named other addresses.")
	dropped     = describe("adverts_dropped_total", "Packets dropped by the receive checks.", "reason")
	prevented   = describe("takeovers_prevented_total", "Times that an unheard master answered that it lives.")
	claims      = describe("foreign_claims_total", "Times that another machine claimed a held address by ARP.")
	unheard     = describe("master_unheard", "1 while the master is not heard but answers.")
	well        = describe("tracker_well", "1 while what the tracker looks at is well.", "tracker")
	drained     = describe("drained", "1 while the node is drained.")
)

// Collector makes the numbers of a scrape.
type Collector struct{ instances Instances }

// New makes a collector. It is registered once.
func New(i Instances) *Collector { return &Collector{i} }

// Describe names the numbers.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{state, priority, held, transitions, sent, received, mismatched, dropped, prevented, claims, unheard, well, drained} {
		out <- d
	}
}

// Collect takes the numbers.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	for _, i := range c.instances.Instances() {
		name := i.Local.Name
		gauge := func(d *prometheus.Desc, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{name}, labels...)...)
		}
		counter := func(d *prometheus.Desc, value uint64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), append([]string{name}, labels...)...)
		}
		for _, s := range []fsm.State{fsm.Initialize, fsm.Backup, fsm.Master, fsm.Fault} {
			gauge(state, number(i.State == s), s.String())
		}
		gauge(priority, float64(i.Priority))
		gauge(held, float64(len(i.Held)))
		gauge(unheard, number(i.Unheard))
		for _, f := range i.Trackers {
			gauge(well, number(f.Well), f.Tracker)
		}
		gauge(drained, number(i.Drained))
		counter(transitions, i.Transitions)
		counter(sent, i.Sent)
		counter(received, i.Received)
		counter(mismatched, i.Mismatched)
		counter(prevented, i.Witnessed)
		counter(claims, i.Claims)
		for reason, n := range i.Dropped {
			counter(dropped, n, packet.Drop(reason).Error())
		}
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
