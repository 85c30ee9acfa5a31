package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"go.uber.org/zap"
)

const (
	// DrainTimeout is how long requests under way may take to end when the router stops. Then they are cut off, a second
	// before the process stops waiting for its parts (daemon.GroupTimeout).
	DrainTimeout = 9 * time.Second
	// acceptPause is the first pause after a failed accept, for instance without free file descriptors; it doubles.
	acceptPause = 5 * time.Millisecond
	// maxAcceptPause is the longest.
	maxAcceptPause = time.Second
	// lastChance is how long a connection that waited in the queue of a listener which is given up may take to begin its
	// request.
	lastChance = time.Second
)

// Engine holds the listeners, the frontends and their connections. Do and Observe are for one goroutine, the loop's.
type Engine struct {
	log     *zap.Logger
	pool    *pool.Pool
	changed chan struct{}

	mu        sync.Mutex // guards what follows; never held across I/O that waits
	backends  map[string]*pool.Backend
	frontends map[string]*frontend
	listeners map[netip.AddrPort]*listener
	conns     map[*conn]struct{}
	stopping  bool
	wg        sync.WaitGroup // accept loops and connections
}

// frontend is one frontend with what changes under it.
type frontend struct {
	current atomic.Pointer[exchange.Frontend]

	mu    sync.Mutex // guards what follows
	room  *sync.Cond
	conns int
	gone  bool
}

// listener is one address. It outlasts the frontend that it belongs to when another takes it over.
type listener struct {
	*net.TCPListener
	address netip.AddrPort
	front   atomic.Pointer[frontend]
	name    string // of the frontend; guarded by Engine.mu
	closed  atomic.Bool
}

// New makes an engine that listens nowhere.
func New(p *pool.Pool, log *zap.Logger) *Engine {
	return &Engine{
		log: log.Named("proxy"), pool: p, changed: make(chan struct{}, 1),
		backends: map[string]*pool.Backend{}, frontends: map[string]*frontend{},
		listeners: map[netip.AddrPort]*listener{}, conns: map[*conn]struct{}{},
	}
}

// Changed gets a value when a listener was lost, so that the loop looks again.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Observe tells what is in force.
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
		e.mu.Lock()
		defer e.mu.Unlock()
		e.backends[c.Name] = e.pool.Set(c.Backend)
		e.publish()
	case plan.RemoveBackend:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.pool.Remove(c.Name)
		delete(e.backends, c.Name)
		e.publish()
	case plan.SetFrontend:
		e.setFrontend(c.Frontend)
	case plan.RemoveFrontend:
		e.removeFrontend(c.Name)
	case plan.Listen:
		return e.listen(ctx, c.Address, c.Name)
	case plan.Close:
		e.closeListener(c.Address)
	}
	return nil
}

// publish gives every frontend the backends that there are now. The caller holds e.mu.
func (e *Engine) publish() {
	for _, f := range e.frontends {
		f.current.Store(exchange.NewFrontend(f.current.Load().Spec, e.backends))
	}
}

func (e *Engine) setFrontend(s spec.Frontend) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.frontends[s.Name]
	if f == nil {
		f = &frontend{}
		f.room = sync.NewCond(&f.mu)
		e.frontends[s.Name] = f
	}
	f.current.Store(exchange.NewFrontend(s, e.backends))
	f.mu.Lock()
	f.room.Broadcast() // maxconn may have grown
	f.mu.Unlock()
}

// removeFrontend forgets a frontend whose listeners are closed already; its connections end with their requests.
func (e *Engine) removeFrontend(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.frontends[name]
	if f == nil {
		return
	}
	delete(e.frontends, name)
	f.leave()
}

// leave ends the waiting of accept loops.
func (f *frontend) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = true
	f.room.Broadcast()
}

// listen binds an address, or moves one that is bound to another frontend together with its connections.
func (e *Engine) listen(ctx context.Context, address netip.AddrPort, name string) error {
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
		old := l.front.Swap(f)
		old.mu.Lock()
		old.room.Broadcast() // its accept loop has a new limit to wait for
		old.mu.Unlock()
		return nil
	}
	network, host := "tcp", ""
	if addr := address.Addr(); addr.IsValid() {
		host = addr.String()
		network = "tcp6" // an IPv6 address, [::] too, means IPv6 only
		if addr.Is4() {
			network = "tcp4"
		}
	}
	config := net.ListenConfig{KeepAlive: keepAlivePeriod}
	bound, err := config.Listen(ctx, network, net.JoinHostPort(host, fmt.Sprint(address.Port())))
	if err != nil {
		return fmt.Errorf("listen on %s for %s: %w", spec.BindString(address), name, err)
	}
	l := &listener{TCPListener: bound.(*net.TCPListener), address: address, name: name}
	l.front.Store(f)
	e.listeners[address] = l
	e.wg.Go(func() { e.accept(l) })
	return nil
}

