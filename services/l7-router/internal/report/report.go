// Package report gathers how everything stands, for the statistics page and for Prometheus.
package report

import (
	"cmp"
	"os"
	"slices"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// Config is what a report is made of; all of it is required.
type Config struct {
	// Pool holds the backends and what is counted.
	Pool *pool.Pool
	// Observe tells what is in force.
	Observe func() plan.Have
	// Node and Version tell who speaks.
	Node, Version string
}

// Reporter makes reports. Report may be called from any goroutine.
type Reporter struct {
	Config
	started time.Time
}

// New makes a reporter; the process counts as started now.
func New(c Config) *Reporter { return &Reporter{c, time.Now()} }

// Report tells how everything stands now: frontends and backends in the order of their names, servers in that of desired
// state.
func (r *Reporter) Report() stats.Report {
	have := r.Observe()
	report := stats.Report{Now: time.Now(), Started: r.started, Node: r.Node, Version: r.Version, Pid: os.Getpid()}
	slices.SortFunc(have.Frontends, func(a, b spec.Frontend) int { return cmp.Compare(a.Name, b.Name) })
	id := 0
	for _, f := range have.Frontends {
		id++
		line := stats.Frontend{ID: id, Name: f.Name, MaxConn: f.MaxConn, DefaultBackend: f.DefaultBackend, Values: r.Pool.Frontend(f.Name).Values()}
		for _, l := range have.Listeners {
			if l.Frontend == f.Name {
				line.Listeners = append(line.Listeners, spec.BindString(l.Address))
			}
		}
		slices.Sort(line.Listeners)
		report.Frontends = append(report.Frontends, line)
	}
	states := r.Pool.Servers()
	for _, b := range have.Backends {
		seen := r.Pool.Backend(b.Name)
		if seen == nil {
			continue // it was taken away just now
		}
		id++
		line := stats.Backend{ID: id, Name: b.Name, Algorithm: b.Balance.Algorithm.String(), Cookie: b.Cookie.Name, Values: seen.Seen.Values()}
		queued, most := seen.Queued()
		line.Queue, line.QueuePeak = int64(queued), int64(most)
		line.TimesDown, line.LastChange, line.Downtime = r.Pool.Standing(seen, report.Now)
		for _, s := range states {
			if s.Backend == b.Name {
				line.Servers = append(line.Servers, server(len(line.Servers)+1, &s))
			}
		}
		report.Backends = append(report.Backends, line)
	}
	return report
}

func server(id int, s *pool.State) stats.Server {
	line := stats.Server{
		ID: id, Name: s.Server.Name, Address: s.Server.Address.String(), Cookie: s.Server.Cookie, Backup: s.Server.Backup,
		Status: s.Status, Weight: s.Effective, WantedWeight: s.Server.Weight, Values: s.Seen.Values(),
		TimesDown: s.TimesDown, LastChange: s.LastChange, Downtime: s.Downtime,
	}
	line.Current = s.Active
	line.MaxConn, line.Queue, line.QueuePeak = s.Server.MaxConn, int64(s.Queued), int64(s.MostQueued)
	if s.Checked {
		line.Check = stats.Check{
			Status: string(s.Check.Code), Description: s.Check.Code.Description(), Detail: s.LastCheck, Code: s.Check.Status,
			Duration: s.Check.Duration, Rise: s.Rise, Fall: s.Fall, Points: s.Points, Failed: s.FailedChecks,
		}
	}
	return line
}
