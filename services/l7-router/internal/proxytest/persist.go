package proxytest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// cookieWords says in HAProxy's words how a cookie is wanted.
func cookieWords(c *spec.Cookie) string {
	words := " cookie " + c.Name + [...]string{" insert", " prefix", " rewrite", ""}[c.Mode]
	for _, option := range []struct {
		set  bool
		word string
	}{
		{c.NoCache, "nocache"}, {c.Indirect, "indirect"}, {c.HTTPOnly, "httponly"}, {c.Secure, "secure"},
		{c.Preserve, "preserve"}, {c.PostOnly, "postonly"},
	} {
		if option.set {
			words += " " + option.word
		}
	}
	if c.MaxIdle > 0 {
		words += fmt.Sprintf(" maxidle %ds", c.MaxIdle/time.Second)
	}
	if c.MaxLife > 0 {
		words += fmt.Sprintf(" maxlife %ds", c.MaxLife/time.Second)
	}
	for _, domain := range strings.Split(c.Domain, "; domain=")[1:] {
		words += " domain " + domain
	}
	for _, attribute := range strings.Split(c.Attributes, "; ")[min(1, len(c.Attributes)):] {
		if attribute != "" {
			words += " attr " + attribute
		}
	}
	return words + "\n"
}

const dateDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// dateIn is a date of a cookie, as long from now.
func dateIn(d time.Duration) string {
	n := time.Now().Add(d).Unix() / 4
	text := ""
	for shift := 24; shift >= 0; shift -= 6 {
		text += string(dateDigits[n>>shift&63])
	}
	return "|" + text
}

var dates = regexp.MustCompile(`\|[A-Za-z0-9+/]{5}`)

// undated puts in place of each date how many minutes ago it is.
func undated(fields []string) (all []string) {
	for _, field := range fields {
		all = append(all, dates.ReplaceAllStringFunc(field, func(text string) string {
			n := int64(0)
			for _, c := range text[1:] {
				n = n<<6 | int64(strings.IndexRune(dateDigits, c))
			}
			return fmt.Sprintf("|%d min", int(time.Since(time.Unix(4*n, 0)).Round(time.Minute)/time.Minute))
		}))
	}
	return all
}

// testCookieModesLikeHAProxy compares the headers that the other modes and options of cookies add, change and remove.
func testCookieModesLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for _, line := range map[string][]string{
				"/sets":   {"SRV=theirs; path=/app; HttpOnly", "other=1"},
				"/plain":  {"SRV=theirs"},
				"/empty":  {"SRV=; Expires=Thu, 01-Jan-1970 00:00:01 GMT"},
				"/spaces": {"SRV = theirs ; path=/"},
				"/own":    {"SRV=" + name},
				"/twice":  {"SRV=one", "SRV=two"},
			}[r.URL.Path] {
				w.Header().Add("Set-Cookie", line)
			}
			fmt.Fprintf(w, "%s saw %q", name, r.Header["Cookie"])
		}
	}
	servers := []spec.Server{
		server("a", addressOf(origin(t, handler("a")))),
		server("b", addressOf(origin(t, handler("b")))),
		server("plain", addressOf(origin(t, handler("plain")))),
	}
	servers[2].Cookie = ""
	plain := []string{"", "SRV=b", "SRV=b~theirs", "SRV=nobody~theirs", "x=1; SRV=b~a~b; y=2", "SRV=~theirs", "SRV=b~", "SRV=theirs", "SRV=b|AAAAA", "SRV=b|"}
	dated := []string{"", "SRV=b"}
	for _, last := range []time.Duration{-2 * time.Minute, -20 * time.Minute, -3 * time.Hour, time.Hour, 30 * time.Hour, 0} {
		dated = append(dated, "SRV=b"+dateIn(last), "SRV=b"+dateIn(last)+dateIn(-10*time.Minute), "SRV=b"+dateIn(-2*time.Minute)+dateIn(last), "SRV=nobody"+dateIn(last))
	}
	dated = append(dated, "SRV=b|AAA", "SRV=b|!!!!!", "SRV=b|AAAAA|AAAAA", "SRV=b||"+dateIn(0)[1:])
	for _, test := range []struct {
		cookie spec.Cookie
		sent   []string
	}{
		{spec.Cookie{Mode: spec.CookiePrefix}, plain},
		{spec.Cookie{Mode: spec.CookieRewrite}, plain},
		{spec.Cookie{Mode: spec.CookiePassive}, plain},
		{spec.Cookie{Mode: spec.CookiePassive, Indirect: true}, plain},
		{spec.Cookie{Preserve: true}, plain},
		{spec.Cookie{PostOnly: true, Indirect: true}, plain},
		{spec.Cookie{Domain: "; domain=.example.org; domain=example.com", Attributes: "; SameSite=Lax; Priority=High", HTTPOnly: true, Secure: true}, plain[:2]},
		{spec.Cookie{MaxIdle: 10 * time.Minute}, dated},
		{spec.Cookie{MaxLife: time.Hour}, dated},
		{spec.Cookie{MaxIdle: 15 * time.Minute, MaxLife: time.Hour, Indirect: true}, dated},
		{spec.Cookie{}, dated},
	} {
		test.cookie.Name = "SRV"
		t.Run(fmt.Sprintf("%+v", test.cookie), func(t *testing.T) {
			t.Parallel()
			b := backend("web", servers...)
			b.Cookie = test.cookie
			theirs, ours := haproxy(t, b), newWorld(t, open, b).address()
			for _, path := range []string{"/", "/sets", "/plain", "/empty", "/spaces", "/own", "/twice"} {
				for _, method := range []string{"GET", "POST"} {
					for _, sent := range test.sent {
						if len(test.sent) > len(plain) && (path != "/" || method == "POST") {
							continue
						}
						want, wantBody := ask(t, theirs, method, path, sent)
						got, gotBody := ask(t, ours, method, path, sent)
						if a, b := undated(got.Header["Set-Cookie"]), undated(want.Header["Set-Cookie"]); fmt.Sprint(a) != fmt.Sprint(b) {
							t.Errorf("%s %s with %q: Set-Cookie\nours    %q\nhaproxy %q", method, path, sent, a, b)
						}
						if gotBody != wantBody {
							t.Errorf("%s %s with %q:\nours    %s\nhaproxy %s", method, path, sent, gotBody, wantBody)
						}
					}
				}
			}
		})
	}
}

