package epoll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// DrainTimeout is how long requests under way may take to end when the router stops. Then they are cut off, a second
// before the process stops waiting for its parts (daemon.GroupTimeout).
const DrainTimeout = 9 * time.Second

// Engine holds the loops and what they share: which addresses are listened on, and where requests go. Do is for one
// goroutine, the loop's of the service; it waits for Run.
type Engine struct {
	log     *zap.Logger
	pool    *pool.Pool
	changed chan struct{}
	loops   []*loop
	ended   chan struct{} // the loops have ended
	conns   atomic.Int64
	empty   chan struct{} // gets a value when the last connection ends

	mu        sync.Mutex // guards what follows
	backends  map[string]*pool.Backend
	frontends map[string]*frontend
	listeners map[netip.AddrPort]*listener
	stopping  bool
}

// frontend is one frontend with what changes under it.
type frontend struct {
	engine  *Engine
	current atomic.Pointer[exchange.Frontend]
	conns   atomic.Int64
	crowded atomic.Bool // somebody was turned away at maxconn
}

// enter counts a connection, if there is room for it.
func (f *frontend) enter() bool {
	if f.conns.Add(1) <= int64(f.current.Load().Spec.MaxConn) {
		return true
	}
	f.crowded.Store(true)
	f.leave() // whoever left in between did not see that it was crowded; this does
	return false
}

// leave counts a connection as gone.
func (f *frontend) leave() {
	n := f.conns.Add(-1)
	if f.crowded.Load() && n < int64(f.current.Load().Spec.MaxConn) && f.crowded.CompareAndSwap(true, false) {
		f.engine.all((*loop).acceptMore)
	}
}

// listener is one address. It outlasts the frontend that it belongs to when another takes it over.
type listener struct {
	address netip.AddrPort // as it is wanted
	bound   netip.AddrPort // with the port that the kernel has chosen where any would do
	front   atomic.Pointer[frontend]
	name    string // of the frontend; guarded by Engine.mu
}

// Open makes an engine of n loops that listens nowhere. Run closes it. runtime.GOMAXPROCS should be larger than n: a busy
// loop leaves its processor to nobody else before the Go scheduler takes it away, which is after 10 ms.
func Open(p *pool.Pool, n int, log *zap.Logger) (*Engine, error) {
	e := &Engine{
		log: log.Named("epoll"), pool: p, changed: make(chan struct{}, 1),
		ended: make(chan struct{}), empty: make(chan struct{}, 1),
		backends: map[string]*pool.Backend{}, frontends: map[string]*frontend{}, listeners: map[netip.AddrPort]*listener{},
	}
	for range n {
		l, err := openLoop(e)
		if err != nil {
			for _, l := range e.loops {
				l.close()
			}
			return nil, err
		}
		l.maxIdle = max(1, pool.MaxIdle/n)
		e.loops = append(e.loops, l)
	}
	return e, nil
}

// all has every loop call do, and does not wait for it.
func (e *Engine) all(do func(*loop)) {
	for _, l := range e.loops {
		l.post(func() { do(l) })
	}
}

// finish has every loop call do, and waits until all have.
func (e *Engine) finish(ctx context.Context, do func(*loop)) error {
	var group sync.WaitGroup
	group.Add(len(e.loops))
	e.all(func(l *loop) {
		defer group.Done()
		do(l)
	})
	through := make(chan struct{})
	go func() { // ends with the loops at the latest, if Run is called
		group.Wait()
		close(through)
	}()
	select {
	case <-through:
		return nil
	case <-e.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Changed gets a value when a listener was lost, so that the loop looks again.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Observe tells what is in force. Any goroutine may call it.
func (e *Engine) Observe() plan.Have {
	e.mu.Lock()
	defer e.mu.Unlock()
	have := plan.Have{Backends: e.pool.Specs()}
	for _, f := range e.frontends {
		have.Frontends = append(have.Frontends, f.current.Load().Spec)
	}
	for address, l := range e.listeners {
		have.Listeners = append(have.Listeners, plan.Listener{Address: address, Frontend: l.name})
	}
	return have
}

// Do makes one change. Connections and requests under way are not disturbed by any: they end as they began.
func (e *Engine) Do(ctx context.Context, c plan.Change) error {
	switch c.Action {
	case plan.SetBackend:
		e.setBackend(c.Name, e.pool.Set(c.Backend))
	case plan.RemoveBackend:
		e.pool.Remove(c.Name)
		e.setBackend(c.Name, nil)
	case plan.SetFrontend:
		e.setFrontend(c.Frontend)
	case plan.RemoveFrontend:
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.frontends, c.Name) // its listeners are closed already; its connections end with their requests
	case plan.Listen:
		return e.listen(c.Address, c.Name)
	case plan.Close:
		return e.closeListener(ctx, c.Address)
	}
	return nil
}

// setBackend gives every frontend the backends that there are now; nil: the backend is gone.
func (e *Engine) setBackend(name string, b *pool.Backend) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b == nil {
		delete(e.backends, name)
	} else {
		e.backends[name] = b
	}
	for _, f := range e.frontends {
		f.current.Store(exchange.NewFrontend(f.current.Load().Spec, e.backends))
	}
}

