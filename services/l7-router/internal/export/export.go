// Package export shows the report to Prometheus. There are as many series as frontends, backends and servers are wanted,
// some 40 each, and no label that a client could fill.
package export

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// bounds are the buckets of the histograms. Counts are told from finer ones, whose bounds are at most 6.25 % away.
var bounds = []time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// Collector makes a report for each scrape.
type Collector struct {
	report func() stats.Report
	// dropped tells how many requests could not be logged; nil: nothing is logged.
	dropped func() uint64
	all     []*prometheus.Desc
	side    map[string]*side
	lost    *prometheus.Desc
}

// side holds the metrics of frontends, of backends or of servers.
type side struct {
	counters  map[stats.Counter]*prometheus.Desc
	responses *prometheus.Desc
	gauges    map[string]*prometheus.Desc
	response  *prometheus.Desc
	request   *prometheus.Desc
}

type word struct {
	c          stats.Counter
	name, help string
}

var (
	common = []word{
		{stats.Requests, "requests_total", "Requests."},
		{stats.BytesIn, "bytes_in_total", "Bytes from clients, heads included."},
		{stats.BytesOut, "bytes_out_total", "Bytes to clients, heads included."},
		{stats.ClientAborts, "client_aborts_total", "Requests that ended because the client went away or was silent."},
	}
	ofFrontends = []word{
		{stats.Sessions, "connections_total", "Connections of clients."},
		{stats.DeniedRequests, "requests_denied_total", "Requests refused by a rule."},
		{stats.RequestErrors, "request_errors_total", "Requests that could not be read, or did not come in time."},
		{stats.Intercepted, "intercepted_total", "Requests that the router answered itself: redirects and the statistics page."},
	}
	behind = []word{
		{stats.ServerAborts, "server_aborts_total", "Responses that the server broke off."},
		{stats.ConnectErrors, "connect_errors_total", "Connections to servers that could not be made."},
		{stats.ResponseErrors, "response_errors_total", "Requests to which no good response came."},
		{stats.Retries, "retries_total", "Connections that were tried again."},
		{stats.Redispatches, "redispatches_total", "Requests that went to another server than the one chosen first."},
		{stats.Balanced, "balanced_total", "Requests whose server was chosen by turns, not by a cookie."},
		{stats.Connects, "connects_total", "Connections made to servers."},
		{stats.Reuses, "reuses_total", "Requests over a connection that had been idle."},
	}
	gauges = map[string][]word{
		"frontend": {{name: "connections", help: "Connections of clients now."}, {name: "connections_limit", help: "The most connections at a time."}},
		"backend": {
			{name: "requests", help: "Requests under way."}, {name: "queue", help: "Requests that wait for a server."},
			{name: "up", help: "1 when a server takes new requests, else 0."}, {name: "servers_usable", help: "Servers that take new requests."},
			{name: "servers", help: "Servers."},
		},
		"server": {
			{name: "requests", help: "Requests under way."}, {name: "queue", help: "Requests that wait for this server."},
			{name: "up", help: "1 when it takes new requests, else 0."}, {name: "maintenance", help: "1 when it is in maintenance, else 0."},
			{name: "draining", help: "1 when it takes no new clients, else 0."}, {name: "weight", help: "Weight in force."},
			{name: "check_seconds", help: "How long the last check took."},
			{name: "check_failures_total", help: "Checks that failed while it was up."}, {name: "downs_total", help: "How often it went down or into maintenance."},
			{name: "downtime_seconds_total", help: "How long it has been down or in maintenance."},
		},
	}
)