// testPersistLikeHAProxy: a cookie that names a server that is down.
func testPersistLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	for _, persist := range []bool{false, true} {
		t.Run(fmt.Sprint(persist), func(t *testing.T) {
			t.Parallel()
			b := backend("web", server("a", addressOf(origin(t, named("a")))), server("b", addressOf(origin(t, named("b")))))
			b.Cookie, b.Persist = spec.Cookie{Name: "SRV"}, persist
			w := newWorld(t, open, b)
			set := func(c pool.Change) {
				if _, err := w.pool.SetServer("web", "a", c, "test"); err != nil {
					t.Fatal(err)
				}
			}
			c := dial(t, w.address())
			set(pool.Change{Health: pool.Down})
			want := map[bool]string{false: "b", true: "a"}[persist]
			if r, body := c.get("/", "Cookie: SRV=a"); body != want || (r.Header.Get("Set-Cookie") != "") == persist {
				t.Errorf("down: %q, Set-Cookie %q, want %s", body, r.Header.Get("Set-Cookie"), want)
			}
			if _, body := c.get("/"); body != "b" {
				t.Errorf("without a cookie: %q, want b", body)
			}
			maint := spec.AdminMaint
			set(pool.Change{Admin: &maint})
			if _, body := c.get("/", "Cookie: SRV=a"); body != "b" {
				t.Errorf("in maintenance: %q, want b", body)
			}
			ready, drain := spec.AdminReady, spec.AdminDrain
			set(pool.Change{Admin: &ready, Health: pool.Up})
			set(pool.Change{Admin: &drain})
			if r, body := c.get("/", "Cookie: SRV=a"); body != "a" || r.Header.Get("Set-Cookie") != "" {
				t.Errorf("draining: %q, Set-Cookie %q, want a and none", body, r.Header.Get("Set-Cookie"))
			}
		})
	}
}

// testSealedCookies: only what a router has sealed is honoured, and keys can be changed.
func testSealedCookies(t *testing.T, open Open) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	write := func(keys ...string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(strings.Join(keys, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 32)
	write(one)
	b := backend("web", server("a", addressOf(origin(t, named("a")))), server("b", addressOf(origin(t, named("b")))))
	b.Cookie = spec.Cookie{Name: "SRV", KeyFile: file}
	other := b
	other.Name = "api"
	other.Servers = []spec.Server{b.Servers[1], b.Servers[0]}
	w := newWorld(t, open, b, other)
	second := newWorld(t, open, other, b) // another router with the same keys
	cookieOf := func(r *http.Response) string {
		cookie, _, _ := strings.Cut(r.Header.Get("Set-Cookie"), ";")
		return cookie
	}
	ask := func(w *world, cookie string) (server, fresh string) {
		t.Helper()
		r, body := dial(t, w.address()).get("/", "Cookie: "+cookie)
		return body, cookieOf(r)
	}
	server, sealed := ask(w, "x=1")
	if want := "SRV=" + server + "."; !strings.HasPrefix(sealed, want) || len(sealed) != len(want)+22 {
		t.Fatalf("the cookie is %q", sealed)
	}
	for range 3 {
		for _, w := range []*world{w, second} {
			if got, fresh := ask(w, sealed); got != server || fresh != "" {
				t.Errorf("a sealed cookie: server %s and cookie %q, want %s and none", got, fresh, server)
			}
		}
	}
	forged := "SRV=" + map[string]string{"a": "b", "b": "a"}[server] + sealed[len("SRV=a"):]
	for _, bad := range []string{"SRV=" + server, forged, sealed[:len(sealed)-1], "SRV=" + strings.Repeat("x", 4000)} {
		if _, fresh := ask(w, bad); fresh == "" {
			t.Errorf("%.60q is honoured", bad)
		}
	}
	write(two, one)
	until(t, "new cookies are sealed with the new key", func() bool {
		_, fresh := ask(w, "x=1")
		return fresh != "" && fresh != sealed && fresh[:5] == sealed[:5]
	})
	if got, fresh := ask(w, sealed); got != server || fresh != "" {
		t.Errorf("sealed with the old key: server %s and cookie %q", got, fresh)
	}
	write(two)
	until(t, "the old key does not count any more", func() bool { _, fresh := ask(w, sealed); return fresh != "" })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	third := newWorld(t, open, b)
	if _, fresh := ask(third, sealed); fresh != "" {
		t.Errorf("without keys: cookie %q, want none", fresh)
	}
}
