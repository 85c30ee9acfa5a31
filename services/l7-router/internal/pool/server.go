package pool

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Limits of idle connections.
const (
	// MaxIdle is the most idle connections kept to one server.
	MaxIdle = 256
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
}

// Address is where the server is.
func (l *live) Address() string { return l.address }

// ID tells servers apart, also those that have the same address in different backends; it stays as long as the health
// and the counters do.
func (l *live) ID() uint64 { return l.id }

// Keeps reports whether idle connections may be kept and used: the server is wanted and not down. It is for drivers that
// keep them themselves.
func (l *live) Keeps() bool { return !l.retired.Load() && !l.down.Load() }

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
	keep := !l.idle.closed && len(l.idle.conns) < MaxIdle && !l.down.Load()
	if keep {
		l.idle.conns = append(l.idle.conns, idleConn{c, time.Now()})
	}
	l.idle.mu.Unlock()
	if !keep {
		_ = c.Close() // nothing is under way on it
	}
}

// Begin counts a request that is sent to the server; End must follow.
func (l *live) Begin() {
	l.Seen.Peak(l.active.Add(1))
	l.total.Add(1)
}

// End counts a request as over.
func (l *live) End() { l.active.Add(-1) }

// ConnectFailed counts a connection that could not be made.
func (l *live) ConnectFailed() { l.connectErrors.Add(1) }

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

func (i *idleConns) clear() { i.take(func(idleConn) bool { return false }) }

// shut closes all and takes none any more.
func (i *idleConns) shut() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.clear()
}

// State is one server, live.
type State struct {
	Backend string
	Server  spec.Server
	// Checked says whether it is checked at all; Down, that its checks fail.
	Checked, Down bool
	// LastCheck is the result of the last check, for a person.
	LastCheck     string
	Active        int64
	Total         uint64
	ConnectErrors uint64
}

// Servers returns every server in the order of backend and configuration.
func (p *Pool) Servers() []State {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.backends {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	var states []State
	for _, name := range names {
		for _, s := range p.backends[name].servers {
			state := State{
				Backend: name, Server: s.Spec,
				Checked: s.check.Kind != spec.CheckNone, Down: s.down.Load(),
				Active: s.active.Load(), Total: s.total.Load(), ConnectErrors: s.connectErrors.Load(),
			}
			if last := s.last.Load(); last != nil {
				state.LastCheck = *last
			}
			states = append(states, state)
		}
	}
	return states
}
