package pool

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/balance"
	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/seal"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// failedPenalty is what a connection that could not be made counts as latency.
const failedPenalty = time.Second

var epoch = time.Now()

func now() int64 { return int64(time.Since(epoch)) }

// group is what of a backend outlasts a new desired state: whose turn it is, and who waits.
type group struct {
	// moves counts the changes of load, for balance.Load.Moved; only when ordered.
	moves atomic.Uint64
	// ordered and measured say whether the algorithm goes by Moved, by Latency.
	ordered, measured atomic.Bool
	// panics: too few servers are usable, so that all are used. trials counts the servers that may be tried.
	panics atomic.Bool
	trials atomic.Int64
	budget budget
	told   bool // what was told of panics; guarded by Pool.mu
	// keys seal the values of the persistence cookie; nil: there are none.
	keys  atomic.Pointer[seal.Keys]
	keyed keyed

	mu        sync.Mutex // guards what follows
	current   *Backend   // as it was last set
	wanted    spec.Balance
	algorithm balance.Algorithm
	shares    []balance.Server // what the algorithm was told
	queue     queue            // of requests that any server may take
	arrivals  uint64
}

func newGroup() *group {
	g := &group{}
	g.queue.group = g
	return g
}

// Ticket is a request that looks for a server: what the choice goes by, and its place in a queue. Its owner calls Reset
// before each request; the rest of the time it belongs to the pool. Its zero value is ready too.
type Ticket struct {
	// Waker is told when a request that waits has to ask Next again.
	Waker Waker
	// Named is the server that the client's cookie names; nil: none.
	Named *Server
	// Hash of what the backend's algorithm goes by, when Hashed.
	Hash   uint32
	Hashed bool
	// Tries: the request may try a server that is out because of its errors, since it can be sent to another one.
	Tries bool

	query balance.Query
	tried []uint64 // IDs
	few   [8]uint64
	place
}

// Waker is who is told that the wait may be over. Wake is called by any goroutine and does not block; it may be called
// once too often.
type Waker interface{ Wake() }

// Reset makes t ready for another request.
func (t *Ticket) Reset() {
	waker := t.Waker
	*t = Ticket{Waker: waker}
}

// Chosen returns how many servers have been chosen for the request.
func (t *Ticket) Chosen() int { return len(t.tried) }

