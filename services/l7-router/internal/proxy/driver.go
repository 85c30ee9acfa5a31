package proxy

import (
	"context"
	"net"
	"os"
	"sync"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/mux"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// Driver holds the acceptors and the connections.
type Driver struct {
	log *zap.Logger

	mu        sync.Mutex // guards what follows; never held across I/O that waits
	acceptors map[*acceptor]struct{}
	conns     map[*conn]struct{}
	groups    map[*streams]struct{}
	workers   mux.Workers // of all connections; it guards itself
	stopping  bool
	admitted  int            // connections so far
	wg        sync.WaitGroup // acceptors and connections
}

// New makes a driver that serves nothing.
func New(log *zap.Logger) *Driver {
	return &Driver{log: log.Named("proxy"), acceptors: map[*acceptor]struct{}{}, conns: map[*conn]struct{}{}, groups: map[*streams]struct{}{}}
}

// Sockets is one: what a connection costs here is not the accept.
func (d *Driver) Sockets() int { return 1 }

// Listen begins to accept on the sockets of an address, which the driver owns from here on.
func (d *Driver) Listen(at *front.Listener, fds []int) (err error) {
	var all []*acceptor
	for _, fd := range fds {
		if err != nil {
			tcp.Close(fd)
			continue
		}
		file := os.NewFile(uintptr(fd), "")
		var l net.Listener
		l, err = net.FileListener(file) // a duplicate
		_ = file.Close()                // nothing was written to it
		if err == nil {
			all = append(all, &acceptor{TCPListener: l.(*net.TCPListener), driver: d, at: at, more: make(chan struct{}, 1)})
		}
	}
	if err != nil {
		for _, a := range all {
			_ = a.Close() // it was never used
		}
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range all {
		d.acceptors[a] = struct{}{}
		d.wg.Go(a.run)
	}
	return nil
}

// Wake has the acceptors look whether there is room again.
func (d *Driver) Wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for a := range d.acceptors {
		a.wake()
	}
}

// Retire gives up the sockets of an address, nil: all, and lets their connections end with their requests. Unless somebody
// else has the sockets by now, what waits in their queues is taken before.
func (d *Driver) Retire(_ context.Context, at *front.Listener, how front.Giving) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = d.stopping || at == nil
	// Nobody who finds the address closed may get an answer that does not say Connection: close, and nobody who sees a
	// connection end may find the address open.
	for c := range d.conns {
		if at == nil || c.listener == at {
			c.lastOne.Store(how == front.Leaving)
			c.unfit.Store(how == front.Staying)
			c.retiring.Store(true)
		}
	}
	if how != front.Staying {
		d.abandon(at, how != front.Closing)
	}
	for c := range d.conns {
		if at == nil || c.listener == at {
			c.retire()
		}
	}
	return nil
}

// Cut ends what is under way with a server as a reset from it would.
func (d *Driver) Cut(server uint64) {
	d.mu.Lock()
	var cut []*sock
	for c := range d.conns {
		if s := c.serving.Load(); s != nil && s.server == server {
			cut = append(cut, s)
		}
		cut = c.carrying.serving(server, cut)
	}
	d.mu.Unlock()
	for _, s := range cut {
		s.disconnect()
	}
}

// abandon gives up the sockets of an address, nil: all. elsewhere: somebody else has them too. The caller holds d.mu.
func (d *Driver) abandon(at *front.Listener, elsewhere bool) {
	for a := range d.acceptors {
		if at == nil || a.at == at {
			a.shut(elsewhere)
		}
	}
}

// lost gives up a listener of which one socket has failed by itself.
func (d *Driver) lost(at *front.Listener, err error) {
	d.mu.Lock()
	d.abandon(at, false)
	d.mu.Unlock()
	at.Lost(err)
}

// admit starts the goroutine of a connection. The caller holds d.mu.
func (d *Driver) admit(a *acceptor, accepted *net.TCPConn) {
	s, err := newSock(accepted)
	if err != nil {
		_ = accepted.Close() // it is broken already
		return
	}
	_ = accepted.SetKeepAlivePeriod(tcp.KeepAlive) // the kernel's own would do
	remote, _ := accepted.RemoteAddr().(*net.TCPAddr)
	f := a.at.Frontend()
	if p := &f.Current().Spec.AcceptProxy; p.Wanted() && !p.Trusts(remote.AddrPort().Addr()) {
		_ = accepted.Close() // it may not come from where it does
		d.log.Debug("who has connected may not send PROXY headers", logging.Address(remote.String()))
		return
	}
	c := newConn(s, a.at, exchange.Client{
		Address: remote.AddrPort().Addr().Unmap().WithZone("").String(),
		Local:   accepted.LocalAddr().String(),
		Port:    a.at.Bound.Port(),
	}, d.log)
	c.driver = d
	d.admitted++
	c.who = exchange.Who{Address: c.client.Address, Port: remote.AddrPort().Port(), Accepted: now(), Shard: d.admitted}
	seen := f.Current().Seen
	seen.Enter()
	seen.Add(c.who.Shard, stats.Sessions, 1)
	f.Force()
	d.conns[c] = struct{}{}
	if d.stopping || a.closed.Load() {
		c.retire()
	}
	d.wg.Go(func() {
		defer d.forget(c, f)
		c.serve()
	})
}

func (d *Driver) forget(c *conn, f *front.Frontend) {
	if cause := recover(); cause != nil {
		// One faulty exchange must not take the others down with it.
		d.log.Error("connection panicked", zap.Any("panic", cause), zap.StackSkip("stack", 1))
		_ = c.Close() // it may be open still
	}
	d.mu.Lock()
	delete(d.conns, c)
	d.mu.Unlock()
	f.Leave()
	f.Current().Seen.Leave()
}

// Drain waits until the last connection has ended, or ctx has, and returns how many are left. All sockets have been given
// up before.
func (d *Driver) Drain(ctx context.Context) int {
	done := make(chan struct{})
	go func() { // ends with Run at the latest
		d.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return 0
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Run waits until ctx ends, then cuts off what is left.
func (d *Driver) Run(ctx context.Context) error {
	<-ctx.Done()
	d.mu.Lock()
	d.stopping = true
	d.abandon(nil, true)
	if len(d.conns) > 0 {
		d.log.Debug("connections are cut off", logging.Count(len(d.conns)))
	}
	for c := range d.conns {
		c.abort()
	}
	d.mu.Unlock()
	d.wg.Wait()
	d.mu.Lock()
	groups := d.groups
	d.groups = map[*streams]struct{}{}
	d.mu.Unlock()
	for g := range groups {
		g.Close()
	}
	d.workers.Close()
	return nil
}

// newStreams makes the shared connections to a server that has none.
func (d *Driver) newStreams() pool.Shared {
	s := &streams{driver: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.groups[s] = struct{}{}
	return s
}
