package epoll

import (
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

const (
	// acceptPause is the first pause after a failed accept, for instance without free file descriptors; it doubles.
	acceptPause = 5 * time.Millisecond
	// maxAcceptPause is the longest.
	maxAcceptPause = time.Second
	// lastChance is how long a connection that waited in the queue of a listener which is given up may take to begin its
	// request.
	lastChance = time.Second
)

// acceptor is a loop's own listening socket at one address.
type acceptor struct {
	sock
	loop     *loop
	listener *front.Listener
	pause    time.Duration
	paused   bool // an accept has failed: whoever comes meanwhile does not make it better
	timer    timer
}

// adopt begins to accept on a socket; the loop owns it from here on.
func (l *loop) adopt(fd int, at *front.Listener) {
	a := &acceptor{loop: l, listener: at, pause: acceptPause}
	a.timer.owner = a
	if err := l.watch(&a.sock, fd, a); err != nil {
		tcp.Close(fd)
		l.driver.lost(at, err)
		return
	}
	l.acceptors = append(l.acceptors, a)
}

// abandon stops accepting at an address, nil: at all. elsewhere: somebody else has the sockets too.
func (l *loop) abandon(at *front.Listener, elsewhere bool) {
	for _, a := range slices.Clone(l.acceptors) {
		if at == nil || a.listener == at {
			if !elsewhere {
				a.empty()
			}
			a.close()
		}
	}
}

// acceptMore looks whether there is room again for the connections that wait in the kernel's queues.
func (l *loop) acceptMore() {
	for _, a := range slices.Clone(l.acceptors) {
		l.guarded(a)
	}
}

// empty takes what waits in the kernel's queue of an address that is given up: closing would reset these connections, and
// their clients may have sent requests already. Here maxconn does not count, the queue is bounded.
func (a *acceptor) empty() {
	for {
		fd, remote, err := accept(int(a.fd))
		if err == unix.ECONNABORTED {
			continue
		}
		if err != 0 {
			break
		}
		f := a.listener.Frontend()
		f.Force()
		if c := a.loop.admit(fd, remote, a.listener, f); c != nil {
			c.retiring, c.queuedUp = true, true
			timeout := min(f.Current().Spec.TimeoutRequest, lastChance)
			a.loop.wheel.set(&c.timer, a.loop.now+int64(timeout))
		}
	}
}

// close gives the socket up.
func (a *acceptor) close() {
	a.loop.acceptors = slices.DeleteFunc(a.loop.acceptors, func(b *acceptor) bool { return a == b })
	a.loop.wheel.remove(&a.timer)
	// The close alone would not do it: the engine holds the socket too.
	_ = unix.EpollCtl(a.loop.epoll, unix.EPOLL_CTL_DEL, int(a.fd), nil) // it fails when nothing is watched any more
	a.loop.shut(&a.sock)
}

// ready takes connections while there is room in the frontend; those beyond it wait in the kernel's queue.
func (a *acceptor) ready() {
	for a.readable && !a.paused && a.handler != nil {
		f := a.listener.Frontend()
		if !f.Enter() {
			return // acceptMore comes when there is
		}
		fd, remote, err := accept(int(a.fd))
		switch err {
		case 0:
			a.pause = acceptPause
			a.loop.admit(fd, remote, a.listener, f)
			continue
		case unix.EAGAIN:
			a.readable = false
			f.Leave()
			return
		case unix.ECONNABORTED:
			f.Leave()
			continue
		}
		f.Leave()
		switch err {
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EPERM, unix.EPROTO:
			a.loop.log.Warn("accept", logging.Address(spec.BindString(a.listener.Address)), zap.Error(err))
			a.paused = true
			a.loop.wheel.set(&a.timer, a.loop.now+int64(a.pause))
			a.pause = min(2*a.pause, maxAcceptPause)
		default:
			a.close()
			a.loop.driver.lost(a.listener, err)
		}
	}
}

// expired ends the pause after a failed accept: nothing but time brings descriptors back.
func (a *acceptor) expired() {
	a.paused = false
	a.ready()
}

// admit takes a connection that f has counted; nil when it cannot be, or when it may not come from where it does.
func (l *loop) admit(fd int, remote netip.AddrPort, at *front.Listener, f *front.Frontend) *conn {
	proxies := &f.Current().Spec.AcceptProxy
	if proxies.Wanted() && !proxies.Trusts(remote.Addr()) {
		tcp.Close(fd)
		f.Leave()
		l.log.Debug("who has connected may not send PROXY headers", logging.Address(remote.Addr().String()))
		return nil
	}
	c := &conn{loop: l, listener: at, counted: f, address: remote.Addr().String(), source: remote.Port(), accepted: l.now}
	c.timer.owner = c
	if err := l.watch(&c.sock, fd, c); err != nil {
		tcp.Close(fd)
		f.Leave()
		return nil
	}
	c.writable = true
	l.conns++
	if l.driver.conns.Add(1) == 1 {
		l.driver.lookCarrying()
	}
	seen := f.Current().Seen
	seen.Enter()
	seen.Add(l.index, stats.Sessions, 1)
	if proxies.Wanted() {
		c.phase = announcing
		l.wheel.set(&c.timer, l.now+int64(proxies.Timeout))
		return c
	}
	c.await(true)
	return c
}
