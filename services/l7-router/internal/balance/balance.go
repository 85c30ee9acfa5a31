// Package balance chooses the server that takes the next request: pure.
//
// Each algorithm has a file. The caller serialises the calls to one algorithm; what is live of a server (Load) may be read
// and changed by anyone at any time.
package balance

import (
	"sync/atomic"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// None is chosen when no server can take the request.
const None = -1

// Scale is how many parts a configured weight has, so that a server can be given less than 1 while it starts
// (HAProxy: BE_WEIGHT_SCALE).
const Scale = 16

// MaxServers is the most servers of one algorithm.
const MaxServers = spec.MaxServers

// Load is what is live of a server. Its zero value is an idle server without a limit.
type Load struct {
	// Active is the number of requests under way, Waiting of those in its own queue.
	Active, Waiting atomic.Int64
	// Limit is how many may be under way, 0: any number.
	Limit atomic.Int64
	// Moved is when Active last changed, in a count of the caller's that grows with each change: among equals the one that
	// has been as it is for longest is next.
	Moved atomic.Uint64
	// Latency is how long it takes to answer.
	Latency Latency
}

// Full reports whether another request would have to wait.
func (l *Load) Full() bool {
	limit := l.Limit.Load()
	return limit > 0 && (l.Waiting.Load() > 0 || l.Active.Load() >= limit)
}

// Server is what has to be known of a server, in the order of configuration.
type Server struct {
	// Name of the server.
	Name string
	// Base is its configured weight, 0 to 256.
	Base int
	// Weight is its share of the requests now, in parts of 1/Scale; 0: it takes none.
	Weight int
	// Load is what is live of it; not nil.
	Load *Load
}

// Set holds indexes of servers.
type Set [MaxServers / 64]uint64

// Add puts i in.
func (s *Set) Add(i int) { s[i/64] |= 1 << (i % 64) }

// Has reports whether i is in.
func (s *Set) Has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// Query is what a choice goes by.
type Query struct {
	// Hash of what the algorithm goes by, when Hashed; without it a keyed algorithm goes by turns.
	Hash   uint32
	Hashed bool
	// Tried holds the servers that have failed this request already.
	Tried Set
	// Now is the time in nanoseconds since some moment, for PeakEWMA.
	Now int64
}

// Algorithm chooses among the servers of one backend. It is not safe for use by several goroutines.
type Algorithm interface {
	// Set tells the servers, MaxServers at most. Those that keep index and weight keep their place in the order.
	Set(servers []Server)
	// Next chooses a server and takes the turn. A server that is full is passed over, but not by a hash: the caller has the
	// request wait. None: nobody who takes requests, is not full and has not been tried is left.
	Next(q *Query) int
	// Peek returns what Next would, without taking the turn.
	Peek(q *Query) int
}

// New makes what a backend is wanted to choose by.
func New(b spec.Balance) Algorithm {
	switch b.Algorithm {
	case spec.StaticRR:
		return new(StaticRR)
	case spec.LeastConn:
		return new(LeastConn)
	case spec.First:
		return new(First)
	case spec.Random:
		return newRandom()
	case spec.PeakEWMA:
		return newPeakEWMA()
	case spec.Source, spec.URI, spec.ByHeader:
		switch b.Hash {
		case spec.HashConsistent:
			return new(Ring)
		case spec.HashMaglev:
			return new(Maglev)
		}
		return new(Map)
	}
	return new(RoundRobin)
}

// Candidate is what decides whether a server takes balanced requests.
type Candidate struct {
	Server
	Backup bool
	Usable bool
}

// Candidates tells the servers among which an algorithm chooses: all of them, with weight 0 for those that take none. As
// long as one server that is not a backup can take requests, backups take none; else the first backup takes all, or with
// all, every backup takes its share (HAProxy: backup, option allbackups).
func Candidates(all []Candidate, allBackups bool) []Server {
	servers := make([]Server, len(all))
	backups := true
	for _, c := range all {
		backups = backups && !(c.Usable && c.Weight > 0 && !c.Backup)
	}
	taken := false
	for i, c := range all {
		servers[i] = c.Server
		if !c.Usable || c.Backup != backups || taken {
			servers[i].Weight = 0
		}
		taken = taken || backups && !allBackups && servers[i].Weight > 0
	}
	return servers
}

// free reports whether a server may be chosen by an algorithm that looks for one with a free slot.
func free(s *Server, i int, q *Query) bool { return s.Weight > 0 && !q.Tried.Has(i) && !s.Load.Full() }