// New makes a collector. dropped may be nil.
func New(report func() stats.Report, dropped func() uint64) *Collector {
	c := &Collector{report: report, dropped: dropped, side: map[string]*side{}}
	for _, of := range []struct {
		name   string
		labels []string
		words  []word
		timed  bool
	}{
		{"frontend", []string{"frontend"}, ofFrontends, false},
		{"backend", []string{"backend"}, behind, true},
		{"server", []string{"backend", "server"}, behind, true},
	} {
		desc := func(name, help string, more ...string) *prometheus.Desc {
			d := prometheus.NewDesc("twotier_router_"+of.name+"_"+name, help, append(of.labels[:len(of.labels):len(of.labels)], more...), nil)
			c.all = append(c.all, d)
			return d
		}
		s := &side{counters: map[stats.Counter]*prometheus.Desc{}, gauges: map[string]*prometheus.Desc{}}
		for _, words := range [][]word{common, of.words} {
			for _, w := range words {
				if of.name == "server" && w.c == stats.Requests {
					w.c = stats.Sessions // a server's requests are counted there
				}
				s.counters[w.c] = desc(w.name, w.help)
			}
		}
		s.responses = desc("responses_total", "Final responses by class of status.", "code")
		for _, g := range gauges[of.name] {
			s.gauges[g.name] = desc(g.name, g.help)
		}
		if of.timed {
			s.response = desc("response_seconds", "From the connection to the server to the head of its response.")
			s.request = desc("request_seconds", "From the first byte of the request to the last of the response.")
		}
		c.side[of.name] = s
	}
	c.lost = prometheus.NewDesc("twotier_router_log_dropped_total", "Requests that were not logged because the log was too slow.", nil, nil)
	c.all = append(c.all, c.lost)
	return c
}

// Describe is for Prometheus.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.all {
		out <- d
	}
}

// Collect is for Prometheus.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	r := c.report()
	for i := range r.Frontends {
		f := &r.Frontends[i]
		c.side["frontend"].send(out, &f.Values, map[string]float64{"connections": float64(f.Current), "connections_limit": float64(f.MaxConn)}, f.Name)
	}
	for i := range r.Backends {
		b := &r.Backends[i]
		active, backup, _ := b.Strength()
		c.side["backend"].send(out, &b.Values, map[string]float64{
			"requests": float64(b.Current), "queue": float64(b.Queue), "up": truth(b.Up()),
			"servers_usable": float64(active + backup), "servers": float64(len(b.Servers)),
		}, b.Name)
		for j := range b.Servers {
			s := &b.Servers[j]
			c.side["server"].send(out, &s.Values, map[string]float64{
				"requests": float64(s.Current), "queue": float64(s.Queue), "up": truth(s.Usable()),
				"maintenance": truth(s.Status == "MAINT"), "draining": truth(strings.HasPrefix(s.Status, "DRAIN") || strings.HasPrefix(s.Status, "NOLB")),
				"weight": float64(s.Weight), "check_seconds": s.Check.Duration.Seconds(),
				"check_failures_total": float64(s.Check.Failed), "downs_total": float64(s.TimesDown), "downtime_seconds_total": s.Downtime.Seconds(),
			}, b.Name, s.Name)
		}
	}
	if c.dropped != nil {
		out <- prometheus.MustNewConstMetric(c.lost, prometheus.CounterValue, float64(c.dropped()))
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

var classes = []struct {
	c    stats.Counter
	code string
}{
	{stats.Status1xx, "1xx"}, {stats.Status2xx, "2xx"}, {stats.Status3xx, "3xx"}, {stats.Status4xx, "4xx"}, {stats.Status5xx, "5xx"}, {stats.StatusOther, "other"},
}

func (s *side) send(out chan<- prometheus.Metric, v *stats.Values, now map[string]float64, labels ...string) {
	for c, d := range s.counters {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v.Count(c)), labels...)
	}
	for _, class := range classes {
		out <- prometheus.MustNewConstMetric(s.responses, prometheus.CounterValue, float64(v.Count(class.c)), append(labels, class.code)...)
	}
	for name, d := range s.gauges {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(name, "_total") {
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(d, kind, now[name], labels...)
	}
	if s.response != nil {
		out <- histogram(s.response, &v.Response, labels)
		out <- histogram(s.request, &v.Total, labels)
	}
}

func histogram(d *prometheus.Desc, times *stats.Distribution, labels []string) prometheus.Metric {
	counts := make(map[float64]uint64, len(bounds))
	for _, bound := range bounds {
		counts[bound.Seconds()] = times.Below(bound)
	}
	return prometheus.MustNewConstHistogram(d, times.Count, times.Sum.Seconds(), counts, labels...)
}
