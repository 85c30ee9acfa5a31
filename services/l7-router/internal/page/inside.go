package page

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// maxConns is the most requests for pages at a time; more are answered with 503.
const maxConns = 64

var errBusy = errors.New("too many requests for statistics pages")

// inside is a listener without an address: a connection is one end of a socketpair, of which the other has been handed to
// a connection driver. So nobody else can connect, and who the client is need not be told in a header.
type inside struct {
	conns chan net.Conn
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newInside() *inside {
	return &inside{conns: make(chan net.Conn, maxConns), slots: make(chan struct{}, maxConns), done: make(chan struct{})}
}

// insideConn is the server's end.
type insideConn struct {
	net.Conn
	caller pool.Caller
	in     *inside
	once   sync.Once
}

func (c *insideConn) Close() error {
	c.once.Do(func() { <-c.in.slots })
	return c.Conn.Close()
}

// dial makes a connection and returns the driver's end of it. It does not wait.
func (i *inside) dial(caller pool.Caller) (fd int, err error) {
	select {
	case <-i.done:
		return -1, net.ErrClosed
	default:
	}
	select {
	case i.slots <- struct{}{}:
	default:
		return -1, errBusy
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		<-i.slots
		return -1, os.NewSyscallError("socketpair", err)
	}
	file := os.NewFile(uintptr(fds[1]), "")
	own, err := net.FileConn(file) // a duplicate
	_ = file.Close()               // nothing was written to it
	if err != nil {
		<-i.slots
		_ = unix.Close(fds[0]) // it was never used
		return -1, err
	}
	i.conns <- &insideConn{Conn: own, caller: caller, in: i} // there is room: there are as many slots
	return fds[0], nil
}

// Accept is for net/http.
func (i *inside) Accept() (net.Conn, error) {
	select {
	case c := <-i.conns:
		return c, nil
	case <-i.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and the connections that it has not taken yet.
func (i *inside) Close() error {
	i.once.Do(func() { close(i.done) })
	for {
		select {
		case c := <-i.conns:
			_ = c.Close() // nothing was written to it
		default:
			return nil
		}
	}
}

type insideAddr struct{}

func (insideAddr) Network() string { return "inside" }
func (insideAddr) String() string  { return "inside" }

// Addr is for net/http.
func (i *inside) Addr() net.Addr { return insideAddr{} }

type callerKey struct{}

// withCaller puts the caller of a connection where requests find it.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	if own, ok := c.(*insideConn); ok {
		ctx = context.WithValue(ctx, callerKey{}, own.caller)
	}
	return ctx
}
