package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/e2e/lab"
)

// Two hundred visitors without a cookie are spread evenly over both servers.
func TestVisitorsAreSpread(t *testing.T) {
	const visits = 200
	client, seen := lab.On(t, "client"), map[string]int{}
	for range visits {
		seen[client.Browse("http://"+lab.VIP).Get(t, "/").ServedBy()]++
	}
	for _, server := range []string{"server1", "server2"} {
		if share := seen[server]; share < visits*40/100 || share > visits*60/100 {
			t.Errorf("%s served %d of %d, want 40 %% to 60 %%; all: %v", server, share, visits, seen)
		}
	}
}

// The cookie of step 6: the browser gets one, and reloading stays on its server.
func TestCookieKeepsTheServer(t *testing.T) {
	for range 4 {
		b := public(t)
		first := b.Get(t, "/")
		if b.Cookie("webserver") == "" {
			t.Fatalf("no cookie webserver; Set-Cookie: %q", first.Header["Set-Cookie"])
		}
		for range 20 {
			page := b.Get(t, "/")
			if page.ServedBy() != first.ServedBy() {
				t.Fatalf("reloading went from %s to %s", first.ServedBy(), page.ServedBy())
			}
			if again := page.Header.Values("Set-Cookie"); len(again) != 0 {
				t.Fatalf("a visitor with a valid cookie gets another one: %q", again)
			}
		}
	}
}

// The rule of step 5: every POST lands on server2 while it lives, none on server1. Stopped: reading and text go on
// through server1, an upload is refused with a page that says why. Started again: uploads work.
func TestUploadsHaveOneHome(t *testing.T) {
	author, _ := member(t)
	for i := range 7 {
		page := thread(t, author, unique(t, "post "), "text")
		if page.Hops[0] != "server2" {
			t.Errorf("POST %d was answered by %s, want server2", i+1, page.Hops[0])
		}
	}
	home := board(t, author)
	upload := func() *lab.Page {
		return author.Upload(t, home+"/threads", "a.txt", []byte("a file"), "title", unique(t, "file "), "body", "the text beside it")
	}
	t.Run("server2 stopped", func(t *testing.T) {
		lab.Stop(t, "server2-forum-backend") // started again at the end of this part
		lab.Within(t, promise, "reading goes on", func() error { return ok(author.Try(home)) })
		lab.Within(t, promise, "posts reach server1", func() error {
			page := author.Post(t, home+"/threads", "title", unique(t, "text "), "body", "without server2")
			if page.Status != http.StatusOK || page.Hops[0] != "server1" {
				return fmt.Errorf("status %d from %v", page.Status, page.Hops)
			}
			return nil
		})
		page := upload()
		if page.Status != http.StatusServiceUnavailable || !page.Has("the text beside it") {
			t.Errorf("an upload is answered with status %d, want 503 and the text kept: %s", page.Status, page.Body)
		}
		for range 20 {
			if err := ok(public(t).Try("/")); err != nil {
				t.Error(err)
			}
		}
	})
	lab.Within(t, promise, "uploads work again", func() error {
		if page := upload(); page.Status != http.StatusOK {
			return fmt.Errorf("status %d", page.Status)
		}
		return nil
	})
}

// ok is nil for a page that is there.
func ok(page *lab.Page, err error) error {
	if err == nil && page.Status != http.StatusOK {
		err = fmt.Errorf("status %d, served by %v", page.Status, page.Hops)
	}
	return err
}

// holder names the machines that have the address.
func holder(t testing.TB, address string) string {
	t.Helper()
	var out []string
	for _, machine := range []string{"haproxy", "haproxy2"} {
		for _, have := range lab.On(t, machine).Addresses(t) {
			if have == address {
				out = append(out, machine)
			}
		}
	}
	return strings.Join(out, " and ")
}

const vip78, vip55 = "192.168.60.78", "192.168.60.55"

// ways names the addresses from which the machine has a default route.
func ways(t testing.TB, machine string) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(lab.On(t, machine).Exec(t, "ip", "-4", "route", "show", "default")) {
		from := ""
		if words := strings.Fields(line); strings.Contains(line, "via "+lab.Gateway+" ") && strings.Contains(line, "proto 112") {
			from = words[slices.Index(words, "src")+1]
		} else {
			from = "by a route of somebody else: " + line
		}
		out = append(out, from)
	}
	return strings.Join(out, " and ")
}

