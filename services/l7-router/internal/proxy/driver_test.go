package proxy_test

import (
	"net"
	"testing"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

func TestDriver(t *testing.T) { proxytest.Run(t, open) }

func BenchmarkSmallRequests(b *testing.B) { proxytest.SmallRequests(b, open) }

func open(t testing.TB, p *pool.Pool, log *zap.Logger) proxytest.Driver {
	d := proxy.New(log)
	e := engine.New(engine.Config{Pool: p, Cleartext: d, Full: d, Log: log})
	return proxytest.Driver{
		Engine:  e,
		Address: func() string { return e.Bound()[0].String() },
		Break:   d.Break,
		Plant:   func(c *net.TCPConn) { proxy.Plant(t, c, e.Backend("web").Server(0)) },
	}
}
