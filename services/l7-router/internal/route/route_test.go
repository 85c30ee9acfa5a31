package route

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

const peer = "10.10.60.1"

// ask parses a head, whose lines end with "\n", and asks about it.
func ask(t testing.TB, lines string) *Request {
	t.Helper()
	h := new(http1.Head)
	h.Reset(http1.Request)
	if complete, err := h.Parse([]byte(strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n\r\n")); !complete || err != nil {
		t.Fatalf("%q: %t %v", lines, complete, err)
	}
	r := &Request{}
	r.Reset(h, peer, &spec.Forwarded{})
	return r
}

func regexes(all ...string) (out []spec.Regex) {
	for _, text := range all {
		out = append(out, spec.Regex{Regexp: regexp.MustCompile(text)})
	}
	return out
}

func TestDecide(t *testing.T) {
	t.Parallel()
	posts := spec.Condition{Methods: []string{"POST"}}
	tag, old := &spec.Edit{Host: "tag"}, &spec.Edit{Host: "old"}
	f := &spec.Frontend{
		DefaultBackend: "webservers",
		Rules: []spec.Rule{
			{Condition: spec.Condition{PathPrefixes: []string{"/private/"}}, Deny: &spec.Deny{Status: 403}},
			{Condition: posts, Edit: tag},
			{Condition: spec.Condition{Paths: []string{"/old"}}, Edit: old},
			{Condition: spec.Condition{Paths: []string{"/old"}, Methods: []string{"GET"}}, Redirect: &spec.Redirect{Location: "/new", Code: 302}},
			{Condition: spec.Condition{PathPrefixes: []string{"/static/", "/img/"}}, Backend: "static"},
			{Condition: spec.Condition{Methods: []string{"POST", "PUT"}, PathPrefixes: []string{"/api/"}}, Backend: "api"},
			{Condition: posts, Backend: "updataserver"},
			{Condition: spec.Condition{PathPrefixes: []string{"/static/late"}}, Backend: "never"},
		},
	}
	tests := []struct{ method, path, want string }{
		{"GET", "/", "webservers"},
		{"POST", "/", "tag updataserver"},
		{"post", "/", "webservers"},
		{"POST", "/static/a", "tag static"},
		{"GET", "/img/", "static"},
		{"GET", "/img", "webservers"},
		{"GET", "/static/late", "static"},
		{"PUT", "/api/x", "api"},
		{"PUT", "/", "webservers"},
		{"GET", "/api/x", "webservers"},
		{"GET", "/STATIC/", "webservers"},
		{"GET", "/%73tatic/", "webservers"}, // as sent, but for what denies
		{"OPTIONS", "*", "webservers"},
		{"GET", "http://x", "webservers"},
		{"GET", "/old", "old redirect"},
		{"POST", "/old", "tag old updataserver"},
		{"GET", "/private/x", "deny"},
		{"GET", "/%70rivate/x", "deny"},
		{"GET", "/private%2fx", "deny"},
		{"GET", "//private/x", "deny"},
		{"GET", "/a/../private/x", "deny"},
		{"GET", "/a/%2e%2e/private/x", "deny"},
		{"GET", "/a//../../private/x", "deny"},
		{"GET", `/a/..\private\x`, "deny"},
		{"GET", "/private/../x", "deny"}, // who knows how the server reads it
		{"GET", "/privately", "webservers"},
	}
	for _, test := range tests {
		var d Decision
		d.Decide(f, ask(t, test.method+" "+test.path+" HTTP/1.1\nHost: x"), nil)
		var words []string
		for _, e := range d.Edits {
			words = append(words, e.Host)
		}
		switch {
		case d.Deny != nil:
			words = append(words, "deny")
		case d.Redirect != nil:
			words = append(words, "redirect")
		default:
			words = append(words, d.Backend)
		}
		if got := strings.Join(words, " "); got != test.want {
			t.Errorf("%s %s: got %s, want %s", test.method, test.path, got, test.want)
		}
	}
	var d Decision
	d.Decide(&spec.Frontend{}, ask(t, "GET / HTTP/1.1\nHost: x"), nil)
	if d.Backend != "" || d.Rule != NoRule {
		t.Errorf("no rule and no default: got %+v, want none", d)
	}
}

// What is to be refused everywhere but below a path stays refused in every spelling.
func TestDenyAllBut(t *testing.T) {
	t.Parallel()
	public := spec.Condition{PathPrefixes: []string{"/public/"}}
	f := &spec.Frontend{DefaultBackend: "web", Rules: []spec.Rule{{Condition: spec.Condition{Not: &public}, Deny: &spec.Deny{Status: 403}}}}
	for path, want := range map[string]bool{
		"/public/a": false, "/public/%61": false, "/public//a": false, "/a": true, "/public/../a": true, "/public/%2e%2e/a": true,
		"/public/..%2fa": true, `/public/..\a`: true, "/public/x/../a": false, "/public/%2e%2e%2fpublic/a": false,
	} {
		var d Decision
		d.Decide(f, ask(t, "GET "+path+" HTTP/1.1\nHost: x"), nil)
		if got := d.Deny != nil; got != want {
			t.Errorf("%s: denied %t, want %t", path, got, want)
		}
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	network := netip.MustParsePrefix
	header := func(m spec.TextMatch) spec.Condition { return spec.Condition{Headers: []spec.TextMatch{m}} }
	cookie := func(m spec.TextMatch) spec.Condition { return spec.Condition{Cookies: []spec.TextMatch{m}} }
	query := func(form spec.PathForm, m spec.TextMatch) spec.Condition {
		return spec.Condition{PathForm: form, Queries: []spec.TextMatch{m}}
	}
	get, post := spec.Condition{Methods: []string{"GET"}}, spec.Condition{Methods: []string{"POST"}}
	tests := []struct {
		name string
		c    spec.Condition
		yes  []string // after "GET ", with a Host of its own where there is none
		no   []string
	}{
		{"nothing", spec.Condition{}, []string{"/"}, nil},
		{"exact path", spec.Condition{Paths: []string{"/a", "/b"}}, []string{"/a", "/b?x", "http://x/a"}, []string{"/", "/a/", "/A", "/%61", "/?/a"}},
		{"the path of a bare host", spec.Condition{Paths: []string{"/"}}, []string{"/", "http://x", "http://x?a"}, []string{"/a"}},
		{"suffix", spec.Condition{PathSuffixes: []string{".png", ".css"}}, []string{"/a.png", "/.css?v=1"}, []string{"/png", "/a.png/", "/a?b.png", "/a.PNG"}},
		{"regex", spec.Condition{PathRegexes: regexes(`^/thread-[0-9]+\.html$`, `/x{2}`)}, []string{"/thread-12.html", "/a/xxx"}, []string{"/thread-.html", "/a/thread-1.html"}},
		{"prefix and suffix", spec.Condition{PathPrefixes: []string{"/static/"}, PathSuffixes: []string{".js"}}, []string{"/static/a.js"}, []string{"/static/a", "/a.js"}},
		{"normalised", spec.Condition{PathForm: spec.PathNormalised, PathPrefixes: []string{"/a/"}}, []string{"/a/b", "/%61/b", "/x/../a/b"}, []string{"/a%2fb", "//a/b"}},
		{"decoded", spec.Condition{PathForm: spec.PathDecoded, PathPrefixes: []string{"/a/"}}, []string{"/a/b", "/%61/b", "/a%2fb", "//a/b", `/a\b`}, []string{"/%2561/b"}},
		{"form of one, not of those inside", spec.Condition{PathForm: spec.PathDecoded, All: []spec.Condition{{Paths: []string{"/%61"}}}}, []string{"/%61"}, []string{"/a"}},
		{"host", spec.Condition{Hosts: []string{"www.example.org", "[::1]"}},
			[]string{"/\nHost: www.example.org", "/\nHost: WWW.Example.org:80", "/\nHost: www.example.org.", "/\nHost: [::1]:80", "http://www.example.org:81/\nHost: www.example.org:81"},
			[]string{"/\nHost: example.org", "/\nHost: xwww.example.org", "/\nHost: www.example.org.net", "/\nHost: [::2]"}},
		{"hosts below", spec.Condition{Hosts: []string{"*.example.org"}},
			[]string{"/\nHost: a.example.org", "/\nHost: a.b.EXAMPLE.org:1"}, []string{"/\nHost: example.org", "/\nHost: aexample.org", "/\nHost: .example.org", "/\nHost: a.example.org.evil"}},
		{"header there", header(spec.TextMatch{Name: "X-A"}), []string{"/\nx-a: 1", "/\nX-A:"}, []string{"/", "/\nX-AB: 1"}},
		{"header exact", header(spec.TextMatch{Name: "X-A", Exact: []string{"a, b", "c"}}), []string{"/\nX-A: c", "/\nX-A: z\nX-A: a, b"}, []string{"/\nX-A: a", "/\nX-A: C", "/"}},
		{"members", header(spec.TextMatch{Name: "X-A", Exact: []string{"a", ""}, Members: true}),
			[]string{"/\nX-A: b, a", "/\nX-A: a", "/\nX-A: b,,c", "/\nX-A:"}, []string{"/\nX-A: b", "/\nX-A: \"b,a\"", "/\nX-A: \"x\\\",a,b\", c"}},
		{"starts, ends, contains, fits", header(spec.TextMatch{Name: "UA", Prefixes: []string{"Mo"}, Suffixes: []string{"end"}, Contains: []string{"bot"}, Regexes: regexes(`\d\d`)}),
			[]string{"/\nUA: Mozilla", "/\nUA: the end", "/\nUA: robots", "/\nUA: a 17"}, []string{"/\nUA: mo", "/\nUA: ending", "/\nUA: BOT", "/\nUA: 1"}},
		{"in any case", header(spec.TextMatch{Name: "UA", Exact: []string{"x"}, Prefixes: []string{"mo"}, Suffixes: []string{"end"}, Contains: []string{"bot"}, IgnoreCase: true}),
			[]string{"/\nUA: MOzilla", "/\nUA: the END", "/\nUA: ROBOTS", "/\nUA: X"}, []string{"/\nUA: xx", "/\nUA: m"}},
		{"cookie", cookie(spec.TextMatch{Name: "a", Exact: []string{"1"}}), []string{"/\nCookie: a=1", "/\nCookie: b=2; a=1", "/\nCookie: b=2\nCookie: a=1"}, []string{"/", "/\nCookie: A=1", "/\nCookie: aa=1", "/\nCookie: b=a=1"}},
		{"cookie there", cookie(spec.TextMatch{Name: "a"}), []string{"/\nCookie: a", "/\nCookie: a="}, []string{"/\nCookie: b=a"}},
		{"query", query(spec.PathAny, spec.TextMatch{Name: "a", Exact: []string{"1", "x y"}}), []string{"/?a=1", "/?b&a=1", "/?b;a=1", "/?a=2&a=1"}, []string{"/", "/?", "/?%61=1", "/?a=x+y", "/?b=a=1"}},
		{"query decoded", query(spec.PathDecoded, spec.TextMatch{Name: "a", Exact: []string{"x y", "&"}}), []string{"/?a=x+y", "/?%61=x%20y", "/?a=%26"}, []string{"/?a=x", "/?a=&"}},
		{"query there", query(spec.PathAny, spec.TextMatch{Name: "a"}), []string{"/?a", "/?a="}, []string{"/?b"}},
		{"source", spec.Condition{Sources: []netip.Prefix{network("10.10.0.0/16")}}, []string{"/"}, nil},
		{"another source", spec.Condition{Sources: []netip.Prefix{network("10.11.0.0/16"), network("::/0")}}, nil, []string{"/"}},
		{"all", spec.Condition{All: []spec.Condition{get, {Paths: []string{"/a"}}}}, []string{"/a"}, []string{"/"}},
		{"any", spec.Condition{Any: []spec.Condition{post, {Paths: []string{"/a"}}}}, []string{"/a"}, []string{"/"}},
		{"not", spec.Condition{Not: &post}, []string{"/"}, nil},
		{"not not", spec.Condition{Not: &spec.Condition{Not: &post}}, nil, []string{"/"}},
	}
	for _, test := range tests {
		for want, heads := range map[bool][]string{true: test.yes, false: test.no} {
			for _, head := range heads {
				target, fields, _ := strings.Cut(head, "\n")
				if !strings.Contains(fields, "Host:") {
					fields = "Host: x\n" + fields
				}
				r := ask(t, strings.TrimSuffix("GET "+target+" HTTP/1.1\n"+fields, "\n"))
				if got := r.condition(&test.c, spec.PathSent); got != want {
					t.Errorf("%s: %q: got %t, want %t (missing %q)", test.name, head, got, want, r.missing)
				}
			}
		}
	}
}

func TestTrace(t *testing.T) {
	t.Parallel()
	f := &spec.Frontend{DefaultBackend: "d", Rules: []spec.Rule{
		{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "a"},
		{Condition: spec.Condition{All: []spec.Condition{{Hosts: []string{"a"}}}}, Backend: "b"},
		{Edit: &spec.Edit{Host: "x"}},
		{Condition: spec.Condition{Paths: []string{"/"}}, Backend: "c"},
		{Backend: "never"},
	}}
	var got []string
	var d Decision
	d.Decide(f, ask(t, "GET / HTTP/1.1\nHost: x"), func(rule int, holds bool, missing string) {
		if holds {
			missing = ""
		}
		got = append(got, fmt.Sprintf("%d %t %s", rule, holds, missing))
	})
	if want := []string{"0 false methods", "1 false hosts", "2 true ", "3 true "}; !reflect.DeepEqual(got, want) || d.Rule != 3 {
		t.Errorf("got %q, rule %d, want %q, rule 3", got, d.Rule, want)
	}
}

// everything is a frontend with every sort of condition, none of which holds before the last.
func everything() *spec.Frontend {
	return &spec.Frontend{DefaultBackend: "web", Rules: []spec.Rule{
		{Condition: spec.Condition{PathPrefixes: []string{"/admin/"}, Sources: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}, Deny: &spec.Deny{Status: 403}},
		{Condition: spec.Condition{PathForm: spec.PathNormalised, PathSuffixes: []string{".png", ".css", ".js"}}, Backend: "static"},
		{Condition: spec.Condition{PathRegexes: regexes(`^/thread-[0-9]+-[0-9]+\.html$`)}, Backend: "threads"},
		{Condition: spec.Condition{Hosts: []string{"*.example.net", "example.net"}}, Backend: "net"},
		{Condition: spec.Condition{Headers: []spec.TextMatch{{Name: "User-Agent", Contains: []string{"bot"}, IgnoreCase: true}}}, Backend: "bots"},
		{Condition: spec.Condition{Cookies: []spec.TextMatch{{Name: "beta", Exact: []string{"1"}}}}, Backend: "beta"},
		{Condition: spec.Condition{Queries: []spec.TextMatch{{Name: "debug"}}, PathForm: spec.PathDecoded}, Backend: "debug"},
		{Condition: spec.Condition{Any: []spec.Condition{{Methods: []string{"POST"}}, {Not: &spec.Condition{Methods: []string{"GET"}}}}}, Backend: "posts"},
		{Edit: &spec.Edit{Host: "app"}},
		{Condition: spec.Condition{Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, Backend: "inside"},
	}}
}

const common = "GET /forum.php?mod=view%20thread&tid=1 HTTP/1.1\nHost: www.example.org\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\n" +
	"Accept: text/html,application/xhtml+xml\nAccept-Language: en\nCookie: sid=abcdef; theme=dark"

func TestAllocatesNothing(t *testing.T) {
	for _, head := range []string{common, strings.Replace(common, "/forum.php", "/%66orum//x/../y", 1)} {
		f, r := everything(), ask(t, head)
		var d Decision
		if n := testing.AllocsPerRun(100, func() {
			r.Reset(r.head, peer, &f.Forwarded)
			d.Decide(f, r, nil)
		}); n != 0 || d.Backend != "inside" || len(d.Edits) != 1 {
			t.Errorf("%.30q: %v allocations, want none; %+v", head, n, d)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct {
		name string
		f    *spec.Frontend
	}{
		{"none", &spec.Frontend{DefaultBackend: "web"}},
		{"post", &spec.Frontend{DefaultBackend: "web", Rules: []spec.Rule{{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "up"}}}},
		{"ten", everything()},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := ask(b, common)
			var d Decision
			b.ReportAllocs()
			for b.Loop() {
				r.Reset(r.head, peer, &c.f.Forwarded)
				d.Decide(c.f, r, nil)
			}
		})
	}
}

// Whatever can be parsed can be asked about, and a rule that denies holds whenever it would if it did not deny.
func FuzzDecide(f *testing.F) {
	for _, seed := range []string{common, "GET /a/../admin/%2e%2e?debug=%zz&;= HTTP/1.1\nHost: [::1]:80\nCookie: ;=;beta", "OPTIONS * HTTP/1.1\nHost: a.example.net.", "GET http://x?a HTTP/1.1\nHost: x"} {
		f.Add(strings.ReplaceAll(seed, "\n", "\r\n")+"\r\n\r\n", "/admin/")
	}
	f.Fuzz(func(t *testing.T, head, prefix string) {
		h := new(http1.Head)
		h.Reset(http1.Request)
		if complete, err := h.Parse([]byte(head)); !complete || err != nil || prefix == "" {
			return
		}
		frontend := everything()
		frontend.Rules[0].Condition = spec.Condition{PathPrefixes: []string{prefix}}
		var r Request
		var denies, plain Decision
		r.Reset(h, peer, &spec.Forwarded{})
		denies.Decide(frontend, &r, nil)
		frontend.Rules[0].Deny, frontend.Rules[0].Backend = nil, "first"
		r.Reset(h, "no address", &frontend.Forwarded)
		plain.Decide(frontend, &r, nil)
		if plain.Rule == 0 && denies.Rule != 0 {
			t.Errorf("%q: holds, but does not deny", head)
		}
		normal := http1.AppendNormalisedPath(nil, h.Path())
		if string(http1.AppendNormalisedPath(nil, normal)) != string(normal) {
			t.Errorf("%q: not normal: %q", h.Path(), normal)
		}
	})
}
