package stats

import "time"

// Report is how everything stands at a moment.
type Report struct {
	// Now is the moment, Started when the process began.
	Now, Started time.Time
	// Node and Version tell who speaks.
	Node, Version string
	Pid           int
	Frontends     []Frontend
	Backends      []Backend
}

// Frontend is a line of the report.
type Frontend struct {
	// ID is its number, HAProxy's iid; it holds as long as no frontend or backend is added or taken away.
	ID   int
	Name string
	// Listeners are the addresses that it listens on.
	Listeners []string
	// MaxConn is the most connections at a time.
	MaxConn int
	// DefaultBackend takes what no rule claims.
	DefaultBackend string
	Values
}

// Backend is a line of the report, with those of its servers.
type Backend struct {
	ID   int
	Name string
	// Algorithm and Cookie are how a server is chosen. Example: roundrobin, webserver
	Algorithm, Cookie string
	Servers           []Server
	// Queue is how many requests wait, QueuePeak the most there have been.
	Queue, QueuePeak int64
	// TimesDown, LastChange and Downtime are about the backend as a whole.
	TimesDown  uint64
	LastChange time.Time
	Downtime   time.Duration
	Values
}

// Server is a line of the report.
type Server struct {
	ID            int
	Name, Address string
	// Cookie is its value of the persistence cookie.
	Cookie string
	// Status is HAProxy's word: UP, UP 1/3, DOWN, DOWN 1/2, MAINT, DRAIN, NOLB, no check.
	Status string
	// Weight is in force, WantedWeight the desired one.
	Weight, WantedWeight int
	Backup               bool
	// MaxConn is the most requests at a time, 0: no limit.
	MaxConn int
	// Queue is how many requests wait for it, QueuePeak the most there have been.
	Queue, QueuePeak int64
	Check            Check
	// TimesDown is how often it went down or into maintenance, LastChange when it last did or came back, Downtime how long
	// it was so, all told.
	TimesDown  uint64
	LastChange time.Time
	Downtime   time.Duration
	Values
}

// Check is how a server's checks go; without a Status it has none.
type Check struct {
	// Status is HAProxy's code, such as L7OK; Description the same in words, Detail for a person.
	Status, Description, Detail string
	// Code is the status of an HTTP response, 0: there was none.
	Code     int
	Duration time.Duration
	// Rise, Fall and Points are where the count stands; Failed counts the checks that failed while it was up.
	Rise, Fall, Points int
	Failed             uint64
}

// Usable reports whether the server takes new requests.
func (s *Server) Usable() bool {
	switch {
	case s.Status == "no check":
		return true
	case len(s.Status) >= 2:
		return s.Status[:2] == "UP"
	}
	return false
}

// Up reports whether the backend has a server for a new request.
func (b *Backend) Up() bool {
	for i := range b.Servers {
		if s := &b.Servers[i]; s.Usable() && (s.Weight > 0 || s.Backup) {
			return true
		}
	}
	return false
}

// Status is HAProxy's word for the backend.
func (b *Backend) Status() string {
	if b.Up() {
		return "UP"
	}
	return "DOWN"
}

// Strength tells how many usable servers there are, active ones and backups, and their weight.
func (b *Backend) Strength() (active, backup, weight int) {
	spare := 0
	for i := range b.Servers {
		switch s := &b.Servers[i]; {
		case !s.Usable():
		case s.Backup:
			if backup == 0 {
				spare = s.Weight
			}
			backup++
		case s.Weight > 0:
			active++
			weight += s.Weight
		}
	}
	if active == 0 {
		weight = spare // the first usable backup takes all
	}
	return active, backup, weight
}

// Scoped returns the report with nothing but what keep wants to have, by the names of frontends and backends.
func (r Report) Scoped(keep func(name string) bool) Report {
	var frontends []Frontend
	for _, f := range r.Frontends {
		if keep(f.Name) {
			frontends = append(frontends, f)
		}
	}
	var backends []Backend
	for _, b := range r.Backends {
		if keep(b.Name) {
			backends = append(backends, b)
		}
	}
	r.Frontends, r.Backends = frontends, backends
	return r
}
