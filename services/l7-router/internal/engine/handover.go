package engine

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// Sockets returns descriptors of the listening sockets by the address as it is wanted, for a process that takes the place of
// this one. The caller closes them. Any goroutine may call it.
func (e *Engine) Sockets() (map[string][]int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopping {
		return nil, errors.New("the router is stopping")
	}
	all := map[string][]int{}
	for address, l := range e.listeners {
		copies, err := tcp.Duplicate(l.fds)
		if err != nil {
			for _, fds := range all {
				tcp.Close(fds...)
			}
			return nil, err
		}
		all[spec.BindString(address)] = copies
	}
	return all, nil
}

// Kept returns the addresses that are listened on, as they are wanted.
func (e *Engine) Kept() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for address := range e.listeners {
		all = append(all, spec.BindString(address))
	}
	return all
}

// HandOver gives up everything that is listened on, because another process accepts on these sockets by now. Addresses that
// it has not kept are closed as if they were not wanted any more. Connections may go on until they have ended, for drain at
// most; their next answers say Connection: close. Then Run ends. When HandOver returns nothing is accepted here any more.
func (e *Engine) HandOver(ctx context.Context, kept func(address string) bool, drain time.Duration) error {
	e.mu.Lock()
	e.stopping = true
	var left []*listener
	for _, l := range e.listeners {
		left = append(left, l)
	}
	clear(e.listeners)
	e.mu.Unlock()
	var err error
	for _, l := range left {
		how := front.Closing
		if kept(spec.BindString(l.Address)) {
			how = front.Leaving
		}
		tcp.Close(l.fds...)
		err = errors.Join(err, l.driver.Retire(ctx, l.Listener, how))
	}
	e.handed <- drain
	return err
}

// outlast waits until the connections have ended after a hand-over, for drain at most. It reports false when ctx has ended
// before.
func (e *Engine) outlast(ctx context.Context, drain time.Duration) bool {
	began := time.Now()
	waiting, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	left := 0
	for _, d := range e.drivers() {
		left += d.Drain(waiting)
	}
	if ctx.Err() != nil {
		return false
	}
	if left > 0 {
		e.log.Warn("connections have outlasted the hand-over and are cut off", logging.Count(left), logging.Duration(drain))
	} else {
		e.log.Info("every connection has ended after the hand-over", logging.Duration(time.Since(began)))
	}
	return true
}

// inherited takes the sockets of an address that another process has given; nil: it has given none. The caller holds e.mu.
func (e *Engine) inherited(at netip.AddrPort, n int) []int {
	address := spec.BindString(at)
	fds := e.config.Sockets[address]
	if len(fds) == 0 {
		return nil
	}
	delete(e.config.Sockets, address)
	all, err := tcp.Join(at, fds, n)
	if err != nil { // those that are there do
		e.log.Warn("an address has fewer sockets than loops", logging.Address(address), zap.Error(err))
	}
	return all
}

// CloseInherited closes the sockets that another process has given and nobody wants.
func (e *Engine) CloseInherited() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for address, fds := range e.config.Sockets {
		tcp.Close(fds...)
		delete(e.config.Sockets, address)
	}
}
