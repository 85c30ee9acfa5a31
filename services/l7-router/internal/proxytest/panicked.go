package proxytest

import (
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// testPanic: one faulty exchange takes nothing down with it, and keeps no slot of its server.
func testPanic(t *testing.T, open Open) {
	t.Parallel()
	p := pool.New(zap.NewNop())
	faulty := pool.Inside(time.Second, func(pool.Caller) (int, error) { panic("a fault") })
	p.SetPage(faulty)
	w := newWorldOver(t, open, p, backend("web", server("a", addressOf(origin(t, named("a"))))))
	w.want.Frontends[0].Stats = spec.StatsPage{URI: spec.DefaultStatsURI, Realm: spec.DefaultStatsRealm}
	w.apply()
	for range 3 {
		if r, err := http.Get("http://" + w.address() + spec.DefaultStatsURI); err == nil {
			_ = r.Body.Close() // it is a fault that there is one
			t.Errorf("an answer after a fault: %d", r.StatusCode)
		}
	}
	if r, body := dial(t, w.address()).get("/"); r.StatusCode != 200 || body != "a" {
		t.Errorf("another request: %d %q", r.StatusCode, body)
	}
	until(t, "the slots are free again", func() bool { return faulty.Server(0).Active.Load() == 0 })
	until(t, "nothing counts as under way", func() bool { return faulty.Seen.Current() == 0 && w.pool.Frontend("main").Current() <= 1 })
}
