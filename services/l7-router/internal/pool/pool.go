// Package pool keeps the servers of every backend and what is known of them: their health, their counters and the idle
// connections to them.
package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/probe"
	"github.com/twotier/twotier/services/l7-router/internal/balance"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
	"go.uber.org/zap"
)

// Pool holds the backends. All methods may be called from any goroutine.
type Pool struct {
	log *zap.Logger

	mu       sync.Mutex // guards what follows; never held across I/O
	backends map[string]*Backend
	// frontends are counted here too, so that all that is counted is in one place.
	frontends map[string]*stats.Set
	lastID    uint64 // of a server
	stopped   bool
	checks    sync.WaitGroup
}

// New makes an empty pool.
func New(log *zap.Logger) *Pool {
	return &Pool{log: log.Named("pool"), backends: map[string]*Backend{}, frontends: map[string]*stats.Set{}}
}

// Backend is one backend as it was last set. Requests under way keep the one that they started with.
type Backend struct {
	// Spec is what was wanted of it.
	Spec spec.Backend
	// Seen is what is counted of it; it outlasts a new desired state.
	Seen    *stats.Set
	servers []*Server

	mu    sync.Mutex // guards turns
	turns balance.Turns
}

// Server is one server of a Backend.
type Server struct {
	// Spec is what was wanted of it.
	Spec spec.Server
	*live
}

// live is what outlasts a new desired state, as long as address and check stay the same.
type live struct {
	id      uint64
	address string
	check   spec.Check
	cancel  context.CancelFunc // ends the check; nil when there is none
	down    atomic.Bool
	retired atomic.Bool // it is wanted no more
	last    atomic.Pointer[string]

	// Seen is what is counted of it.
	Seen *stats.Set

	active        atomic.Int64
	total         atomic.Uint64
	connectErrors atomic.Uint64

	idle idleConns

	// The backend that it serves now; guarded by Pool.mu.
	backend *Backend
}

// Set makes a backend, or replaces it. A server whose address and check are unchanged keeps its health, its counters
// and its idle connections, whatever its name is now; a new one starts as up, and its first check decides.
func (p *Pool) Set(want spec.Backend) *Backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := &Backend{Spec: want}
	var left []*live
	old := p.backends[want.Name]
	if old == nil {
		b.Seen = stats.NewSet()
	} else {
		b.Seen = old.Seen
		for _, s := range old.servers {
			left = append(left, s.live)
		}
	}
	for _, s := range want.Servers {
		address := s.Address.String()
		at := slices.IndexFunc(left, func(l *live) bool { return l.address == address && l.check == want.Check })
		var l *live
		if at >= 0 {
			l = left[at]
			left = slices.Delete(left, at, at+1)
		} else {
			p.lastID++
			l = &live{id: p.lastID, address: address, check: want.Check, Seen: stats.NewSet()}
			p.start(l, want.Name, s.Name)
		}
		l.backend = b
		b.servers = append(b.servers, &Server{Spec: s, live: l})
	}
	if old != nil {
		old.mu.Lock()
		b.turns = old.turns.Clone()
		old.mu.Unlock()
	}
	b.refresh()
	p.backends[want.Name] = b
	p.retire(left)
	return b
}

// Remove forgets a backend. Requests under way on it end by themselves.
func (p *Pool) Remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.backends[name]
	if b == nil {
		return
	}
	delete(p.backends, name)
	for _, s := range b.servers {
		p.retire([]*live{s.live})
	}
}

// retire ends the checks of servers that are wanted no more. The caller holds p.mu.
func (p *Pool) retire(gone []*live) {
	for _, l := range gone {
		l.backend = nil
		l.retired.Store(true)
		if l.cancel != nil {
			l.cancel()
		}
		l.idle.shut()
	}
}

