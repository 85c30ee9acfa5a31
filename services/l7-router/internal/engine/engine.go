// Package engine owns what listens: which frontends, backends and addresses are in force, and which connection driver
// serves each address? It binds the sockets and makes the changes; the drivers move the bytes.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/accesslog"
	"github.com/twotier/twotier/services/l7-router/internal/certificate"
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
	// Retire gives up the sockets of l, nil: of all, and lets their connections end with their requests. What waits in the
	// kernel's queues is served before, unless somebody else has the sockets by now. When it returns the driver accepts
	// nothing more there, and has no connection of it that is not to end. With front.Staying only the latter holds, of those
	// that were there when it was called.
	Retire(ctx context.Context, l *front.Listener, how front.Giving) error
	// Wake has it look again whether there is room in the frontends. It does not wait, and any goroutine may call it.
	Wake()
	// Cut ends what is under way with one server, by its ID, as a reset from it would. It does not wait, and any goroutine
	// may call it.
	Cut(server uint64)
	// Drain waits until the last connection has ended, or ctx has. It returns how many are left.
	Drain(ctx context.Context) int
	// Run serves until ctx ends; then it gives up all sockets and cuts off what is left.
	Run(ctx context.Context) error
}

// Config is what an engine is made of.
type Config struct {
	// Pool holds the servers.
	Pool *pool.Pool
	// Cleartext serves HTTP/1.1 without TLS and HTTP/2.
	Cleartext Driver
	// Full serves everything. It may be the same.
	Full Driver
	// Sockets are those that another process has given, by the address as it is wanted: its Sockets. nil: none. The engine
	// owns them.
	Sockets map[string][]int
	Log     *zap.Logger
}

// Engine holds the listeners and the frontends. Do is for one goroutine, the loop's of the service; it waits for Run.
type Engine struct {
	log     *zap.Logger
	pool    *pool.Pool
	changed chan struct{}
	handed  chan time.Duration // gets a value after HandOver
	config  Config
	logs    *accesslog.Logs

	mu        sync.Mutex // guards what follows; never held across I/O that waits
	backends  map[string]*pool.Backend
	frontends map[string]*front.Frontend
	listeners map[netip.AddrPort]*listener
	stopping  bool
}

// listener is one address with its sockets. The driver has descriptors of its own for them.
type listener struct {
	*front.Listener
	driver  Driver
	fds     []int
	name    string // of the frontend
	streams bool   // plan.Listener.Streams
}

// New makes an engine that listens nowhere.
func New(c Config) *Engine {
	e := &Engine{
		log: c.Log.Named("engine"), pool: c.Pool, changed: make(chan struct{}, 1), handed: make(chan time.Duration, 1), config: c, logs: accesslog.New(c.Log),
		backends: map[string]*pool.Backend{}, frontends: map[string]*front.Frontend{}, listeners: map[netip.AddrPort]*listener{},
	}
	c.Pool.OnShutdown(func(server uint64) {
		for _, d := range e.drivers() {
			d.Cut(server)
		}
	})
	e.logs.Process = e.conns
	return e
}

// Changed gets a value when a listener was lost, so that the loop looks again.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Observe tells what is in force. Any goroutine may call it.
func (e *Engine) Observe() plan.Have {
	have := plan.Have{Backends: e.pool.Specs(), Renewed: e.renewed()}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.frontends {
		have.Frontends = append(have.Frontends, f.Current().Spec)
	}
	for address, l := range e.listeners {
		have.Listeners = append(have.Listeners, plan.Listener{Address: address, Frontend: l.name, TLS: l.TLS, Streams: l.streams})
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
		return e.setFrontend(ctx, c.Frontend)
	case plan.ReadCertificates:
		return e.readCertificates(c.Name)
	case plan.RemoveFrontend:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.pool.ForgetFrontend(c.Name)
		delete(e.frontends, c.Name) // its listeners are closed already; its connections end with their requests
		e.keepLogs()
	case plan.Listen:
		return e.listen(ctx, c)
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
		f.Set(e.frontend(f.Current().Spec))
	}
}

// frontend makes a frontend of what there is now. The caller holds e.mu.
func (e *Engine) frontend(s spec.Frontend) *exchange.Frontend {
	f := exchange.NewFrontend(s, e.backends, e.pool.Frontend(s.Name))
	f.Page = e.pool.Page()
	f.Log = e.logs.Want(s.AccessLog)
	return f
}

// setFrontend changes nothing when the files of its TLS cannot be used.
func (e *Engine) setFrontend(ctx context.Context, s spec.Frontend) error {
	old := e.Frontend(s.Name)
	var certs *certificate.Set
	if s.TLS.Wanted() && (old == nil || old.Certificates() == nil || !reflect.DeepEqual(old.Current().Spec.TLS, s.TLS) || old.Current().Spec.HTTP2.Disabled != s.HTTP2.Disabled) {
		var err error
		if certs, err = certificate.Load("frontend/"+s.Name+".tls", s.TLS, protocols(&s)); err != nil {
			return err
		}
		e.logCertificates(s.Name, certs)
	}
	return e.endAll(ctx, e.putFrontend(s, certs))
}

// putFrontend puts a frontend in force; certs nil: those that it has. It returns the listeners whose connections were let in by a
// rule that is less strict.
func (e *Engine) putFrontend(s spec.Frontend, certs *certificate.Set) (stricter []*listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.frontend(s)
	f := e.frontends[s.Name]
	if f != nil && s.TLS.StricterThan(&f.Current().Spec.TLS) {
		for _, l := range e.listeners {
			if l.TLS && l.Frontend() == f {
				stricter = append(stricter, l)
			}
		}
	}
	if f == nil {
		f = front.New(now, e.wake)
		e.frontends[s.Name] = f
	}
	if certs != nil {
		f.SetCertificates(certs)
	}
	f.Set(now)
	e.keepLogs()
	e.wake() // maxconn may have grown
	return stricter
}

