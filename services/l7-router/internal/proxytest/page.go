package proxytest

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/page"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/report"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// pageSecret is the password of the user admin in these tests.
const pageSecret = "a password of tests"

// newPagedWorld is a world whose frontend has a statistics page at the usual place.
func newPagedWorld(t testing.TB, open Open, backends ...spec.Backend) *world {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, page.PasswordFile), []byte(pageSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pool.New(zap.NewNop())
	shown, err := page.Open(page.Config{StateDir: folder, Servers: p, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	p.SetPage(shown.Backend())
	w := newWorldOver(t, open, p, backends...)
	now := report.New(report.Config{Pool: p, Observe: w.engine.Observe, Node: "here", Version: "test"})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = shown.Run(ctx, now.Report) })
	t.Cleanup(func() { cancel(); group.Wait() })
	w.want.Frontends[0].Stats = spec.StatsPage{URI: spec.DefaultStatsURI, Realm: spec.DefaultStatsRealm}
	w.apply()
	return w
}

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// testStatsPage: the page is answered before any rule, by the router itself, over a connection that goes on; and what is not
// for it is not disturbed.
func testStatsPage(t *testing.T, open Open) {
	t.Parallel()
	posts := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.RequestURI, "/haproxy?stats") && r.Method != "PUT" {
			t.Errorf("a server got %s %s", r.Method, r.RequestURI)
		}
		fmt.Fprint(w, "posts")
	})
	web := origin(t, named("web"))
	w := newPagedWorld(t, open, backend("web", server("a", addressOf(web))), backend("posts", server("p", addressOf(posts))))
	w.want.Frontends[0].Rules = []spec.Rule{{Condition: spec.Condition{Methods: []string{"POST", "PUT"}}, Backend: "posts"}}
	w.apply()
	c := dial(t, w.address())
	good := basic("admin", pageSecret)
	for range 2 {
		if r, body := c.get("/haproxy?stats"); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") == "" || len(body) != 112 || r.Close {
			t.Errorf("without a password: %d %v %q", r.StatusCode, r.Header, body)
		}
		if r, body := c.get("/"); r.StatusCode != 200 || body != "web" {
			t.Errorf("the next request: %d %q", r.StatusCode, body)
		}
		if r, body := c.get("/haproxy?stats", good); r.StatusCode != 200 || !strings.Contains(body, `id="web/a"`) || r.Close {
			t.Errorf("the page: %d %.200q", r.StatusCode, body)
		}
		if r, body := c.get("/haproxy?stats;csv", good); r.StatusCode != 200 || !strings.Contains(body, "\nweb,a,0,") || !strings.Contains(body, "\nmain,FRONTEND,") {
			t.Errorf("CSV: %d %q", r.StatusCode, body)
		}
		c.send("HEAD /haproxy?stats;csv HTTP/1.1\r\nHost: x\r\n" + good + "\r\n\r\n")
		if r, body := c.response("HEAD"); r.StatusCode != 200 || body != "" || r.ContentLength <= 0 {
			t.Errorf("HEAD: %d %d %q", r.StatusCode, r.ContentLength, body)
		}
		c.send("GET http://x/haproxy?stats;csv HTTP/1.1\r\nHost: x\r\n" + good + "\r\n\r\n")
		if r, body := c.response("GET"); r.StatusCode != 200 || !strings.HasPrefix(body, "# pxname") {
			t.Errorf("absolute form: %d %.100q", r.StatusCode, body)
		}
		form := "b=web&s=a&action=hdown"
		c.send(fmt.Sprintf("POST /haproxy?stats HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", good, len(form), form))
		if r, _ := c.response("POST"); r.StatusCode != 303 || r.Header.Get("Location") != "/haproxy?stats;st=DONE" {
			t.Errorf("POST to the page: %d %v", r.StatusCode, r.Header)
		}
		if r, body := dial(t, w.address()).get("/"); r.StatusCode != 503 {
			t.Errorf("the only server is down: %d %q", r.StatusCode, body)
		}
		if _, err := w.pool.SetServer("web", "a", pool.Change{Health: pool.Up}, "the test"); err != nil {
			t.Error(err)
		}
		for _, request := range []string{"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "PUT /haproxy?stats HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"} {
			c.send(request)
			if r, body := c.response("POST"); r.StatusCode != 200 || body != "posts" {
				t.Errorf("%.20q: %d %q", request, r.StatusCode, body)
			}
		}
		if r, body := c.get("/haproxy"); r.StatusCode != 200 || body != "web" {
			t.Errorf("another target: %d %q", r.StatusCode, body)
		}
	}
	v := w.pool.Frontend("main").Values()
	if got := v.Count(stats.Intercepted); got != 12 {
		t.Errorf("%d requests are counted as intercepted, want 12", got)
	}
	w.want.Frontends[0].Stats = spec.StatsPage{}
	w.apply()
	if r, body := dial(t, w.address()).get("/haproxy?stats", good); r.StatusCode != 200 || body != "web" {
		t.Errorf("without a page: %d %q", r.StatusCode, body)
	}
}