// closeListener gives an address up and lets its connections end with their requests.
func (e *Engine) closeListener(address netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.listeners[address]
	if l == nil {
		return
	}
	delete(e.listeners, address)
	e.shut(l)
	for c := range e.conns {
		if c.listener == l {
			c.retire()
		}
	}
}

// shut ends the accept loop of a listener, after taking what waits in the kernel's queue: closing would reset these
// connections, and their clients may have sent requests already. Here maxconn does not count, the queue is bounded. The
// caller holds e.mu.
func (e *Engine) shut(l *listener) {
	l.closed.Store(true)
	for _, c := range queued(l.TCPListener) {
		e.admit(l, c)
	}
	_ = l.Close() // it takes no more either way
	f := l.front.Load()
	f.mu.Lock()
	f.room.Broadcast()
	f.mu.Unlock()
}

// accept takes connections while there is room; those beyond it wait in the kernel's queue. Several listeners of one
// frontend may exceed its maxconn by one each.
func (e *Engine) accept(l *listener) {
	pause := acceptPause
	for l.wait() {
		c, err := l.AcceptTCP()
		if err == nil {
			pause = acceptPause
			e.mu.Lock()
			e.admit(l, c)
			e.mu.Unlock()
			continue
		}
		if l.closed.Load() {
			return
		}
		if errors.Is(err, net.ErrClosed) {
			e.lost(l, err)
			return
		}
		e.log.Warn("accept", logging.Address(spec.BindString(l.address)), zap.Error(err))
		// Sleeping is right here: nothing but time brings descriptors back, and closing the listener ends it soon.
		time.Sleep(pause)
		pause = min(2*pause, maxAcceptPause)
	}
}

// wait returns when the frontend has room, false when the listener is closed.
func (l *listener) wait() bool {
	for {
		f := l.front.Load()
		f.mu.Lock()
		for !f.gone && !l.closed.Load() && l.front.Load() == f && f.conns >= f.current.Load().Spec.MaxConn {
			f.room.Wait()
		}
		f.mu.Unlock()
		switch {
		case l.closed.Load():
			return false
		case l.front.Load() == f:
			return true
		}
	}
}

// lost forgets a listener that has failed by itself, and has the loop bind it again.
func (e *Engine) lost(l *listener, err error) {
	e.log.Error("listener lost", logging.Address(spec.BindString(l.address)), zap.Error(err))
	e.mu.Lock()
	if e.listeners[l.address] == l {
		delete(e.listeners, l.address)
	}
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// admit starts the goroutine of a connection. The caller holds e.mu.
func (e *Engine) admit(l *listener, tcp *net.TCPConn) {
	s, err := newSock(tcp)
	if err != nil {
		_ = tcp.Close() // it is broken already
		return
	}
	remote, _ := tcp.RemoteAddr().(*net.TCPAddr)
	f := l.front.Load()
	c := newConn(s, l, exchange.Client{
		Address: remote.AddrPort().Addr().Unmap().WithZone("").String(),
		Local:   tcp.LocalAddr().String(),
	}, e.log)
	f.add(1)
	e.conns[c] = struct{}{}
	if e.stopping || l.closed.Load() {
		c.retire()
	}
	e.wg.Go(func() {
		defer e.forget(c, f)
		c.serve()
	})
}

func (e *Engine) forget(c *conn, f *frontend) {
	if cause := recover(); cause != nil {
		// One faulty exchange must not take the others down with it.
		e.log.Error("connection panicked", zap.Any("panic", cause), zap.StackSkip("stack", 1))
		_ = c.Close() // it may be open still
	}
	e.mu.Lock()
	delete(e.conns, c)
	e.mu.Unlock()
	f.add(-1)
}

func (f *frontend) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns += n
	if n < 0 {
		f.room.Broadcast()
	}
}

// Run waits until ctx ends. Then nothing is accepted any more, requests under way have DrainTimeout to end, and what is
// left is cut off.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	e.mu.Lock()
	e.stopping = true
	for address, l := range e.listeners {
		delete(e.listeners, address)
		e.shut(l)
	}
	for c := range e.conns {
		c.retire()
	}
	e.mu.Unlock()

	done := make(chan struct{})
	go func() {
		e.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(DrainTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	e.mu.Lock()
	e.log.Warn("requests did not end in time and are cut off", logging.Count(len(e.conns)), logging.Duration(DrainTimeout))
	for c := range e.conns {
		c.abort()
	}
	e.mu.Unlock()
	<-done
	return nil
}
