package page_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/testreq"
	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/epoll"
	"github.com/twotier/twotier/services/l7-router/internal/page"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/report"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

const password = "a-password-of-tests"

// router is a running router with a page and a backend of two servers.
func router(t *testing.T) (address string, servers *pool.Pool) {
	t.Helper()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(origin.Close)
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, page.PasswordFile), []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := zap.NewNop()
	servers = pool.New(log)
	shown, err := page.Open(page.Config{StateDir: folder, Servers: servers, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	servers.SetPage(shown.Backend())
	cleartext, err := epoll.Open(1, log)
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{Pool: servers, Cleartext: cleartext, Full: proxy.New(log), Log: log})
	now := report.New(report.Config{Pool: servers, Observe: e.Observe, Node: "here", Version: "test"})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = servers.Run(ctx) })
	group.Go(func() { _ = e.Run(ctx) })
	group.Go(func() { _ = shown.Run(ctx, now.Report) })
	t.Cleanup(func() { cancel(); group.Wait() })
	at := netip.MustParseAddrPort(origin.Listener.Addr().String())
	want := spec.State{
		Frontends: []spec.Frontend{{
			Name: "main", Bind: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, DefaultBackend: "web",
			// A rule for POST, as in the tutorial: it must not get the forms of the page.
			Rules:         []spec.Rule{{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "web"}},
			TimeoutClient: time.Minute, TimeoutRequest: time.Minute, TimeoutKeepAlive: time.Minute, MaxConn: 100,
			Stats: spec.StatsPage{URI: spec.DefaultStatsURI, Realm: spec.DefaultStatsRealm},
		}},
		Backends: []spec.Backend{{
			Name: "web", TimeoutConnect: time.Minute, TimeoutServer: time.Minute,
			Check:   spec.Check{Kind: spec.CheckTCP, Interval: time.Hour, Timeout: time.Minute, Rise: 1, Fall: 1},
			Servers: []spec.Server{{Name: "s1", Address: at, Weight: 1}, {Name: "s2", Address: at, Weight: 1}},
		}},
	}
	for _, change := range plan.Diff(want, e.Observe()) {
		if err := e.Do(context.Background(), change); err != nil {
			t.Fatal(err)
		}
	}
	return e.Bound()[0].String(), servers
}

// TestBrowser clicks every action of the page in a real browser, and has another site send the same form.
func TestBrowser(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("chromium-headless-shell"); err != nil {
		testreq.Missing(t, "chromium-headless-shell (Debian package of the same name)")
	}
	address, servers := router(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithAllocatorOptions(
		chromedp.ExecPath("chromium-headless-shell"), chromedp.NoSandbox, chromedp.WindowSize(1400, 900)))
	defer cancel()
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	text := func(sel string) string {
		t.Helper()
		got, err := chromedp.Run(ctx, chromedp.Text(sel))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	state := func() pool.State {
		t.Helper()
		for _, s := range servers.Servers() {
			if s.Backend == "web" && s.Server.Name == "s1" {
				return s
			}
		}
		t.Fatal("there is no server s1")
		return pool.State{}
	}
	withPassword := "http://admin:" + password + "@" + address + "/haproxy?stats"
	do(chromedp.Navigate(withPassword))
	url := "http://" + address + "/haproxy?stats" // the browser knows the password now

	const section = `section[id="backend/web"] `
	choose := func(action, weight string) {
		t.Helper()
		do(chromedp.Navigate(url),
			chromedp.Click(section+`input[name="s"][value="s1"]`),
			chromedp.SetValue(section+`select[name="action"]`, action))
		if weight != "" {
			do(chromedp.SendKeys(section+`input[name="weight"]`, weight))
		}
		do(chromedp.Click(section+`button`), chromedp.WaitVisible(`#confirm`))
	}
	for _, test := range []struct{ action, weight, want string }{
		{"drain", "", "DRAIN 1"}, {"ready", "", "UP 1"}, {"maint", "", "MAINT 1"}, {"ready", "", "UP 1"},
		{"hdown", "", "DOWN 1"}, {"hrunn", "", "UP 1"}, {"hnolb", "", "NOLB 1"}, {"hrunn", "", "UP 1"},
		{"dhlth", "", "no 1 unchecked"}, {"ehlth", "", "UP 1"}, {"shutdown", "", "UP 1"},
		{"weight", "7", "UP 7"}, {"weight", "", "UP 1"},
	} {
		before := state()
		choose(test.action, test.weight)
		if after := state(); after.Status != before.Status || after.Weight != before.Weight {
			t.Errorf("%s: it was done before it was confirmed", test.action)
		}
		do(chromedp.Click(`#confirm button`), chromedp.WaitVisible(`#outcome`))
		if got := text(`#outcome`); !strings.Contains(got, "processed successfully") {
			t.Errorf("%s: the page says %q", test.action, got)
		}
		s := state()
		got := fmt.Sprint(strings.Fields(s.Status)[0], " ", s.Weight)
		if !s.ChecksOn && s.Admin == spec.AdminReady {
			got += " unchecked"
		}
		if got != test.want {
			t.Errorf("%s %s: %s, want %s", test.action, test.weight, got, test.want)
		}
	}
	choose("maint", "")
	do(chromedp.Click(`#confirm .plain`), chromedp.WaitReady(section+`table`))
	if s := state(); s.Admin != spec.AdminReady {
		t.Errorf("cancelled, and done all the same: %s", s.Status)
	}

	// Another site, with a form for the page of the router, in a browser that knows the password and is even told it.
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form method="post" action="%s"><input name="s" value="s1"><input name="b" value="web"><input name="action" value="maint"><input name="confirm" value="yes"><button>win a prize</button></form>`, withPassword)
	}))
	defer foreign.Close()
	do(chromedp.Navigate(foreign.URL), chromedp.Click(`button`), chromedp.WaitReady(`#outcome`))
	if got := text(`#outcome`); !strings.Contains(got, "denied") {
		t.Errorf("the form of another site: the page says %q", got)
	}
	if s := state(); s.Admin != spec.AdminReady {
		t.Errorf("the form of another site was obeyed: %s", s.Status)
	}
}
