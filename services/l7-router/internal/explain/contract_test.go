package explain_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/epoll"
	"github.com/twotier/twotier/services/l7-router/internal/explain"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// patience bounds every wait of these tests; reaching it is a failure.
const patience = 20 * time.Second

// origin answers each request with its name and the head that it has got.
func origin(t testing.TB, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					_ = c.SetDeadline(time.Now().Add(patience))
					var head strings.Builder
					for !strings.HasSuffix(head.String(), "\r\n\r\n") {
						line, err := in.ReadString('\n')
						if err != nil {
							return
						}
						head.WriteString(line)
					}
					if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Served-By: %s\r\nContent-Length: %d\r\n\r\n%s", name, head.Len(), head.String()); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// router is a router over one driver.
type router struct {
	*engine.Engine
	pool *pool.Pool
}

func open(t testing.TB, driver engine.Driver) *router {
	t.Helper()
	log := zap.NewNop()
	p := pool.New(log)
	r := &router{engine.New(engine.Config{Pool: p, Cleartext: driver, Full: driver, Log: log}), p}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = p.Run(ctx) })
	group.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return r
}

func (r *router) apply(t testing.TB, want spec.State) {
	t.Helper()
	for _, change := range plan.Diff(want, r.Observe()) {
		if err := r.Do(context.Background(), change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
	}
}

// quiet waits until no request is under way, and prints what is counted of the servers.
func (r *router) quiet(t testing.TB) string {
	t.Helper()
	for begin, tick := time.Now(), time.NewTicker(100*time.Microsecond); ; <-tick.C {
		var b strings.Builder
		active := int64(0)
		for _, s := range r.pool.Servers() {
			active += s.Active
			fmt.Fprintf(&b, "%s/%s %s %d %d; ", s.Backend, s.Server.Name, s.Status, s.Weight, s.Total)
		}
		if active == 0 {
			tick.Stop()
			return b.String()
		}
		if time.Since(begin) > patience {
			t.Fatalf("%d requests do not end: %s", active, b.String())
		}
	}
}

// random makes desired states and requests.
type random struct {
	*rand.Rand
	origins []netip.AddrPort
}

func pick[T any](r *random, values ...T) T { return values[r.IntN(len(values))] }

func (r *random) one(n int) bool { return r.IntN(n) == 0 }

var (
	paths   = []string{"/", "/a", "/a/b.png", "/static/x.css", "/admin/", "/%61dmin/", "//admin/", "/old/1", "/thread-7.html", "http://a.example/a/b.png"}
	hosts   = []string{"a.example", "b.example", "B.EXAMPLE:81", "c.b.example"}
	clients = []string{"192.0.2.1", "192.0.2.77, 198.51.100.1", "unknown", "127.0.0.9"}
)

func (r *random) condition(depth int) spec.Condition {
	var c spec.Condition
	switch r.IntN(11) {
	case 0:
		c.Methods = []string{pick(r, "GET", "POST", "PUT")}
	case 1:
		c.PathPrefixes = []string{pick(r, "/a", "/static/", "/admin/", "/old")}
	case 2:
		c.PathSuffixes, c.PathForm = []string{".png", ".css"}, pick(r, spec.PathAny, spec.PathNormalised, spec.PathDecoded)
	case 3:
		c.PathRegexes = []spec.Regex{{Regexp: regexp.MustCompile(`^/thread-[0-9]+\.html$`)}}
	case 4:
		c.Hosts = []string{pick(r, "a.example", "*.b.example", "b.example")}
	case 5:
		c.Headers = []spec.TextMatch{{Name: "X-Kind", Exact: []string{"one", "two"}, IgnoreCase: true}}
	case 6:
		c.Cookies = []spec.TextMatch{{Name: "w", Prefixes: []string{"s"}}}
	case 7:
		c.Queries = []spec.TextMatch{{Name: "q"}}
	case 8:
		c.Sources = []netip.Prefix{pick(r, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24"))}
	case 9:
		if depth < 3 {
			inner := r.condition(depth + 1)
			c.Not = &inner
		}
	case 10:
		if depth < 3 {
			c.Any = []spec.Condition{r.condition(depth + 1), r.condition(depth + 1)}
		}
	}
	return c
}

func (r *random) state() spec.State {
	front := spec.Frontend{
		Name: "main", Bind: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, DefaultBackend: pick(r, "b0", "b1", "b2", ""),
		TimeoutClient: patience, TimeoutRequest: patience, TimeoutKeepAlive: patience, MaxConn: 1000,
	}
	if r.one(2) {
		front.Forwarded = spec.Forwarded{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, For: pick(r, spec.ForwardedAppend, spec.ForwardedReplace, spec.ForwardedOff), Proto: r.one(2), Standard: r.one(2)}
	}
	for range r.IntN(7) {
		rule := spec.Rule{Condition: r.condition(0)}
		switch r.IntN(8) {
		case 0:
			rule.Deny = &spec.Deny{Status: pick(r, 403, 404, 429)}
		case 1:
			rule.Redirect = &spec.Redirect{Prefix: "https://other.example", Code: pick(r, 301, 302, 308)}
		case 2, 3:
			rule.Edit = &spec.Edit{
				Request: spec.Fields{Remove: []string{"X-Kind"}, Set: []spec.Header{{Name: "X-Edited", Value: fmt.Sprint(r.IntN(3))}}},
				Host:    pick(r, "", "", "inner.example"), Path: pick(r, spec.PathEdit{}, spec.PathEdit{Prefix: "/a", Replacement: "/"}),
			}
		default:
			rule.Backend = pick(r, "b0", "b1", "b2")
		}
		front.Rules = append(front.Rules, rule)
	}
	state := spec.State{Frontends: []spec.Frontend{front}}
	for i := range 3 {
		b := spec.Backend{Name: fmt.Sprintf("b%d", i), TimeoutConnect: patience, TimeoutServer: patience}
		// Not PeakEWMA: what it expects of a server changes while time passes.
		b.Balance = spec.Balance{Algorithm: pick(r, spec.RoundRobin, spec.RoundRobin, spec.StaticRR, spec.LeastConn, spec.First, spec.Source, spec.URI, spec.ByHeader, spec.Random), Header: "X-Kind"}
		if r.one(2) {
			b.Cookie = spec.Cookie{Name: "w", Indirect: r.one(2)}
		}
		for n, at := range r.Perm(len(r.origins))[:r.IntN(len(r.origins)+1)] {
			s := spec.Server{Name: fmt.Sprintf("s%d", at), Address: r.origins[at], Weight: pick(r, 1, 1, 2, 5, 0), Backup: n > 0 && r.one(4)}
			s.Admin = pick(r, spec.AdminReady, spec.AdminReady, spec.AdminReady, spec.AdminDrain, spec.AdminMaint)
			if r.one(6) {
				s.MaxConn = 1
			}
			if b.Cookie.Name != "" {
				s.Cookie = s.Name
			}
			b.Servers = append(b.Servers, s)
		}
		state.Backends = append(state.Backends, b)
	}
	return state
}

func (r *random) question() *explain.Question {
	q := &explain.Question{Frontend: "main", Method: pick(r, "GET", "GET", "POST", "PUT", "HEAD"), Target: pick(r, paths...)}
	if r.one(3) {
		q.Target += pick(r, "?", "?q=1", "?p=2&q")
	}
	host := pick(r, hosts...)
	if strings.HasPrefix(q.Target, "http") {
		host = "a.example"
	}
	q.Fields = []explain.Field{{Name: "Host", Value: host}}
	if r.one(2) {
		q.Fields = append(q.Fields, explain.Field{Name: "Cookie", Value: fmt.Sprintf("x=1; w=s%d", r.IntN(6))})
	}
	if r.one(3) {
		q.Fields = append(q.Fields, explain.Field{Name: "X-Kind", Value: pick(r, "one", "TWO", "three")})
	}
	if r.one(2) {
		q.Fields = append(q.Fields, explain.Field{Name: "X-Forwarded-For", Value: pick(r, clients...)})
	}
	if q.Method != "GET" && q.Method != "HEAD" {
		q.Fields = append(q.Fields, explain.Field{Name: "Content-Length", Value: "0"})
	}
	return q
}

// send sends what is asked about, over a connection of its own.
func send(t testing.TB, address netip.AddrPort, q *explain.Question) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", q.Method, q.Target)
	for _, f := range q.Fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if _, err := io.WriteString(c, b.String()+"\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: q.Method})
	if err != nil {
		t.Fatalf("%q: %v", b.String(), err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// The contract of Explain: it names the answer that then comes, to the server and to the byte of the head that it gets, for
// 1,000 random requests over random desired states, through each driver.
func TestExplainForetells(t *testing.T) {
	t.Parallel()
	const states, requests = 50, 20
	drivers := map[string]func() (engine.Driver, error){
		"epoll":     func() (engine.Driver, error) { return epoll.Open(1, zap.NewNop()) },
		"goroutine": func() (engine.Driver, error) { return proxy.New(zap.NewNop()), nil },
	}
	for name, make := range drivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			driver, err := make()
			if err != nil {
				t.Fatal(err)
			}
			router := open(t, driver)
			random := &random{Rand: rand.New(rand.NewPCG(1, 2))}
			for i := range 5 {
				random.origins = append(random.origins, origin(t, fmt.Sprintf("s%d", i)))
			}
			seen := map[string]int{}
			for range states {
				state := random.state()
				router.apply(t, state)
				address := router.Bound()[0]
				for _, b := range state.Backends {
					for _, s := range b.Servers {
						if !random.one(5) {
							continue
						}
						if _, err := router.pool.SetServer(b.Name, s.Name, pool.Change{Health: pool.Down}, "test"); err != nil {
							t.Fatal(err)
						}
					}
				}
				for range requests {
					q := random.question()
					before := router.quiet(t)
					foretold, err := explain.Explain(router, router.pool, q)
					if err != nil {
						t.Fatal(err)
					}
					if again, _ := explain.Explain(router, router.pool, q); again.Reason != foretold.Reason || again.Server != foretold.Server {
						t.Fatalf("%+v: asked twice: %q %q", q, foretold.Reason, again.Reason)
					}
					if after := router.quiet(t); before != after {
						t.Fatalf("%+v: asking has changed the servers: %s, %s", q, before, after)
					}
					response, body := send(t, address, q)
					got := response.Header.Get("X-Served-By")
					want, status := "", 503
					switch {
					case foretold.Answer != nil:
						status = foretold.Answer.Status
						if location := response.Header.Get("Location"); location != string(foretold.Answer.Location) {
							t.Errorf("%+v: redirected to %q, foretold %q", q, location, foretold.Answer.Location)
						}
					case foretold.Server != nil:
						want, status = foretold.Server.Spec.Name, 200
						if q.Method != "HEAD" && body != string(foretold.Head) {
							t.Errorf("%+v: the server got\n%s\nforetold\n%s", q, body, foretold.Head)
						}
					}
					if got != want || response.StatusCode != status {
						t.Errorf("%+v: %d by %q, foretold %d by %q (%s)", q, response.StatusCode, got, status, want, foretold.Reason)
					}
					seen[reason(foretold)]++
				}
			}
			t.Logf("%v", seen)
			if len(seen) < 6 {
				t.Errorf("too little variety: %v", seen)
			}
		})
	}
}

// reason sorts what has been foretold.
func reason(r *explain.Result) string {
	switch {
	case r.Answer != nil:
		return fmt.Sprint(r.Answer.Status)
	case r.Server == nil:
		return "nobody"
	case r.Server == r.Named:
		return "cookie"
	case r.Server.Spec.Backup:
		return "backup"
	}
	return "balanced"
}

func TestQuestions(t *testing.T) {
	t.Parallel()
	router := open(t, proxy.New(zap.NewNop()))
	state := spec.State{
		Frontends: []spec.Frontend{{Name: "main", Bind: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, DefaultBackend: "web", MaxConn: 1}},
		Backends:  []spec.Backend{{Name: "web", Servers: []spec.Server{{Name: "a", Address: netip.MustParseAddrPort("127.0.0.1:1"), Weight: 1}}}},
	}
	router.apply(t, state)
	for _, test := range []struct {
		name  string
		q     explain.Question
		field string // that is wrong; "-": no such frontend
	}{
		{"the defaults", explain.Question{Frontend: "main"}, ""},
		{"an absolute target", explain.Question{Frontend: "main", Target: "http://x.example/a"}, ""},
		{"neither", explain.Question{}, "frontend"},
		{"both", explain.Question{Frontend: "main", Address: "1.2.3.4:80"}, "frontend"},
		{"another", explain.Question{Frontend: "other"}, "-"},
		{"no address", explain.Question{Address: "here"}, "address"},
		{"nobody's address", explain.Question{Address: "1.2.3.4:80"}, "-"},
		{"client", explain.Question{Frontend: "main", Client: "me"}, "request.client"},
		{"method", explain.Question{Frontend: "main", Method: "GET /"}, "request.method"},
		{"target", explain.Question{Frontend: "main", Target: "/a b"}, "request.target"},
		{"field", explain.Question{Frontend: "main", Fields: []explain.Field{{Name: "A", Value: "b\r\nC: d"}}}, "request.headers[0]"},
		{"fields", explain.Question{Frontend: "main", Fields: make([]explain.Field, 99)}, "request.headers"},
	} {
		_, err := explain.Explain(router, router.pool, &test.q)
		var wrong *explain.Error
		switch {
		case test.field == "" && err != nil, test.field == "-" && !errors.Is(err, explain.ErrNotFound):
			t.Errorf("%s: %v", test.name, err)
		case test.field != "" && test.field != "-" && (!errors.As(err, &wrong) || wrong.Field != test.field):
			t.Errorf("%s: got %v, want one at %s", test.name, err, test.field)
		}
	}
	refused, err := explain.Explain(router, router.pool, &explain.Question{Frontend: "main", Fields: []explain.Field{{Name: "Content-Length", Value: "x"}}})
	if err != nil || refused.Refused == nil || refused.Refused.Status != 400 {
		t.Errorf("what the router refuses: %+v %v", refused, err)
	}
}
