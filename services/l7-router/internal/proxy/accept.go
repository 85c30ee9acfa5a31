package proxy

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
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

// acceptor is one listening socket.
type acceptor struct {
	*net.TCPListener
	driver *Driver
	at     *front.Listener
	closed atomic.Bool
	more   chan struct{} // gets a value when there may be room again, or when it is over
}

func (a *acceptor) wake() {
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// run takes connections while there is room; those beyond it wait in the kernel's queue. Several sockets of one frontend
// may exceed its maxconn by one each.
func (a *acceptor) run() {
	pause := acceptPause
	for a.wait() {
		c, err := a.AcceptTCP()
		switch {
		case err == nil:
			pause = acceptPause
			a.driver.mu.Lock()
			a.driver.admit(a, c)
			a.driver.mu.Unlock()
		case a.closed.Load():
			return
		case scarce(err):
			a.driver.log.Warn("accept", logging.Address(spec.BindString(a.at.Address)), zap.Error(err))
			timer := time.NewTimer(pause) // nothing but time brings descriptors back
			for waiting := true; waiting && !a.closed.Load(); {
				select {
				case <-timer.C:
					waiting = false
				case <-a.more:
				}
			}
			timer.Stop()
			pause = min(2*pause, maxAcceptPause)
		case !errors.Is(err, syscall.ECONNABORTED):
			a.driver.lost(a.at, err)
			return
		}
	}
}

// scarce reports whether an accept has failed for want of something that may come back.
func scarce(err error) bool {
	for _, passing := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.EPROTO} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// wait returns when the frontend has room, false when the acceptor is closed.
func (a *acceptor) wait() bool {
	for !a.closed.Load() {
		if a.at.Frontend().HasRoom() {
			return true
		}
		<-a.more
	}
	return false
}

// shut ends run. Unless somebody else has the socket too it takes what waits in the kernel's queue before: closing would
// reset these connections, and their clients may have sent requests already. Here maxconn does not count, the queue is
// bounded. The caller holds Driver.mu.
func (a *acceptor) shut(elsewhere bool) {
	a.closed.Store(true)
	delete(a.driver.acceptors, a)
	if !elsewhere {
		for _, c := range queued(a.TCPListener) {
			a.driver.admit(a, c)
		}
	}
	_ = a.Close() // it takes no more either way
	a.wake()
}
