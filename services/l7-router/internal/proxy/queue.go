package proxy

import (
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// waiter wakes the goroutine of a request that waits for a server.
type waiter chan struct{}

// Wake tells it to look again.
func (w waiter) Wake() {
	select {
	case w <- struct{}{}:
	default: // it has been told
	}
}

// next chooses the server to try, and waits in the queue if it has to. nil: there is none. gone: the client has gone.
func (c *conn) next() (server *pool.Server, gone bool) {
	x := &c.request
	if server = x.Next(); server != nil || !x.Waits() {
		return server, false
	}
	defer x.Leave()
	c.at = 0
	timeout := time.NewTimer(x.Backend.Spec.TimeoutQueue)
	defer timeout.Stop()
	look := time.NewTicker(pulse)
	defer look.Stop()
	for {
		select {
		case <-c.turn:
			if server = x.Next(); server != nil || !x.Waits() {
				return server, false
			}
		case <-look.C:
			if c.ended() {
				return nil, true
			}
		case <-timeout.C:
			x.Late()
			return nil, false
		}
	}
}