// start begins the checks of a server; Run waits for them. The caller holds p.mu.
func (p *Pool) start(l *live, backend, server string) {
	if p.stopped || l.check.Kind == spec.CheckNone {
		return
	}
	var prober probe.Prober = probe.TCP{Address: l.address}
	what := "connect"
	if l.check.Kind == spec.CheckHTTP {
		prober = probe.HTTP{Address: l.address, Method: l.check.Method, Path: l.check.Path, Host: l.check.Host}
		what = l.check.Method + " " + l.check.Path
	}
	// Ended by retire or by Run, not by a caller's context: the checks outlive the pass that started them.
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	cfg := probe.Config{
		Interval: l.check.Interval, Timeout: l.check.Timeout, Rise: l.check.Rise, Fall: l.check.Fall,
		Up: true, FirstDecides: true,
	}
	log := p.log.With(logging.Backend(backend), logging.Server(server), logging.Address(l.address))
	p.checks.Go(func() {
		err := probe.Run(ctx, cfg, prober, func(r probe.Result) { p.observe(l, what, r, log) })
		if err != nil && ctx.Err() == nil {
			log.Error("check ended", zap.Error(err))
		}
	})
}

// observe takes the result of one check.
func (p *Pool) observe(l *live, what string, r probe.Result, log *zap.Logger) {
	text := fmt.Sprintf("%s: good in %v", what, r.Duration.Round(10*time.Microsecond))
	if r.Err != nil {
		text = fmt.Sprintf("%s: %v after %v", what, r.Err, r.Duration.Round(10*time.Microsecond))
	}
	l.last.Store(&text)
	if l.down.Swap(!r.Up) == !r.Up {
		return
	}
	if r.Up {
		log.Info("server changed", logging.Old("down"), logging.To("up"), logging.Reason(text))
	} else {
		log.Warn("server changed", logging.Old("up"), logging.To("down"), logging.Reason(text))
		l.idle.clear()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.backend != nil {
		l.backend.refresh()
	}
}

// Run closes connections that have been idle for too long and takes the rates, until ctx ends; then it ends all checks and idle connections.
func (p *Pool) Run(ctx context.Context) error {
	ticker := time.NewTicker(rateInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			for _, l := range p.lives() {
				l.idle.expire(now)
			}
			p.tick(now)
		case <-ctx.Done():
			p.mu.Lock()
			p.stopped = true
			for _, b := range p.backends {
				for _, s := range b.servers {
					p.retire([]*live{s.live})
				}
			}
			p.mu.Unlock()
			p.checks.Wait()
			return nil
		}
	}
}

func (p *Pool) lives() []*live {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*live
	for _, b := range p.backends {
		for _, s := range b.servers {
			all = append(all, s.live)
		}
	}
	return all
}

// Specs returns the backends as they were set, in the order of names.
func (p *Pool) Specs() []spec.Backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	var specs []spec.Backend
	for _, b := range p.backends {
		specs = append(specs, b.Spec)
	}
	slices.SortFunc(specs, func(a, b spec.Backend) int { return cmp.Compare(a.Name, b.Name) })
	return specs
}

// refresh tells the turns which servers are usable.
func (b *Backend) refresh() {
	servers := make([]balance.Server, len(b.servers))
	b.mu.Lock()
	defer b.mu.Unlock()
	// Read under the lock: two checks that report at once must not overwrite each other's news with older.
	for i, s := range b.servers {
		servers[i] = balance.Server{Weight: s.Spec.Weight, Backup: s.Spec.Backup, Usable: !s.down.Load()}
	}
	b.turns.Set(servers)
}

// Next chooses a server by turns, or balance.None. Tried holds those that have failed the request already.
func (b *Backend) Next(tried []int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.turns.Next(tried)
}

// ByCookie returns the first usable server with this cookie value, or balance.None.
func (b *Backend) ByCookie(value []byte) int {
	if len(value) == 0 {
		return balance.None
	}
	for i, s := range b.servers {
		if s.Spec.Cookie == string(value) && !s.down.Load() {
			return i
		}
	}
	return balance.None
}

// Server returns the i-th server.
func (b *Backend) Server(i int) *Server { return b.servers[i] }
