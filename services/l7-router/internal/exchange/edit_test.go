package exchange

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// ruled is a frontend with these rules before its own.
func ruled(t testing.TB, rules ...spec.Rule) *Frontend {
	t.Helper()
	f := frontend(t, spec.Cookie{Name: "w", Indirect: true})
	f.Spec.Rules = append(rules, f.Spec.Rules...)
	return f
}

func edit(e spec.Edit) spec.Rule { return spec.Rule{Edit: &e} }

func TestEditedRequest(t *testing.T) {
	t.Parallel()
	fields := func(f spec.Fields) spec.Rule { return edit(spec.Edit{Request: f}) }
	path := func(p spec.PathEdit) spec.Rule { return edit(spec.Edit{Path: p}) }
	set := func(name, value string) spec.Rule {
		return fields(spec.Fields{Set: []spec.Header{{Name: name, Value: value}}})
	}
	thread := spec.PathEdit{Regex: spec.Regex{Regexp: regexp.MustCompile(`^/thread-([0-9]+)\.html$`)}, Replacement: "/thread/${1}"}
	const forwarded = "\nX-Forwarded-For: 10.10.60.1"
	tests := []struct {
		name     string
		rules    []spec.Rule
		in, want string
	}{
		{"set in place of all", []spec.Rule{set("X-A", "1")}, "GET / HTTP/1.1\nHost: x\nx-a: 2\nX-B: 3\nX-A: 4", "GET / HTTP/1.1\nHost: x\nX-B: 3\nX-A: 1" + forwarded},
		{"set where there is none", []spec.Rule{set("X-A", "1")}, "GET / HTTP/1.1\nHost: x", "GET / HTTP/1.1\nHost: x\nX-A: 1" + forwarded},
		{"add", []spec.Rule{fields(spec.Fields{Add: []spec.Header{{Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}}})}, "GET / HTTP/1.1\nHost: x\nX-A: 0", "GET / HTTP/1.1\nHost: x\nX-A: 0\nX-A: 1\nX-A: 2" + forwarded},
		{"remove", []spec.Rule{fields(spec.Fields{Remove: []string{"X-A"}})}, "GET / HTTP/1.1\nHost: x\nX-A: 1\nx-A: 2\nX-AB: 3", "GET / HTTP/1.1\nHost: x\nX-AB: 3" + forwarded},
		{"in turn: set, set", []spec.Rule{set("X-A", "1"), set("x-a", "2")}, "GET / HTTP/1.1\nHost: x", "GET / HTTP/1.1\nHost: x\nx-a: 2" + forwarded},
		{"in turn: add, remove, add", []spec.Rule{
			fields(spec.Fields{Add: []spec.Header{{Name: "X-A", Value: "1"}}}), fields(spec.Fields{Remove: []string{"X-A"}}),
			fields(spec.Fields{Add: []spec.Header{{Name: "X-A", Value: "3"}}}),
		}, "GET / HTTP/1.1\nHost: x\nX-A: 0", "GET / HTTP/1.1\nHost: x\nX-A: 3" + forwarded},
		{"in one: remove, set, add", []spec.Rule{fields(spec.Fields{
			Remove: []string{"X-A"}, Set: []spec.Header{{Name: "X-A", Value: "1"}}, Add: []spec.Header{{Name: "X-A", Value: "2"}},
		})}, "GET / HTTP/1.1\nHost: x\nX-A: 0", "GET / HTTP/1.1\nHost: x\nX-A: 1\nX-A: 2" + forwarded},
		{"only where the condition holds", []spec.Rule{{
			Condition: spec.Condition{PathPrefixes: []string{"/a"}}, Edit: &spec.Edit{Host: "a"},
		}}, "GET /b HTTP/1.1\nHost: x", "GET /b HTTP/1.1\nHost: x" + forwarded},
		{"a cookie that is taken away counts", []spec.Rule{fields(spec.Fields{Remove: []string{"Cookie"}})}, "GET / HTTP/1.1\nHost: x\nCookie: w=s2; a=1", "GET / HTTP/1.1\nHost: x" + forwarded},
		{"Host", []spec.Rule{edit(spec.Edit{Host: "app:8080"})}, "GET /a?b HTTP/1.1\nAccept: *\nHost: x", "GET /a?b HTTP/1.1\nHost: app:8080\nAccept: *" + forwarded},
		{"Host of an absolute target", []spec.Rule{edit(spec.Edit{Host: "app"})}, "GET http://x/a?b HTTP/1.1\nHost: x", "GET /a?b HTTP/1.1\nHost: app" + forwarded},
		{"Host of HTTP/1.0", []spec.Rule{edit(spec.Edit{Host: "app"})}, "GET / HTTP/1.0", "GET / HTTP/1.1\nHost: app" + forwarded},
		{"path", []spec.Rule{path(spec.PathEdit{Set: "/x"})}, "GET /a/b?c=/d HTTP/1.1\nHost: x", "GET /x?c=/d HTTP/1.1\nHost: x" + forwarded},
		{"path of a bare host", []spec.Rule{path(spec.PathEdit{Prefix: "/", Replacement: "/x/"})}, "GET http://x HTTP/1.1\nHost: x", "GET /x/ HTTP/1.1\nHost: x" + forwarded},
		{"no path", []spec.Rule{path(spec.PathEdit{Set: "/x"})}, "OPTIONS * HTTP/1.1\nHost: x", "OPTIONS * HTTP/1.1\nHost: x" + forwarded},
		{"prefix", []spec.Rule{path(spec.PathEdit{Prefix: "/app/", Replacement: "/"})}, "GET /app/a HTTP/1.1\nHost: x", "GET /a HTTP/1.1\nHost: x" + forwarded},
		{"another prefix", []spec.Rule{path(spec.PathEdit{Prefix: "/app/", Replacement: "/"})}, "GET http://x/ap HTTP/1.1\nHost: x", "GET /ap HTTP/1.1\nHost: x" + forwarded},
		{"no host comes out", []spec.Rule{path(spec.PathEdit{Prefix: "/app", Replacement: "/"})}, "GET /app//evil.example/ HTTP/1.1\nHost: x", "GET /evil.example/ HTTP/1.1\nHost: x" + forwarded},
		{"regex", []spec.Rule{path(thread)}, "GET /thread-17.html? HTTP/1.1\nHost: x", "GET /thread/17? HTTP/1.1\nHost: x" + forwarded},
		{"regex that does not fit", []spec.Rule{path(thread)}, "GET /thread-x.html HTTP/1.1\nHost: x", "GET /thread-x.html HTTP/1.1\nHost: x" + forwarded},
		{"paths in turn", []spec.Rule{path(thread), path(spec.PathEdit{Prefix: "/thread/", Replacement: "/t/"}), path(spec.PathEdit{Prefix: "/t", Replacement: "/u"})},
			"GET /thread-17.html HTTP/1.1\nHost: x", "GET /u/17 HTTP/1.1\nHost: x" + forwarded},
	}
	for _, test := range tests {
		var r Request
		for range 2 { // the second uses what the first has left
			r.Begin(ruled(t, test.rules...), parse(t, http1.Request, test.in), &client)
			if want := crlf(test.want); string(r.Head) != want {
				t.Errorf("%s: got\n%s\nwant\n%s", test.name, r.Head, want)
			}
		}
		if strings.Contains(test.in, "w=s2") && r.Next().Spec.Name != "s2" {
			t.Errorf("%s: not the server of the cookie", test.name)
		}
	}
}

