package epoll

import (
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// upstream is one connection to a server.
type upstream struct {
	sock
	loop       *loop
	conn       *conn // whose request is under way; nil: idle
	connecting bool

	// While it is idle:
	shelf *shelf
	index int // its place there
	timer timer
}

// shelf holds the idle connections of a loop to one server. The last is taken first, so that the rest can expire.
type shelf struct{ idle []*upstream }

// dial begins a connection to a server.
func (l *loop) dial(s *pool.Server, caller pool.Caller) (*upstream, error) {
	var fd int
	var err error
	if s.Inside != nil {
		fd, err = s.Inside(caller)
	} else {
		fd, err = tcp.Connect(s.Spec.Address)
	}
	if err != nil {
		return nil, err
	}
	u := &upstream{loop: l, connecting: true}
	u.timer.owner = u
	if err := l.watch(&u.sock, fd, u); err != nil {
		tcp.Close(fd)
		return nil, err
	}
	return u, nil
}

// take returns an idle connection to s, nil when there is none.
func (l *loop) take(s *pool.Server) *upstream {
	shelf := l.idle[s.ID()]
	if shelf == nil || s.Spec.SendProxy != spec.SendProxyNone {
		return nil
	}
	if !s.Keeps() {
		// It was down or is not wanted any more: who knows what has become of them.
		for len(shelf.idle) > 0 {
			shelf.idle[len(shelf.idle)-1].close()
		}
	}
	n := len(shelf.idle)
	if n == 0 {
		return nil
	}
	u := shelf.idle[n-1]
	u.leaveShelf()
	l.wheel.set(&u.timer, 0)
	return u
}

// keep puts a connection away for the next request, or closes it when there are enough, or when it is one client's.
func (l *loop) keep(u *upstream, s *pool.Server) {
	id := s.ID()
	sh := l.idle[id]
	if sh == nil {
		sh = &shelf{}
		l.idle[id] = sh
	}
	u.conn = nil
	// What can be read now is the end, or something that nobody has asked for.
	if u.readable {
		_, err := u.peek()
		u.readable = err != unix.EAGAIN
	}
	if u.readable || len(sh.idle) >= l.maxIdle || !s.Keeps() || s.Spec.SendProxy != spec.SendProxyNone {
		u.close()
		return
	}
	u.shelf, u.index = sh, len(sh.idle)
	sh.idle = append(sh.idle, u)
	l.wheel.set(&u.timer, l.now+int64(pool.IdleTimeout))
}

func (u *upstream) leaveShelf() {
	if u.shelf == nil {
		return
	}
	last := len(u.shelf.idle) - 1
	moved := u.shelf.idle[last]
	u.shelf.idle[u.index] = moved
	moved.index = u.index
	u.shelf.idle[last] = nil
	u.shelf.idle = u.shelf.idle[:last]
	u.shelf = nil
}

// ready passes what has happened on to the request; on an idle connection it can only be the end.
func (u *upstream) ready() {
	switch {
	case u.conn != nil:
		u.conn.ready()
	case u.readable:
		u.close()
	}
}

// expired ends a connection that has been idle for too long.
func (u *upstream) expired() {
	if u.conn == nil {
		u.close()
	}
}

func (u *upstream) close() {
	u.leaveShelf()
	u.loop.wheel.remove(&u.timer)
	u.loop.shut(&u.sock)
	u.conn = nil
}

// cut ends what is under way with a server as a reset from it would.
func (l *loop) cut(server uint64) {
	for _, s := range l.socks {
		if s == nil {
			continue
		}
		if u, ok := s.handler.(*upstream); ok && u.conn != nil && u.conn.flight != nil && u.conn.flight.server != nil && u.conn.flight.server.ID() == server {
			u.disconnect() // the kernel tells of the end, and that is handled like any other
		}
	}
}

// tidy forgets the shelves that have been empty for a while, and the buffers that have not been needed.
func (l *loop) tidy() {
	l.buffers.trim()
	l.flights.trim()
	for id, shelf := range l.idle {
		if len(shelf.idle) == 0 {
			delete(l.idle, id)
		}
	}
}