// endAll lets the connections of these listeners end with the request under way.
func (e *Engine) endAll(ctx context.Context, all []*listener) error {
	var errs []error
	for _, l := range all {
		errs = append(errs, l.driver.Retire(ctx, l.Listener, front.Staying))
	}
	return errors.Join(errs...)
}

// keepLogs ends the logs that no frontend wants any more. The caller holds e.mu.
func (e *Engine) keepLogs() {
	var wanted []spec.AccessLog
	for _, f := range e.frontends {
		wanted = append(wanted, f.Current().Spec.AccessLog)
	}
	e.logs.Keep(wanted)
}

// LogDropped tells how many requests could not be logged.
func (e *Engine) LogDropped() uint64 { return e.logs.Dropped() }

// conns is how many connections are under way in all frontends.
func (e *Engine) conns() (n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.frontends {
		n += f.Conns()
	}
	return n
}

// wake has the drivers look again whether there is room in the frontends.
func (e *Engine) wake() {
	for _, d := range e.drivers() {
		d.Wake()
	}
}

// drivers are the two, or the one that is both.
func (e *Engine) drivers() []Driver {
	if e.config.Cleartext == e.config.Full {
		return []Driver{e.config.Full}
	}
	return []Driver{e.config.Cleartext, e.config.Full}
}

// home is the driver that an address needs.
func (e *Engine) home(tls, streams bool) Driver {
	if tls || streams {
		return e.config.Full
	}
	return e.config.Cleartext
}

// listen binds an address, or changes to whom one that is bound belongs, together with its connections. When another
// driver has to serve it from now on the sockets go there, and the connections that are there end with their requests.
func (e *Engine) listen(ctx context.Context, c plan.Change) error {
	e.mu.Lock()
	l, f := e.listeners[c.Address], e.frontends[c.Name]
	if l != nil && l.TLS == c.TLS && l.driver == e.home(c.TLS, c.Streams) && f != nil {
		l.name, l.streams = c.Name, c.Streams
		var stricter []*listener
		if c.TLS && f.Current().Spec.TLS.StricterThan(&l.Frontend().Current().Spec.TLS) {
			stricter = []*listener{l}
		}
		l.Move(f)
		e.mu.Unlock()
		e.wake() // there may be room under the new limit
		return e.endAll(ctx, stricter)
	}
	err := e.open(c, f, l)
	e.mu.Unlock()
	if err != nil {
		return fmt.Errorf("listen on %s for %s: %w", spec.BindString(c.Address), c.Name, err)
	}
	if l != nil {
		return l.driver.Retire(ctx, l.Listener, front.Moving)
	}
	return nil
}

// open gives a driver an address, with the sockets that it had before, if it was bound before. The caller holds e.mu.
func (e *Engine) open(c plan.Change, f *front.Frontend, before *listener) error {
	switch {
	case e.stopping:
		return errors.New("the router is stopping")
	case f == nil:
		return fmt.Errorf("there is no frontend %s", c.Name)
	case c.TLS && f.Certificates() == nil:
		return fmt.Errorf("frontend %s has no certificates", c.Name)
	}
	l := &listener{driver: e.home(c.TLS, c.Streams), name: c.Name, streams: c.Streams}
	var err error
	if before != nil {
		l.fds = before.fds
	} else if l.fds = e.inherited(c.Address, e.config.Cleartext.Sockets()); l.fds != nil {
		e.log.Info("address taken over", logging.Address(spec.BindString(c.Address)))
	} else if l.fds, err = tcp.Listen(c.Address, e.config.Cleartext.Sockets()); err != nil {
		return err
	}
	l.Listener = front.NewListener(c.Address, tcp.LocalAddress(l.fds[0]), c.TLS, f, func(err error) { e.lost(l, err) })
	own, err := tcp.Duplicate(l.fds)
	if err == nil {
		err = l.driver.Listen(l.Listener, own)
	}
	if err != nil {
		if before == nil {
			tcp.Close(l.fds...)
		}
		return err
	}
	e.listeners[c.Address] = l
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
	return l.driver.Retire(ctx, l.Listener, front.Closing)
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
	e.lookAgain()
}

// lookAgain has the service's loop compare what is wanted with what is.
func (e *Engine) lookAgain() {
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
	// The logs end after the drivers, whose last requests they write.
	logging, logged := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan error, 1)
	go func() { written <- e.logs.Run(logging) }()
	defer func() { logged(); <-written }()
	drivers := e.drivers()
	ended := make(chan error, len(drivers))
	for _, d := range drivers {
		go func() { ended <- d.Run(running) }() // they are waited for below
	}
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	var all error
	left := len(drivers)
	for serving := true; serving; {
		select {
		case <-ticker.C:
			if len(e.renewed()) > 0 {
				e.lookAgain()
			}
		case drain := <-e.handed:
			if !e.outlast(ctx, drain) {
				e.drain()
			}
			serving = false
		case <-ctx.Done():
			e.drain()
			serving = false
		case err := <-ended:
			left--
			all = errors.Join(all, err)
			e.stop()
			serving = false
		}
	}
	cut()
	for range left {
		all = errors.Join(all, <-ended)
	}
	return all
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
	left := 0
	for _, d := range e.drivers() {
		_ = d.Retire(ctx, nil, front.Closing) // it waits for nothing but the driver's own goroutines
	}
	for _, d := range e.drivers() {
		left += d.Drain(ctx)
	}
	if left > 0 {
		e.log.Warn("requests did not end in time and are cut off", logging.Count(left), logging.Duration(DrainTimeout))
	}
}