func TestEditedResponse(t *testing.T) {
	t.Parallel()
	f := ruled(t,
		edit(spec.Edit{Response: spec.Fields{Remove: []string{"Server", "Set-Cookie"}, Set: []spec.Header{{Name: "X-A", Value: "1"}}, Add: []spec.Header{{Name: "X-B", Value: "2"}}}}),
		spec.Rule{Condition: spec.Condition{Methods: []string{"POST"}}, Edit: &spec.Edit{Response: spec.Fields{Remove: []string{"X-B"}}}},
	)
	const response = "HTTP/1.1 200 OK\nServer: nginx\nX-A: 0\nX-B: 0\nSet-Cookie: a=1\nContent-Length: 0"
	for method, want := range map[string]string{
		"GET":  "HTTP/1.1 200 OK\nX-B: 0\nContent-Length: 0\nX-A: 1\nX-B: 2\nSet-Cookie: w=s1; path=/",
		"POST": "HTTP/1.1 200 OK\nContent-Length: 0\nX-A: 1\nSet-Cookie: w=s2; path=/",
	} {
		var r Request
		r.Begin(f, parse(t, http1.Request, method+" / HTTP/1.1\nHost: x\nContent-Length: 0"), &client)
		r.Next()
		got, _, err := r.Reply(nil, parse(t, http1.Response, response), false)
		if string(got) != crlf(want) || err != nil {
			t.Errorf("%s: got\n%s\nwant\n%s %v", method, got, want, err)
		}
	}
}

