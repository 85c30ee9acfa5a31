package epoll_test

import (
	"cmp"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/epoll"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

func TestDriver(t *testing.T) { proxytest.Run(t, open) }

// TestSoak runs for SOAK, 20s by default: make soak-router.
func TestSoak(t *testing.T) {
	long, err := time.ParseDuration(cmp.Or(os.Getenv("SOAK"), "20s"))
	if err != nil {
		t.Fatal(err)
	}
	proxytest.Soak(t, open, long)
}

func BenchmarkSmallRequests(b *testing.B) { proxytest.SmallRequests(b, open) }

func open(t testing.TB, p *pool.Pool, log *zap.Logger) proxytest.Driver {
	d, err := epoll.Open(2, log)
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{Pool: p, Cleartext: d, Full: proxy.New(log), Log: log})
	return proxytest.Driver{
		Engine:  e,
		Address: func() string { return e.Bound()[0].String() },
		Break:   d.Break,
		Plant:   func(c *net.TCPConn) { d.Plant(t, c, e.Backend("web").Server(0)) },
	}
}
