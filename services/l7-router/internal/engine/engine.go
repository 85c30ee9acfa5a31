// Package engine owns what listens: which frontends, backends and addresses are in force, and which connection driver
// serves each address? It binds the sockets and makes the changes; the drivers move the bytes.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// DrainTimeout is how long requests under way may take to end when the router stops. Then they are cut off, a second
// before the process stops waiting for its parts (daemon.GroupTimeout).
const DrainTimeout = 9 * time.Second

// Driver serves the connections of the addresses that it is given.
type Driver interface {
	// Sockets is how many listening sockets it wants for one address, among which the kernel shares the connections out.
	Sockets() int
	// Listen begins to accept on sockets of l, which it owns from here on, also when it fails. It does not wait. A listener
	// that fails later is told to l.Lost, after the driver has given all its sockets up.
	Listen(l *front.Listener, fds []int) error
	// Retire gives up the sockets of l, nil: of all, and lets their connections end with their requests; what waits in the
	// kernel's queues is served before. When it returns nobody finds the address open any more, or a connection of it that
	// is not to end.
	Retire(ctx context.Context, l *front.Listener) error
	// Wake has it look again whether there is room in the frontends. It does not wait, and any goroutine may call it.
	Wake()
	// Drain waits until the last connection has ended, or ctx has. It returns how many are left.
	Drain(ctx context.Context) int
	// Run serves until ctx ends; then it gives up all sockets and cuts off what is left.
	Run(ctx context.Context) error
}

// Config is what an engine is made of.
type Config struct {
	// Pool holds the servers.
	Pool *pool.Pool
	// Cleartext serves HTTP/1.1 without TLS.
	Cleartext Driver
	Log       *zap.Logger
}

// Engine holds the listeners and the frontends. Do is for one goroutine, the loop's of the service; it waits for Run.
type Engine struct {
	log     *zap.Logger
	pool    *pool.Pool
	changed chan struct{}
	driver  Driver

	mu        sync.Mutex // guards what follows; never held across I/O that waits
	backends  map[string]*pool.Backend
	frontends map[string]*front.Frontend
	listeners map[netip.AddrPort]*listener
	stopping  bool
}

// listener is one address with its sockets. The driver has descriptors of its own for them.
type listener struct {
	*front.Listener
	fds  []int
	name string // of the frontend
}

// New makes an engine that listens nowhere.
func New(c Config) *Engine {
	return &Engine{
		log: c.Log.Named("engine"), pool: c.Pool, changed: make(chan struct{}, 1), driver: c.Cleartext,
		backends: map[string]*pool.Backend{}, frontends: map[string]*front.Frontend{}, listeners: map[netip.AddrPort]*listener{},
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
		have.Frontends = append(have.Frontends, f.Current().Spec)
	}
	for address, l := range e.listeners {
		have.Listeners = append(have.Listeners, plan.Listener{Address: address, Frontend: l.name})
	}
	return have
}

// Bound tells where it listens, with the ports that the kernel has chosen where any would do. Any goroutine may call it.
func (e *Engine) Bound() []netip.AddrPort {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []netip.AddrPort
	for _, l := range e.listeners {
		all = append(all, l.Bound)
	}
	return all
}

// Frontend returns a frontend that is in force, nil: there is none of this name. Any goroutine may call it.
func (e *Engine) Frontend(name string) *front.Frontend {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.frontends[name]
}

// Backend returns a backend that is in force, nil: there is none of this name. Any goroutine may call it.
func (e *Engine) Backend(name string) *pool.Backend {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.backends[name]
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
		e.pool.ForgetFrontend(c.Name)
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
		f.Set(exchange.NewFrontend(f.Current().Spec, e.backends, f.Current().Seen))
	}
}

func (e *Engine) setFrontend(s spec.Frontend) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := exchange.NewFrontend(s, e.backends, e.pool.Frontend(s.Name))
	if f := e.frontends[s.Name]; f != nil {
		f.Set(now)
		e.driver.Wake() // maxconn may have grown
		return
	}
	e.frontends[s.Name] = front.New(now, e.driver.Wake)
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
		l.Move(f)
		e.driver.Wake() // there may be room under the new limit
		return nil
	}
	if err := e.open(address, name, f); err != nil {
		return fmt.Errorf("listen on %s for %s: %w", spec.BindString(address), name, err)
	}
	return nil
}

// open binds an address. The caller holds e.mu.
func (e *Engine) open(address netip.AddrPort, name string, f *front.Frontend) error {
	fds, err := tcp.Listen(address, e.driver.Sockets())
	if err != nil {
		return err
	}
	l := &listener{fds: fds, name: name}
	l.Listener = front.NewListener(address, tcp.LocalAddress(fds[0]), f, func(err error) { e.lost(l, err) })
	own, err := tcp.Duplicate(fds)
	if err == nil {
		err = e.driver.Listen(l.Listener, own)
	}
	if err != nil {
		tcp.Close(fds...)
		return err
	}
	e.listeners[address] = l
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
	tcp.Close(l.fds...) // before the driver's, which take what waits in the kernel's queue
	return e.driver.Retire(ctx, l.Listener)
}

// lost forgets a listener that has failed by itself, and has the service's loop bind it again.
func (e *Engine) lost(l *listener, err error) {
	e.log.Error("listener lost", logging.Address(spec.BindString(l.Address)), zap.Error(err))
	e.mu.Lock()
	if e.listeners[l.Address] == l {
		delete(e.listeners, l.Address)
		tcp.Close(l.fds...)
	}
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends. Then nothing is accepted any more, requests under way have DrainTimeout to end, and what is
// left is cut off.
func (e *Engine) Run(ctx context.Context) error {
	running, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	ended := make(chan error, 1)
	go func() { ended <- e.driver.Run(running) }() // it is waited for below
	select {
	case <-ctx.Done():
		e.drain()
		cut()
		return <-ended
	case err := <-ended:
		e.stop()
		return err
	}
}

// stop gives every socket up; no other is made.
func (e *Engine) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopping = true
	for _, l := range e.listeners {
		tcp.Close(l.fds...)
	}
	clear(e.listeners)
}

// drain waits until the last connection has ended, or for DrainTimeout.
func (e *Engine) drain() {
	e.stop()
	ctx, cancel := context.WithTimeout(context.Background(), DrainTimeout)
	defer cancel()
	_ = e.driver.Retire(ctx, nil) // it waits for nothing but the driver's own goroutines
	if left := e.driver.Drain(ctx); left > 0 {
		e.log.Warn("requests did not end in time and are cut off", logging.Count(left), logging.Duration(DrainTimeout))
	}
}
