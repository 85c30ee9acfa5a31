package export_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/twotier/twotier/services/l7-router/internal/export"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

func report() stats.Report {
	front, back, server := stats.NewSet(), stats.NewSet(), stats.NewSet()
	record := stats.Record{Begun: 1, Head: 1, Assigned: 1, Connected: 1, Responded: 1 + int64(3*time.Millisecond), Status: 200, BytesOut: 170, Cause: stats.CauseNone}
	front.Add(0, stats.Requests, 1)
	front.Settle(0, &record, 0)
	for _, s := range []*stats.Set{back, server} {
		s.Add(0, stats.Sessions, 1)
		s.Settle(0, &record, 0)
		s.SettleTimes(0, &record, 1+int64(4*time.Millisecond))
	}
	return stats.Report{
		Frontends: []stats.Frontend{{Name: "main", MaxConn: 10, Values: front.Values()}},
		Backends: []stats.Backend{{Name: "web", Values: back.Values(), Servers: []stats.Server{
			{Name: "s1", Status: "UP", Weight: 1, Values: server.Values()}, {Name: "s2", Status: "DRAIN", Weight: 1, Values: stats.NewSet().Values()},
		}}},
	}
}

func TestScrape(t *testing.T) {
	t.Parallel()
	c := export.New(report, func() uint64 { return 3 })
	const want = `
# HELP twotier_router_backend_response_seconds From the connection to the server to the head of its response.
# TYPE twotier_router_backend_response_seconds histogram
twotier_router_backend_response_seconds_bucket{backend="web",le="0.0005"} 0
twotier_router_backend_response_seconds_bucket{backend="web",le="0.001"} 0
twotier_router_backend_response_seconds_bucket{backend="web",le="0.0025"} 0
twotier_router_backend_response_seconds_bucket{backend="web",le="0.005"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="0.01"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="0.025"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="0.05"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="0.1"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="0.25"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="0.5"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="1"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="2.5"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="5"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="10"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="30"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="60"} 1
twotier_router_backend_response_seconds_bucket{backend="web",le="+Inf"} 1
twotier_router_backend_response_seconds_sum{backend="web"} 0.003
twotier_router_backend_response_seconds_count{backend="web"} 1
# HELP twotier_router_backend_servers_usable Servers that take new requests.
# TYPE twotier_router_backend_servers_usable gauge
twotier_router_backend_servers_usable{backend="web"} 1
# HELP twotier_router_frontend_responses_total Final responses by class of status.
# TYPE twotier_router_frontend_responses_total counter
twotier_router_frontend_responses_total{code="1xx",frontend="main"} 0
twotier_router_frontend_responses_total{code="2xx",frontend="main"} 1
twotier_router_frontend_responses_total{code="3xx",frontend="main"} 0
twotier_router_frontend_responses_total{code="4xx",frontend="main"} 0
twotier_router_frontend_responses_total{code="5xx",frontend="main"} 0
twotier_router_frontend_responses_total{code="other",frontend="main"} 0
# HELP twotier_router_log_dropped_total Requests that were not logged because the log was too slow.
# TYPE twotier_router_log_dropped_total counter
twotier_router_log_dropped_total 3
# HELP twotier_router_server_draining 1 when it takes no new clients, else 0.
# TYPE twotier_router_server_draining gauge
twotier_router_server_draining{backend="web",server="s1"} 0
twotier_router_server_draining{backend="web",server="s2"} 1
# HELP twotier_router_server_requests_total Requests.
# TYPE twotier_router_server_requests_total counter
twotier_router_server_requests_total{backend="web",server="s1"} 1
twotier_router_server_requests_total{backend="web",server="s2"} 0
`
	err := testutil.CollectAndCompare(c, strings.NewReader(want), "twotier_router_backend_response_seconds", "twotier_router_backend_servers_usable",
		"twotier_router_frontend_responses_total", "twotier_router_log_dropped_total", "twotier_router_server_draining", "twotier_router_server_requests_total")
	if err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("%v %+v", err, problems)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}
