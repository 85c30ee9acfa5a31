// Package front is a frontend while it is in force: where do its connections send requests now, and is there room for
// another one? The engine makes frontends and listeners, the connection drivers serve them. No sockets here.
package front

import (
	"net/netip"
	"sync/atomic"

	"github.com/twotier/twotier/services/l7-router/internal/certificate"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
)

// Frontend is one frontend with what changes under it. All methods may be called from any goroutine.
type Frontend struct {
	current atomic.Pointer[exchange.Frontend]
	certs   atomic.Pointer[certificate.Set]
	conns   atomic.Int64
	crowded atomic.Bool // somebody was turned away at maxconn
	room    func()
}

// New makes a frontend. It calls room when there is room again after somebody has found none; room must not wait.
func New(f *exchange.Frontend, room func()) *Frontend {
	front := &Frontend{room: room}
	front.current.Store(f)
	return front
}

// Current returns the frontend as it is wanted now. Who carries a request keeps what it began with.
func (f *Frontend) Current() *exchange.Frontend { return f.current.Load() }

// Set changes it for the requests that begin from now on. Its maxconn may have grown: the caller has everyone look again.
func (f *Frontend) Set(now *exchange.Frontend) { f.current.Store(now) }

// Certificates returns those that its TLS listeners show, nil: it has no such listeners.
func (f *Frontend) Certificates() *certificate.Set { return f.certs.Load() }

// SetCertificates changes them for the connections that come from now on.
func (f *Frontend) SetCertificates(s *certificate.Set) { f.certs.Store(s) }

func (f *Frontend) full() bool { return f.conns.Load() >= int64(f.Current().Spec.MaxConn) }

// HasRoom reports whether another connection may be taken. If not, room is called when that changes.
func (f *Frontend) HasRoom() bool {
	if !f.full() {
		return true
	}
	f.crowded.Store(true)
	return !f.full() // whoever left in between did not see that it was crowded
}

// Enter counts a connection if there is room for it. If not, room is called when there is.
func (f *Frontend) Enter() bool {
	if f.conns.Add(1) <= int64(f.Current().Spec.MaxConn) {
		return true
	}
	f.crowded.Store(true)
	f.Leave() // whoever left in between did not see that it was crowded; this does
	return false
}

// Force counts a connection that is there already, whether there is room for it or not.
func (f *Frontend) Force() { f.conns.Add(1) }

// Leave counts a connection as gone.
func (f *Frontend) Leave() {
	n := f.conns.Add(-1)
	if f.crowded.Load() && n < int64(f.Current().Spec.MaxConn) && f.crowded.CompareAndSwap(true, false) {
		f.room()
	}
}

// Conns is how many connections are counted.
func (f *Frontend) Conns() int64 { return f.conns.Load() }

// Giving says how an address is given up.
type Giving uint8

// The ways to give an address up.
const (
	// Closing: nobody listens there any more. What waits in the kernel's queues is served, idle connections end.
	Closing Giving = iota
	// Moving: somebody else has the sockets too, and serves what waits. Idle connections end.
	Moving
	// Leaving is like Moving, but idle connections may have one more request, whose answer says Connection: close, so that
	// no client sends one into a closing connection.
	Leaving
	// Staying: the sockets are not given up at all. Connections end with the request under way, and idle ones at once, because
	// they were let in by a rule that holds no more.
	Staying
)

// Listener is an address that is listened on. It outlasts the frontend that it belongs to when another takes it over.
type Listener struct {
	// Address is the address as it is wanted.
	Address netip.AddrPort
	// Bound is the same with the port that the kernel has chosen where any would do.
	Bound netip.AddrPort
	// TLS is spoken on it.
	TLS   bool
	front atomic.Pointer[Frontend]
	lost  func(error)
}

// NewListener makes a listener. lost is called when it fails by itself; it must not wait.
func NewListener(address, bound netip.AddrPort, tls bool, f *Frontend, lost func(error)) *Listener {
	l := &Listener{Address: address, Bound: bound, TLS: tls, lost: lost}
	l.front.Store(f)
	return l
}

// Frontend returns whose listener it is now.
func (l *Listener) Frontend() *Frontend { return l.front.Load() }

// Move gives it to another frontend, with its connections: their next requests are that one's.
func (l *Listener) Move(to *Frontend) { l.front.Store(to) }

// Lost tells that its socket has failed by itself.
func (l *Listener) Lost(err error) { l.lost(err) }
