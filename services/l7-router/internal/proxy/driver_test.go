package proxy

import (
	"net"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxytest"
)

func TestDriver(t *testing.T) { proxytest.Run(t, open) }

func BenchmarkSmallRequests(b *testing.B) { proxytest.SmallRequests(b, open) }

func open(t testing.TB, p *pool.Pool, log *zap.Logger) proxytest.Driver {
	e := New(p, log)
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
		Address: func() string { return first().Addr().String() },
		Break:   func() { _ = first().Close() },
		Plant: func(c *net.TCPConn) {
			s, err := newSock(c)
			if err != nil {
				t.Fatal(err)
			}
			// The news of its end comes too late for the check before use.
			s.peekNow = func(uintptr) { s.peekErr = syscall.EAGAIN }
			e.backends["web"].Server(0).Keep(s)
		},
	}
}