// Next chooses a server: the one that the cookie names, then as the backend balances, each once. It counts the request
// there; End must follow. nil: nobody can take the request, or, when t.Waits, it waits for a server with a free slot until
// Next returns something else or Leave is called.
func (b *Backend) Next(t *Ticket) *Server {
	g := b.group
	// The usual case of a client that has its server: nothing is shared but the server's own counters.
	if s := t.Named; s != nil && !t.waits && len(t.tried) == 0 && s.Limit.Load() == 0 && s.honoured() {
		t.take(s)
		return s
	}
	if t.Tries && t.Named == nil && len(t.tried) == 0 && !t.waits && g.trials.Load() > 0 {
		if s := b.trial(); s != nil {
			t.take(s)
			return s
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.waits {
		switch {
		case t.server != nil:
			s := t.server
			t.waits, t.server = false, nil
			return s
		case t.queue != nil:
			return nil // woken once too often
		}
		t.waits = false
	}
	s := g.choose(t)
	t.waits = t.queue != nil
	return s
}

// Peek returns the server that Next would choose now, or would have the request wait for; nil: none, or any that is free
// first. It changes nothing.
func (b *Backend) Peek(t *Ticket) *Server {
	g := b.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := t.Named; s != nil && len(t.tried) == 0 && s.honoured() {
		return s
	}
	g.ask(t)
	if i := g.algorithm.Peek(&t.query); i != balance.None {
		return g.current.servers[i]
	}
	if g.anyShare(t) {
		return nil
	}
	spare, _ := g.spare(t)
	return spare
}

// ask makes the query of a ticket. The caller holds g.mu.
func (g *group) ask(t *Ticket) {
	t.query = balance.Query{Hash: t.Hash, Hashed: t.Hashed}
	for _, id := range t.tried {
		if i := slices.IndexFunc(g.current.servers, func(s *Server) bool { return s.id == id }); i >= 0 {
			t.query.Tried.Add(i)
		}
	}
	if g.measured.Load() {
		t.query.Now = now()
	}
}

// choose takes a server for t, or has it wait; nil and no queue: nobody can take it. The caller holds g.mu.
func (g *group) choose(t *Ticket) *Server {
	if s := t.Named; s != nil && len(t.tried) == 0 && s.honoured() && s.at != nil {
		if !s.Full() {
			t.take(s)
			return s
		}
		if s.waitFor(t) {
			return nil
		}
	}
	g.ask(t)
	for {
		i := g.algorithm.Next(&t.query)
		if i == balance.None {
			break
		}
		s := g.current.servers[i]
		if !s.Full() {
			t.take(s)
			return s
		}
		if s.waitFor(t) { // a hash names it
			return nil
		}
		t.query.Tried.Add(i)
	}
	if g.anyShare(t) {
		if g.queue.length < MaxQueue {
			g.queue.add(t)
		}
		return nil
	}
	s, full := g.spare(t)
	switch {
	case s == nil:
		return nil
	case !full:
		t.take(s)
		return s
	}
	s.waitFor(t)
	return nil
}

// Others reports whether there is a server that the request has not been sent to.
func (b *Backend) Others(t *Ticket) bool {
	g := b.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.anyShare(t) {
		return true
	}
	s, _ := g.spare(t)
	return s != nil
}

// anyShare reports whether somebody takes balanced requests that has not failed this one. The caller holds g.mu.
func (g *group) anyShare(t *Ticket) bool {
	for i := range g.shares {
		if g.shares[i].Weight > 0 && !slices.Contains(t.tried, g.current.servers[i].id) {
			return true
		}
	}
	return false
}

// spare finds a backup for a request that all others have failed, one with a free slot if there is any. The caller holds
// g.mu.
func (g *group) spare(t *Ticket) (s *Server, full bool) {
	for _, one := range g.current.servers {
		if !one.Spec.Backup || one.weight.Load() == 0 || !one.balanced.Load() || slices.Contains(t.tried, one.id) {
			continue
		}
		if !one.Full() {
			return one, false
		}
		if s == nil {
			s = one
		}
	}
	return s, true
}

// take counts a request at s.
func (t *Ticket) take(s *Server) {
	if t.tried == nil {
		t.tried = t.few[:0]
	}
	t.tried = append(t.tried, s.id)
	s.Seen.Peak(s.Active.Add(1))
	s.total.Add(1)
	s.moved()
}

// moved tells that the load of a server has changed.
func (l *live) moved() {
	if l.group.ordered.Load() {
		l.Moved.Store(l.group.moves.Add(1))
	}
}

// End counts a request as over and hands its slot on.
func (l *live) End() {
	l.Active.Add(-1)
	l.moved()
	// Read after the count: whoever sets a limit and sees the slot still taken has set it before.
	if l.Limit.Load() == 0 {
		return
	}
	l.group.mu.Lock()
	t := l.group.serve(l)
	l.group.mu.Unlock()
	if t != nil {
		t.Wake()
	}
}

// Answered tells how long the server has taken to answer.
func (l *live) Answered(took time.Duration) {
	if l.group.measured.Load() {
		l.Latency.Observe(took, now())
	}
}

// Measures reports whether Answered is of use.
func (l *live) Measures() bool { return l.group.measured.Load() }

// ConnectFailed counts a connection that could not be made; err, which may be nil, says why. What this process lacks is not the
// server's fault, and it is not judged by it.
func (l *live) ConnectFailed(err error) {
	l.connectErrors.Add(1)
	if check.Scarce(err) {
		return
	}
	if l.Measures() {
		l.Latency.Observe(failedPenalty, now())
	}
	if judge := l.passive.Load(); judge != nil {
		l.erred(judge)
	}
}

// honoured reports whether a cookie that names the server counts.
func (l *live) honoured() bool {
	return (l.named.Load() || l.persist.Load() || l.group.panics.Load() && !l.maint.Load()) && !l.retired.Load()
}

// refresh tells the algorithm what the servers are like now, and gives those who wait what has become free. The caller holds
// Pool.mu.
func (b *Backend) refresh() {
	g := b.group
	if len(b.servers) < len(b.Spec.Servers) {
		return // it is still being made
	}
	panics := b.tooFew()
	g.panics.Store(panics)
	b.countTrials()
	at := now()
	candidates := make([]balance.Candidate, len(b.servers))
	limits := make([]int64, len(b.servers))
	for i, s := range b.servers {
		weight, limit := s.ramp(at)
		limits[i] = limit
		candidates[i] = balance.Candidate{
			Server: balance.Server{Name: s.Spec.Name, Base: int(s.weight.Load()), Weight: weight, Load: &s.Load},
			Backup: s.Spec.Backup, Usable: s.balanced.Load() || panics && !s.Spec.Backup && s.vitals.admin == spec.AdminReady,
		}
	}
	shares := balance.Candidates(candidates, b.Spec.AllBackups)
	// The tables of hashes are large, and nothing in them depends on what has been chosen: made before the lock.
	var fresh balance.Algorithm
	if b.Spec.Balance.Keyed() {
		fresh = balance.New(b.Spec.Balance)
		fresh.Set(shares)
	}

	g.mu.Lock()
	switch {
	case fresh != nil:
		g.algorithm = fresh
	case g.algorithm == nil || g.wanted != b.Spec.Balance:
		g.algorithm = balance.New(b.Spec.Balance)
		g.algorithm.Set(shares)
	default:
		g.algorithm.Set(shares)
	}
	g.wanted, g.shares = b.Spec.Balance, shares
	g.ordered.Store(b.Spec.Balance.Algorithm == spec.LeastConn)
	g.measured.Store(b.Spec.Balance.Algorithm == spec.PeakEWMA)
	before := g.current
	g.current = b
	if before != nil {
		for _, s := range before.servers {
			s.at = nil
		}
	}
	for i, s := range b.servers {
		s.Limit.Store(limits[i])
		s.at, s.index = s, i
	}
	woken := g.redistribute(before)
	g.mu.Unlock()
	for _, w := range woken {
		w.Wake()
	}
}
