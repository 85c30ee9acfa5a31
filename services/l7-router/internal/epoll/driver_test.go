package epoll

import (
	"context"
	"net"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxytest"
)

func TestDriver(t *testing.T) { proxytest.Run(t, open) }

func BenchmarkSmallRequests(b *testing.B) { proxytest.SmallRequests(b, open) }

func open(t testing.TB, p *pool.Pool, log *zap.Logger) proxytest.Driver {
	e, err := Open(p, 2, log)
	if err != nil {
		t.Fatal(err)
	}
	first := func() *listener {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, l := range e.listeners {
			return l
		}
		t.Fatal("no listener")
		return nil
	}
	return proxytest.Driver{
		Engine:  e,
		Address: func() string { return first().bound.String() },
		Break: func() {
			l := first()
			e.all(func(loop *loop) {
				for _, a := range loop.acceptors {
					if a.listener == l {
						_ = unix.Shutdown(int(a.fd), unix.SHUT_RDWR) // accept fails from here on
					}
				}
			})
		},
		Plant: func(c *net.TCPConn) {
			raw, err := c.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			// Each loop gets it: nobody knows which one the next client comes to.
			err = e.finish(context.Background(), func(l *loop) {
				_ = raw.Control(func(fd uintptr) {
					own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
					if err != nil {
						t.Error(err)
						return
					}
					u := &upstream{loop: l}
					u.timer.owner = u
					if err := l.watch(&u.sock, own, deaf{u}); err != nil {
						t.Error(err)
					}
					l.keep(u, e.backends["web"].Server(0))
				})
			})
			if err != nil {
				t.Fatal(err)
			}
		},
	}
}

// deaf is an idle connection that does not hear of its end.
type deaf struct{ *upstream }

func (d deaf) ready() {
	if d.conn != nil {
		d.upstream.ready()
	}
}