// held waits until each VIP is on its machine and on no other, and with it the default route that leads to the clients.
func held(t testing.TB, on78, on55 string) {
	t.Helper()
	lab.Within(t, promise, ".78 on "+on78+" and .55 on "+on55, func() error {
		if a, b := holder(t, vip78), holder(t, vip55); a != on78 || b != on55 {
			return fmt.Errorf(".78 is on %q and .55 on %q", a, b)
		}
		for _, machine := range []string{"haproxy", "haproxy2"} {
			var want []string // in the order of the routes' metrics
			for _, vip := range []struct{ address, on string }{{vip78, on78}, {vip55, on55}} {
				if vip.on == machine {
					want = append(want, vip.address)
				}
			}
			if got := ways(t, machine); got != strings.Join(want, " and ") {
				return fmt.Errorf("%s has default routes from %q, want %q", machine, got, want)
			}
		}
		return nil
	})
}

// Step 7: one VIP each; an agent stopped, both on the other machine, whose router goes on as it was; started, back. And
// the mirror image.
func TestDualMaster(t *testing.T) {
	held(t, "haproxy", "haproxy2")
	for stopped, other := range map[string]string{"haproxy": "haproxy2", "haproxy2": "haproxy"} {
		t.Run(stopped+" stopped", func(t *testing.T) {
			routers := [2]int{lab.Pid(t, "haproxy-l7-router"), lab.Pid(t, "haproxy2-l7-router")}
			t.Run("meanwhile", func(t *testing.T) {
				lab.Stop(t, stopped+"-vrrp-agent") // started again at the end of this part
				held(t, other, other)
				lvs := lab.On(t, "lvs")
				for _, vip := range []string{vip78, vip55} {
					lab.Within(t, promise, "a page through "+vip, func() error { return ok(lvs.Browse("http://" + vip).Try("/")) })
				}
				for range 20 {
					if err := ok(public(t).Try("/")); err != nil {
						t.Error(err)
					}
				}
			})
			held(t, "haproxy", "haproxy2")
			if after := [2]int{lab.Pid(t, "haproxy-l7-router"), lab.Pid(t, "haproxy2-l7-router")}; after != routers {
				t.Errorf("the routers were %v and are %v: one was restarted", routers, after)
			}
		})
	}
}

// arrivals counts the requests that each machine's router took while the client made some.
func arrivals(t testing.TB, requests int) map[string]uint64 {
	t.Helper()
	before := map[string]uint64{}
	apis := map[string]string{"haproxy": lab.RouterAPI, "haproxy2": lab.Router2API}
	for machine, api := range apis {
		before[machine] = routed(t, api)
	}
	for range requests {
		if err := ok(public(t).Try("/")); err != nil {
			t.Error(err)
		}
	}
	out := map[string]uint64{}
	for machine, api := range apis {
		out[machine] = routed(t, api) - before[machine]
	}
	return out
}

// Step 8: connections of the client reach both VIPs; one agent stopped, all arrive at the other machine; started, both
// again.
func TestDirectorReachesBothVIPs(t *testing.T) {
	const requests = 40
	both := func() {
		t.Helper()
		held(t, "haproxy", "haproxy2")
		got := arrivals(t, requests)
		if got["haproxy"] == 0 || got["haproxy2"] == 0 || got["haproxy"]+got["haproxy2"] != requests {
			t.Errorf("of %d requests the routers took %v, want some at each", requests, got)
		}
	}
	both()
	for stopped, other := range map[string]string{"haproxy": "haproxy2", "haproxy2": "haproxy"} {
		t.Run(stopped+" stopped", func(t *testing.T) {
			lab.Stop(t, stopped+"-vrrp-agent") // started again at the end of this part
			held(t, other, other)
			if got := arrivals(t, requests); got[other] != requests || got[stopped] != 0 {
				t.Errorf("of %d requests the routers took %v, want all at %s", requests, got, other)
			}
		})
		both()
	}
}

// The router's process on haproxy is killed, nothing else: requests go on within 1.5 s, .78 has moved, and it comes
// back with the router. (The tutorial's weight -5 never moved it.)
func TestRouterKilled(t *testing.T) {
	held(t, "haproxy", "haproxy2")
	t.Run("killed", func(t *testing.T) {
		lab.Kill(t, "haproxy-l7-router") // started again at the end of this part
		killed := time.Now()
		// From here on every request has to succeed once the time is up: ten in a row reach both VIPs.
		lvs := lab.On(t, "lvs")
		lab.Within(t, 1500*time.Millisecond-time.Since(killed), "requests go on", func() error {
			return ok(lvs.Browse("http://" + vip78).Try("/"))
		})
		t.Logf("requests through .78 went on %v after the kill", time.Since(killed).Round(time.Millisecond))
		for range 20 {
			if err := ok(public(t).Try("/")); err != nil {
				t.Error(err)
			}
		}
		held(t, "haproxy2", "haproxy2")
	})
	held(t, "haproxy", "haproxy2")
	if err := ok(public(t).Try("/")); err != nil {
		t.Error(err)
	}
}
