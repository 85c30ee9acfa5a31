package pool

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/balance"
	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// Limits of idle connections.
const (
	// MaxIdle is the most idle connections kept to one server.
	MaxIdle = 2048
	// IdleTimeout is how long an idle connection is kept: below the 5 s after which common servers close theirs.
	IdleTimeout = 4 * time.Second
)

// Conn is an idle connection to a server.
type Conn interface {
	// Alive reports whether the other side has neither closed it nor sent anything. It does not block.
	Alive() bool
	// Close closes it.
	Close() error
}

type idleConn struct {
	conn  Conn
	since time.Time
}

// idleConns is a stack: the connection used last is used next, so that the rest can expire.
type idleConns struct {
	mu     sync.Mutex
	conns  []idleConn
	closed bool
	shared Shared
}

// Address is where the server is.
func (l *live) Address() string { return l.text }

// ID tells servers apart, also those that have the same address in different backends; it stays as long as the health
// and the counters do.
func (l *live) ID() uint64 { return l.id }

// Keeps reports whether idle connections may be kept and used: the server is wanted and not down. It is for drivers that
// keep them themselves.
func (l *live) Keeps() bool { return !l.retired.Load() && l.named.Load() }

// Idle hands out an idle connection that is still alive, nil when there is none.
func (l *live) Idle() Conn {
	for {
		l.idle.mu.Lock()
		n := len(l.idle.conns)
		if n == 0 {
			l.idle.mu.Unlock()
			return nil
		}
		last := l.idle.conns[n-1]
		l.idle.conns[n-1] = idleConn{}
		l.idle.conns = l.idle.conns[:n-1]
		l.idle.mu.Unlock()
		if last.conn.Alive() {
			return last.conn
		}
		_ = last.conn.Close() // of no use to anyone
	}
}

// Keep takes a connection for the next request, or closes it when there are enough.
func (l *live) Keep(c Conn) {
	l.idle.mu.Lock()
	keep := !l.idle.closed && len(l.idle.conns) < MaxIdle && l.named.Load()
	if keep {
		l.idle.conns = append(l.idle.conns, idleConn{c, time.Now()})
	}
	l.idle.mu.Unlock()
	if !keep {
		_ = c.Close() // nothing is under way on it
	}
}

func (i *idleConns) take(keep func(idleConn) bool) {
	i.mu.Lock()
	var gone []idleConn
	kept := i.conns[:0]
	for _, c := range i.conns {
		if keep(c) {
			kept = append(kept, c)
		} else {
			gone = append(gone, c)
		}
	}
	clear(i.conns[len(kept):])
	i.conns = kept
	i.mu.Unlock()
	for _, c := range gone {
		_ = c.conn.Close() // nothing is under way on it
	}
}

func (i *idleConns) expire(now time.Time) {
	i.take(func(c idleConn) bool { return now.Sub(c.since) < IdleTimeout })
}

func (i *idleConns) clear() {
	i.take(func(idleConn) bool { return false })
	i.mu.Lock()
	shared := i.shared
	i.mu.Unlock()
	if shared != nil {
		shared.Clear()
	}
}

// shut closes all and takes none any more.
func (i *idleConns) shut() {
	i.mu.Lock()
	i.closed = true
	shared := i.shared
	i.mu.Unlock()
	i.clear()
	if shared != nil {
		shared.Retire()
	}
}

// State is one server, live.
type State struct {
	Backend string
	Server  spec.Server
	// Admin and Weight are those in force; Server has the desired ones.
	Admin  spec.Admin
	Weight int
	// Health is how it feels; Down also in maintenance.
	Health Health
	// Checked says whether it has a check, ChecksOn whether that is made; Down, that it takes no requests.
	Checked, ChecksOn, Down bool
	// Ejected: it is out because of its errors.
	Ejected bool
	// Status is HAProxy's word for all that. Examples: UP, UP 1/3, DOWN, DOWN 1/2, MAINT, DRAIN, NOLB, no check
	Status string
	// Check is how the last check ended, and LastCheck the same for a person.
	Check     check.Result
	LastCheck string
	// Rise and Fall are the counts of checks that decide; Points, of rise+fall-1, is where they stand.
	Rise, Fall, Points int
	// FailedChecks are those that failed while it was up. TimesDown is how often it went down or into maintenance,
	// LastChange when it last did or came back, or was added, and Downtime how long it was so, up to now.
	FailedChecks, TimesDown uint64
	LastChange              time.Time
	Downtime                time.Duration
	// Changes counts the changes of its state.
	Changes uint64
	Active  int64
	// Effective is the weight that counts while a slow start goes on, in the units of Weight, rounded up; Throttle how far
	// that has come, in percent: 100, it is over.
	Effective, Throttle int
	// Queued requests wait for this server; MostQueued is the most there have ever been.
	Queued, MostQueued int
	Total              uint64
	ConnectErrors      uint64
	// Seen is what is counted of it.
	Seen *stats.Set
}

// Servers returns every server in the order of backend and configuration.
func (p *Pool) Servers() []State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.states(0)
}

// states returns the servers that have changed after a version. The caller holds p.mu.
func (p *Pool) states(after uint64) []State {
	var states []State
	for _, name := range slices.Sorted(maps.Keys(p.backends)) {
		for _, s := range p.backends[name].servers {
			if after == 0 || s.version > after {
				states = append(states, s.state())
			}
		}
	}
	return states
}

// state is how a server stands. The caller holds Pool.mu.
func (l *live) state() State {
	v := &l.vitals
	s := State{
		Backend: l.backend.Spec.Name, Server: l.server.Spec,
		Admin: v.admin, Weight: int(l.weight.Load()), Health: v.serves(),
		Checked: v.checked, ChecksOn: v.checked && !v.checksOff, Down: v.serves() == Down, Ejected: v.ejected, Status: v.status(),
		Check: l.last, LastCheck: checkText(&l.check, l.last),
		Rise: v.rise, Fall: v.fall, Points: v.points,
		FailedChecks: l.failed, TimesDown: l.timesDown, LastChange: l.lastChange, Downtime: l.downtime, Changes: l.changes,
		Active: l.Active.Load(), Total: l.total.Load(), ConnectErrors: l.connectErrors.Load(), Seen: l.Seen,
	}
	at := now()
	weight, _ := l.server.ramp(at)
	s.Effective, s.Throttle = (weight+balance.Scale-1)/balance.Scale, l.server.throttle(at)
	l.group.mu.Lock()
	s.Queued, s.MostQueued = l.queue.length, l.queue.most
	l.group.mu.Unlock()
	if s.Down {
		s.Downtime += time.Since(l.lastChange)
	}
	return s
}

// Changes are the servers whose state has changed.
type Changes struct {
	Servers []State
	// Complete: these are all; others are gone.
	Complete bool
	// Version is to be handed back for the next changes.
	Version uint64
}

// Changes tells what has changed after a version, 0: everything, and gives a channel that is closed at the next change.
// Whoever asks late gets the newest state of each server, and not what it was in between: State.Changes tells.
func (p *Pool) Changes(after uint64) (Changes, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := Changes{Version: p.version, Complete: after == 0 || p.structure > after}
	if c.Complete {
		after = 0
	}
	c.Servers = p.states(after)
	return c, p.changed
}