func TestRuleAnswers(t *testing.T) {
	t.Parallel()
	redirect := func(to spec.Redirect) spec.Rule { return spec.Rule{Redirect: &to} }
	tests := []struct {
		name   string
		rule   spec.Rule
		in     string
		status int
		to     string
		fields int
	}{
		{"location", redirect(spec.Redirect{Location: "https://a/b?c", Code: 301}), "GET /x?y HTTP/1.1\nHost: x", 301, "https://a/b?c", 0},
		{"prefix", redirect(spec.Redirect{Prefix: "https://a", Code: 302}), "GET /x?y HTTP/1.1\nHost: x", 302, "https://a/x?y", 1},
		{"prefix without query", redirect(spec.Redirect{Prefix: "https://a", Code: 303, DropQuery: true}), "GET /x?y HTTP/1.1\nHost: x", 303, "https://a/x", 1},
		{"scheme", redirect(spec.Redirect{Scheme: "https", Code: 308}), "POST /x?y HTTP/1.1\nHost: x:8\nContent-Length: 1", 308, "https://x:8/x?y", 0},
		{"scheme, absolute target", redirect(spec.Redirect{Scheme: "https", Code: 307}), "GET http://x?y HTTP/1.1\nHost: x", 307, "https://x/?y", 1},
		{"scheme, no path", redirect(spec.Redirect{Scheme: "https", Code: 307}), "OPTIONS * HTTP/1.1\nHost: x", 307, "https://x/", 1},
		{"scheme, HTTP/1.0", redirect(spec.Redirect{Scheme: "https", Code: 302}), "GET /x HTTP/1.0", 302, "https://10.10.60.22:80/x", 1},
		{"deny", spec.Rule{Deny: &spec.Deny{Status: 429}}, "GET / HTTP/1.1\nHost: x", 429, "", 2},
		{"tarpit", spec.Rule{Deny: &spec.Deny{Status: 500, Hold: time.Minute}}, "GET / HTTP/1.1\nHost: x", 500, "", 2},
	}
	for _, test := range tests {
		var r Request
		r.Begin(ruled(t, test.rule), parse(t, http1.Request, test.in), &client)
		a := r.Answer
		if a == nil || r.Backend != nil || len(r.Head) > 0 {
			t.Errorf("%s: no answer", test.name)
			continue
		}
		if a.Status != test.status || string(a.Location) != test.to || len(a.Fields) != test.fields || a.Hold > 0 != strings.HasPrefix(test.name, "tarpit") {
			t.Errorf("%s: got %+v, want %d %q", test.name, a, test.status, test.to)
		}
		r.Begin(frontend(t, spec.Cookie{}), parse(t, http1.Request, test.in), &client)
		if r.Answer != nil || r.Backend == nil {
			t.Errorf("%s: the next request gets %v", test.name, r.Answer)
		}
	}
}

func TestRulesAllocateNothing(t *testing.T) {
	f := ruled(t,
		edit(spec.Edit{
			Request: spec.Fields{Remove: []string{"X-A"}, Set: []spec.Header{{Name: "X-B", Value: "2"}}},
			Host:    "app", Path: spec.PathEdit{Prefix: "/a/", Replacement: "/"},
		}),
		spec.Rule{Condition: spec.Condition{Methods: []string{"PUT"}}, Redirect: &spec.Redirect{Scheme: "https", Code: 301}},
	)
	for _, in := range []string{"GET /a/b?c HTTP/1.1\nHost: x\nX-A: 1\nAccept: */*", "PUT /a/b?c HTTP/1.1\nHost: x\nContent-Length: 0"} {
		h, r, out := parse(t, http1.Request, in), Request{}, make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(100, func() {
			r.Begin(f, h, &client)
			if r.Answer != nil {
				out = r.Answer.Append(out[:0], false, true)
			}
		}); n != 0 {
			t.Errorf("%.20q: %v allocations, want none", in, n)
		}
	}
}

// TestDenialsAreCounted: what a rule refuses is a denial, whatever the status; what no server could take is none.
func TestDenialsAreCounted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		rule   spec.Rule
		denied uint64
		cause  stats.Cause
	}{
		{"403", spec.Rule{Deny: &spec.Deny{Status: 403}}, 1, stats.CauseProxy},
		{"503", spec.Rule{Deny: &spec.Deny{Status: 503}}, 1, stats.CauseProxy},
		{"503, held", spec.Rule{Deny: &spec.Deny{Status: 503, Hold: time.Second}}, 1, stats.CauseProxy},
		{"a backend that is not there", spec.Rule{Backend: "missing"}, 0, stats.CauseServer},
	}
	for _, test := range tests {
		var r Request
		f := ruled(t, test.rule)
		f.Seen = stats.NewSet()
		r.Await(f, Who{}, 1)
		r.Begin(f, parse(t, http1.Request, "GET / HTTP/1.1\nHost: x"), &client)
		r.Refused(r.Answer.Status)
		if r.Record.Cause != test.cause {
			t.Errorf("%s: the cause is %c, want %c", test.name, r.Record.Cause, test.cause)
		}
		if v := f.Seen.Values(); v.Count(stats.DeniedRequests) != test.denied {
			t.Errorf("%s: %d denials, want %d", test.name, v.Count(stats.DeniedRequests), test.denied)
		}
	}
}