func (e *Engine) setFrontend(s spec.Frontend) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.frontends[s.Name]
	if f == nil {
		f = &frontend{engine: e}
		e.frontends[s.Name] = f
	}
	f.current.Store(exchange.NewFrontend(s, e.backends))
	e.all((*loop).acceptMore) // maxconn may have grown
}

// listen binds an address, or moves one that is bound to another frontend together with its connections.
func (e *Engine) listen(address netip.AddrPort, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.frontends[name]
	switch {
	case e.stopping:
		return errors.New("the router is stopping")
	case f == nil:
		return fmt.Errorf("listen on %s: there is no frontend %s", spec.BindString(address), name)
	}
	if l := e.listeners[address]; l != nil {
		l.name = name
		l.front.Store(f)
		e.all((*loop).acceptMore) // there may be room under the new limit
		return nil
	}
	fds, err := listenOn(address, len(e.loops))
	if err != nil {
		return fmt.Errorf("listen on %s for %s: %w", spec.BindString(address), name, err)
	}
	l := &listener{address: address, bound: localAddress(fds[0]), name: name}
	l.front.Store(f)
	e.listeners[address] = l
	for i, loop := range e.loops {
		loop.post(func() { loop.adopt(fds[i], l) })
	}
	return nil
}

// closeListener gives an address up and lets its connections end with their requests.
func (e *Engine) closeListener(ctx context.Context, address netip.AddrPort) error {
	e.mu.Lock()
	l := e.listeners[address]
	delete(e.listeners, address)
	e.mu.Unlock()
	if l == nil {
		return nil
	}
	return e.retire(ctx, l)
}

// retire closes the listening sockets of one address, nil: of all, and lets their connections end with their requests.
// Nobody who sees a connection end may find a loop that still accepts, or that does not say Connection: close; so these
// are steps that all loops take together.
func (e *Engine) retire(ctx context.Context, at *listener) error {
	err := e.finish(ctx, func(l *loop) {
		l.abandon(at)
		l.each(func(c *conn) { c.retiring = c.retiring || at == nil || c.listener == at })
	})
	if err != nil {
		return err
	}
	return e.finish(ctx, func(l *loop) { l.each((*conn).leave) })
}

// lost forgets a listener that has failed by itself, and has the service's loop bind it again.
func (e *Engine) lost(l *listener, err error) {
	e.log.Error("listener lost", logging.Address(spec.BindString(l.address)), zap.Error(err))
	e.mu.Lock()
	if e.listeners[l.address] == l {
		delete(e.listeners, l.address)
	}
	e.mu.Unlock()
	e.all(func(loop *loop) { loop.abandon(l) })
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// forget counts a connection as gone.
func (e *Engine) forget(c *conn) {
	if e.conns.Add(-1) == 0 {
		select {
		case e.empty <- struct{}{}:
		default:
		}
	}
	c.counted.leave()
}

// Run serves until ctx ends. Then nothing is accepted any more, requests under way have DrainTimeout to end, and what is
// left is cut off.
func (e *Engine) Run(ctx context.Context) error {
	errs := make([]error, len(e.loops))
	failed := make(chan struct{}, len(e.loops))
	var group sync.WaitGroup
	for i, l := range e.loops {
		group.Go(func() {
			if errs[i] = l.run(); errs[i] != nil {
				failed <- struct{}{}
			}
		})
	}
	select {
	case <-ctx.Done():
		e.drain()
	case <-failed:
	}
	e.mu.Lock()
	e.stopping = true
	e.mu.Unlock()
	e.all((*loop).end)
	group.Wait()
	close(e.ended)
	for _, l := range e.loops {
		l.close()
	}
	return errors.Join(errs...)
}

// drain waits until the last connection has ended, or for DrainTimeout.
func (e *Engine) drain() {
	e.mu.Lock()
	e.stopping = true
	clear(e.listeners)
	e.mu.Unlock()
	_ = e.retire(context.Background(), nil) // it ends with the loops
	timer := time.NewTimer(DrainTimeout)
	defer timer.Stop()
	for e.conns.Load() > 0 {
		select {
		case <-e.empty:
		case <-timer.C:
			e.log.Warn("requests did not end in time and are cut off", logging.Count(int(e.conns.Load())), logging.Duration(DrainTimeout))
			return
		}
	}
}
