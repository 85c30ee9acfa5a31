package proxytest

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// testRules: what rules say happens: denials, redirects and edits, and the connection goes on.
func testRules(t *testing.T, open Open) {
	t.Parallel()
	a := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "secret")
		_, _ = io.WriteString(w, r.Host+" "+r.URL.String()+" "+r.Header.Get("X-Proto"))
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(a))))
	w.want.Frontends[0].Rules = []spec.Rule{
		{Condition: spec.Condition{PathPrefixes: []string{"/private/"}}, Deny: &spec.Deny{Status: 404}},
		{Condition: spec.Condition{PathPrefixes: []string{"/old/"}}, Redirect: &spec.Redirect{Prefix: "/new", Code: 301}},
		{Condition: spec.Condition{PathPrefixes: []string{"/app/"}}, Edit: &spec.Edit{
			Host: "app", Path: spec.PathEdit{Prefix: "/app/", Replacement: "/"},
			Request:  spec.Fields{Set: []spec.Header{{Name: "X-Proto", Value: "http"}}},
			Response: spec.Fields{Remove: []string{"Server"}, Add: []spec.Header{{Name: "X-Frame-Options", Value: "DENY"}}},
		}},
	}
	w.apply()
	c := dial(t, w.address())
	for range 2 { // on one connection
		if r, body := c.get("/private/x"); r.StatusCode != 404 || r.Close || !strings.Contains(body, "404 Not Found") {
			t.Errorf("deny: %d %q", r.StatusCode, body)
		}
		if r, body := c.get("/old/a?b"); r.StatusCode != 301 || r.Close || r.Header.Get("Location") != "/new/old/a?b" || body != "" {
			t.Errorf("redirect: %d %q %q", r.StatusCode, r.Header, body)
		}
		c.send("HEAD /old/ HTTP/1.1\r\nHost: x\r\n\r\nHEAD /private/ HTTP/1.1\r\nHost: x\r\n\r\n")
		if r, _ := c.response("HEAD"); r.StatusCode != 301 {
			t.Errorf("redirect of HEAD: %d", r.StatusCode)
		}
		if r, _ := c.response("HEAD"); r.StatusCode != 404 || r.ContentLength <= 0 {
			t.Errorf("denial of HEAD: %d, Content-Length %d", r.StatusCode, r.ContentLength)
		}
		c.send("POST /old/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
		if r, _ := c.response("POST"); r.StatusCode != 301 || r.Close {
			t.Errorf("redirect of POST: %d", r.StatusCode)
		}
		r, body := c.get("/app/a?b", "X-Proto: forged")
		if body != "app /a?b http" || r.Header.Get("Server") != "" || r.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("edited: %q %q", body, r.Header)
		}
		if r, body := c.get("/a", "X-Proto: own"); body != "example.org /a own" || r.Header.Get("Server") != "secret" {
			t.Errorf("not edited: %q %q", body, r.Header)
		}
	}
}

// testTarpit: a client that is held gets its answer when the time is up or the router stops, and frees its place when it
// goes away itself.
func testTarpit(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, named("a"))))))
	w.want.Frontends[0].MaxConn = 1
	w.want.Frontends[0].Rules = []spec.Rule{
		{Condition: spec.Condition{Paths: []string{"/soon"}}, Deny: &spec.Deny{Status: 500, Hold: 20 * time.Millisecond}},
		{Condition: spec.Condition{Paths: []string{"/late"}}, Deny: &spec.Deny{Status: 429, Hold: time.Hour}},
	}
	w.apply()
	c := dial(t, w.address())
	c.send("GET /soon HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, _ := c.response("GET"); r.StatusCode != 500 || !r.Close {
		t.Errorf("after its time: %d close %t", r.StatusCode, r.Close)
	}
	c.expectClosed()
	_ = c.Close()

	gone := dial(t, w.address())
	gone.send("GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = gone.Close()
	next := dial(t, w.address())                                                         // there is room for one
	next.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nHEAD /late HTTP/1.1\r\nHost: x\r\n\r\n") // the router has both
	if r, body := next.response("GET"); r.StatusCode != 200 || body != "a" {
		t.Errorf("after the one that was held: %d %q", r.StatusCode, body)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	if r, _ := next.response("HEAD"); r.StatusCode != 429 || !r.Close {
		t.Errorf("when the router stops: %d close %t", r.StatusCode, r.Close)
	}
	next.expectClosed()
	_ = next.Close()
	<-stopped
}

// testRulesOverHTTP2: rules hold for HTTP/2 as for HTTP/1.1.
func testRulesOverHTTP2(t *testing.T, open Open) {
	t.Parallel()
	a := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host+" "+r.URL.String()+" "+r.Header.Get("X-Forwarded-For")+" "+r.Header.Get("X-Forwarded-Proto"))
	})
	w := newWorld2(t, open, backend("web", server("a", addressOf(a))))
	w.want.Frontends[0].Forwarded = spec.Forwarded{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Proto: true}
	w.want.Frontends[0].Rules = []spec.Rule{
		{Condition: spec.Condition{PathPrefixes: []string{"/private/"}}, Deny: &spec.Deny{Status: 403}},
		{Condition: spec.Condition{PathPrefixes: []string{"/slow/"}}, Deny: &spec.Deny{Status: 500, Hold: 20 * time.Millisecond}},
		{Condition: spec.Condition{PathPrefixes: []string{"/old/"}}, Redirect: &spec.Redirect{Prefix: "https://new.example", Code: 308}},
		{Condition: spec.Condition{Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, Edit: &spec.Edit{Host: "inner", Path: spec.PathEdit{Prefix: "/app/", Replacement: "/"}}},
	}
	w.apply()
	c := client2(t)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for range 2 {
		for path, want := range map[string]int{"/private/x": 403, "/a/%2e%2e/private/": 403, "/slow/": 500, "/old/x?y": 308} {
			r, body, err := ask2(c, "GET", "http://"+w.address()+path, nil)
			if err != nil || r.StatusCode != want || want == 308 && r.Header.Get("Location") != "https://new.example/old/x?y" {
				t.Errorf("%s: %v %v %q", path, r, err, body)
			}
		}
		if _, body, err := ask2(c, "GET", "http://"+w.address()+"/app/x?y", nil, "X-Forwarded-For: 192.0.2.7"); err != nil || body != "inner /x?y 192.0.2.7, 127.0.0.1 http" {
			t.Errorf("edited: %q %v", body, err)
		}
		if r, _, err := ask2(c, "POST", "http://"+w.address()+"/private/", strings.NewReader(strings.Repeat("x", 100000))); err != nil || r.StatusCode != 403 {
			t.Errorf("a body that nobody wants: %v %v", r, err)
		}
	}
}
