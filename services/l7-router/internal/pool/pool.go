// Package pool keeps the servers of every backend and what is known of them: their health, what the operator wants of
// them, their counters and the idle connections to them.
package pool

import (
	"cmp"
	"context"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/balance"
	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// Pool holds the backends. All methods may be called from any goroutine.
type Pool struct {
	log   *zap.Logger
	path  string        // of the file in which states outlast the process; empty: they do not
	dirty chan struct{} // has a value when the file is older than the states
	left  atomic.Bool   // another process writes the file now
	page  *Backend      // of the statistics pages

	mu       sync.Mutex // guards what follows; never held across I/O
	backends map[string]*Backend
	// frontends are counted here too, so that all that is counted is in one place.
	frontends map[string]*stats.Set
	lastID    uint64 // of a server
	stopped   bool
	checks    sync.WaitGroup
	end       func(id uint64)
	// remembered are the servers of an earlier process that have not been wanted again yet.
	remembered []record
	version    uint64        // grows with each change of a server's state
	structure  uint64        // the version at which servers were added, taken away or configured otherwise
	changed    chan struct{} // closed at the next change
	// bad gets the servers that have made too many errors, and good those that have been tried with success; Run looks at them.
	bad, good chan *live
}

// New makes an empty pool that remembers nothing of an earlier process.
func New(log *zap.Logger) *Pool {
	return &Pool{
		log: log.Named("pool"), dirty: make(chan struct{}, 1), bad: make(chan *live, maxJudged), good: make(chan *live, maxJudged),
		backends: map[string]*Backend{}, frontends: map[string]*stats.Set{}, changed: make(chan struct{}), end: func(uint64) {},
	}
}

// Backend is one backend as it was last set. Requests under way keep the one that they started with.
type Backend struct {
	// Spec is what was wanted of it.
	Spec spec.Backend
	// Seen is what is counted of it; it outlasts a new desired state.
	Seen     *stats.Set
	standing *standing
	servers  []*Server
	group    *group
	// Retries say which requests go to a second server.
	Retries spec.Retries
}

// Server is one server of a Backend.
type Server struct {
	// Spec is what was wanted of it.
	Spec spec.Server
	// Inside makes a connection when the server is in this process; nil: it is at its address.
	Inside func(Caller) (fd int, err error)
	*live
}

// live is what outlasts a new desired state, as long as the address stays the same.
type live struct {
	id      uint64
	address netip.AddrPort
	text    string        // the address
	kick    chan struct{} // gets a value when the check is to look again at once

	// What requests look at; published by Pool.update.
	retired  atomic.Bool // it is wanted no more
	balanced atomic.Bool // it takes requests that name no server
	named    atomic.Bool // it takes requests that name it
	maint    atomic.Bool // it is in maintenance
	persist  atomic.Bool // it is tried for requests that name it though it is down (HAProxy: option persist)
	weight   atomic.Int64

	// Seen is what is counted of it.
	Seen *stats.Set

	gone chan struct{} // closed when it is retired

	pool     *Pool
	passive  atomic.Pointer[spec.Passive] // nil: it is not judged
	errors   atomic.Int64                 // in a row
	halfOpen atomic.Bool                  // it is out, and may be tried
	trial    atomic.Int64                 // when it was tried last, in nanoseconds of the pool's clock

	// Load is what the balance goes by.
	balance.Load
	back          atomic.Int64 // when it came back, as now tells; 0: it has not been away
	total         atomic.Uint64
	connectErrors atomic.Uint64

	idle idleConns

	// Guarded by Pool.mu:
	backend *Backend // that it serves now
	server  *Server  // that it is there
	check   spec.Check
	cancel  context.CancelFunc // ends the check; nil when there is none
	vitals  vitals
	fresh   bool // its first state has not been published
	override
	last       check.Result
	lastChange time.Time
	downtime   time.Duration // before lastChange
	failed     uint64
	timesDown  uint64
	ejections  int           // in a row
	out        *time.Timer   // ends its ejection; nil: none
	lastOut    time.Duration // how long it was out last
	forgiven   time.Time     // when that ended
	changes    uint64
	version    uint64 // of the last change
	rising     bool   // a slow start is going on

	group *group
	// What waits for it, and what it is in the backend as it was last set, nil: it is not. Guarded by group.mu.
	queue queue
	at    *Server
	index int
}

// Set makes a backend, or replaces it. A server whose address is unchanged keeps its health, what was asked of it at run
// time, its counters and its idle connections, whatever its name, its weight and its check are now; a new one starts as
// up, and its first check decides.
func (p *Pool) Set(want spec.Backend) *Backend {
	keyText, keyErr := readKeyFile(want.Cookie.KeyFile)
	p.mu.Lock()
	b := &Backend{Spec: want, Retries: spec.DefaultRetries()}
	if want.Retries != nil {
		b.Retries = *want.Retries
	}
	var left []*live
	if old := p.backends[want.Name]; old == nil {
		b.Seen, b.group, b.standing = stats.NewSet(), newGroup(), &standing{up: true, changed: time.Now()}
	} else {
		b.Seen, b.group, b.standing = old.Seen, old.group, old.standing
		for _, s := range old.servers {
			left = append(left, s.live)
		}
	}
	var events []event
	for i, l := range match(want.Servers, left) {
		s := &Server{Spec: want.Servers[i], live: l}
		b.servers = append(b.servers, s)
		var before record
		if l == nil {
			s.live, before = p.newLive(b, s, left)
		} else {
			left = slices.DeleteFunc(left, func(other *live) bool { return other == l })
		}
		s.backend, s.server = b, s
		events = append(events, p.update(s.live, "desired state", func() {
			s.override.under(&s.Spec)
			s.vitals.admin = s.override.adminOf(&s.Spec)
			if c := want.CheckOf(&s.Spec); !reflect.DeepEqual(s.check, c) {
				s.stopCheck()
				s.check = c
				s.vitals.use(&s.check)
			}
			s.judgedBy(&b.Spec.Passive)
			if before.Down && s.vitals.checked {
				s.vitals.points = s.vitals.rise - 1 // one good check brings it back
			}
		}))
		p.startCheck(s.live)
	}
	p.backends[want.Name] = b
	p.takeKeys(b, keyText, keyErr)
	p.retire(left) // before those who wait for them choose anew
	b.refresh()
	p.restructured()
	p.mu.Unlock()
	p.tell(events)
	shut(left)
	return b
}

// match finds for each server the live one that it goes on as: of the same address and name, else of the same address.
func match(servers []spec.Server, left []*live) []*live {
	matched := make([]*live, len(servers))
	taken := map[*live]bool{}
	for _, sameName := range []bool{true, false} {
		for i, s := range servers {
			for _, l := range left {
				if matched[i] == nil && !taken[l] && l.address == s.Address && (!sameName || l.server.Spec.Name == s.Name) {
					matched[i], taken[l] = l, true
				}
			}
		}
	}
	return matched
}

// newLive makes a server that was not there. What was asked of the one that had its name, at another address or in an
// earlier process, goes on. The caller holds p.mu.
func (p *Pool) newLive(b *Backend, s *Server, left []*live) (*live, record) {
	p.lastID++
	now := time.Now()
	l := &live{id: p.lastID, address: s.Spec.Address, text: s.Spec.Address.String(), lastChange: now, kick: make(chan struct{}, 1),
		pool: p, vitals: unchecked, fresh: true, Seen: stats.NewSet(), gone: make(chan struct{}), group: b.group}
	l.queue = queue{group: b.group, waiting: &l.Load}
	for _, before := range left {
		if before.server.Spec.Name == s.Spec.Name {
			l.override, l.vitals.checksOff = before.override, before.vitals.checksOff
			return l, record{}
		}
	}
	r := p.recall(b.Spec.Name, &s.Spec)
	l.override, l.vitals.checksOff = r.override(), r.ChecksOff
	return l, r
}

// Remove forgets a backend. Requests under way on it end by themselves.
func (p *Pool) Remove(name string) {
	p.mu.Lock()
	var gone []*live
	if b := p.backends[name]; b != nil {
		delete(p.backends, name)
		for _, s := range b.servers {
			gone = append(gone, s.live)
		}
		p.retire(gone)
		p.restructured()
	}
	p.mu.Unlock()
	shut(gone)
}

// retire ends the checks of servers that are wanted no more; shut must follow. The caller holds p.mu.
func (p *Pool) retire(gone []*live) {
	for _, l := range gone {
		l.backend = nil
		if !l.retired.Swap(true) {
			close(l.gone)
		}
		l.stopCheck()
		l.endEjection()
	}
}

// shut closes the idle connections to servers that are wanted no more.
func shut(gone []*live) {
	for _, l := range gone {
		l.idle.shut()
	}
}

// restructured says that servers were added, taken away or configured otherwise. The caller holds p.mu.
func (p *Pool) restructured() {
	p.structure = p.next()
	p.save()
}

// next begins a new version. The caller holds p.mu.
func (p *Pool) next() uint64 {
	p.version++
	close(p.changed)
	p.changed = make(chan struct{})
	return p.version
}

// event is a change of a server's state that is still to be told, outside the lock.
type event struct {
	live            *live // nil: nothing has changed
	backend, server string
	old, now        string
	reason          string
	fell            bool
	cut             bool            // what is under way with it is to be cut
	end             func(id uint64) // cuts it
}

// update makes a change to what decides about a server, and publishes what follows from it. Who holds the event tells it
// when p.mu is free. The caller holds p.mu, and calls refresh of the server's backend when several are changed.
func (p *Pool) update(l *live, reason string, change func()) event {
	e := event{old: l.vitals.status(), reason: reason}
	served, admin := l.vitals.serves(), l.vitals.admin
	weight, balanced, named := l.weight.Load(), l.balanced.Load(), l.named.Load()
	change()
	if l.untried() {
		l.forgive() // nobody would ever bring it back; those whose cookies name it find out
	}
	l.balanced.Store(l.vitals.balanced())
	l.named.Store(l.vitals.named())
	l.maint.Store(l.vitals.admin == spec.AdminMaint)
	l.persist.Store(l.backend.Spec.Persist && l.vitals.admin != spec.AdminMaint)
	l.weight.Store(int64(l.override.weightOf(&l.server.Spec)))
	if l.fresh {
		l.fresh = false
		return event{}
	}
	e.now = l.vitals.status()
	if now := l.vitals.serves(); now != served {
		moment := time.Now()
		if served == Down {
			l.downtime += moment.Sub(l.lastChange)
		}
		if now == Down {
			l.timesDown++
			e.fell = true
		}
		l.lastChange = moment
		if served == Down {
			p.cameBack(l)
		}
	}
	turned := l.balanced.Load() != balanced || l.named.Load() != named || l.weight.Load() != weight || l.vitals.admin != admin
	if e.old == e.now && !turned {
		return event{}
	}
	l.changes++
	l.version = p.next()
	p.save()
	if turned {
		l.backend.refresh()
	}
	e.live, e.backend, e.server = l, l.backend.Spec.Name, l.server.Spec.Name
	e.cut, e.end = l.backend.Spec.CutWhenDown, p.end
	return e
}

// tell logs what has changed, once, and lets go of what is of no use any more. The caller does not hold p.mu.
func (p *Pool) tell(events []event) {
	for _, e := range events {
		if e.live == nil {
			continue
		}
		if e.fell {
			e.live.idle.clear()
			if e.cut {
				e.end(e.live.id)
			}
		}
		if e.old == e.now {
			continue // its weight
		}
		level := zap.InfoLevel
		if e.fell {
			level = zap.WarnLevel
		}
		p.log.Log(level, "server changed", logging.Backend(e.backend), logging.Server(e.server), logging.Address(e.live.Address()),
			logging.Old(e.old), logging.To(e.now), logging.Reason(e.reason))
	}
}

// Leave has the pool write nothing down any more: from now on that is for the process that takes the place of this one.
func (p *Pool) Leave() { p.left.Store(true) }

// Run closes connections that have been idle for too long, takes the rates and writes down what outlasts the process,
// until ctx ends; then it ends all checks and idle connections.
func (p *Pool) Run(ctx context.Context) error {
	p.checks.Go(func() { p.saving(ctx) })
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
			p.tellPanics()
			p.lookForKeys()
		case l := <-p.bad:
			p.judge(l)
		case l := <-p.good:
			p.comeBack(l, "a request succeeded")
		case <-ctx.Done():
			p.mu.Lock()
			p.stopped = true
			p.mu.Unlock()
			all := p.lives()
			p.mu.Lock()
			for _, l := range all {
				l.stopCheck()
				l.endEjection()
				if !l.retired.Swap(true) {
					close(l.gone)
				}
			}
			p.mu.Unlock()
			shut(all)
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

// ByCookie returns the first usable server with this cookie value, or nil. One that drains is usable for it.
func (b *Backend) ByCookie(value []byte) *Server {
	if len(value) == 0 {
		return nil
	}
	for _, s := range b.servers {
		if s.Spec.Cookie == string(value) && s.honoured() {
			return s
		}
	}
	return nil
}

// Server returns the i-th server.
func (b *Backend) Server(i int) *Server { return b.servers[i] }
