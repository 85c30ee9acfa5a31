package explain_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/explain"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// tutorial is the router of the tutorial.
func tutorial() spec.State {
	s1 := spec.Server{Name: "s1", Address: netip.MustParseAddrPort("127.0.0.1:81"), Weight: 1, Cookie: "s1"}
	s2 := spec.Server{Name: "s2", Address: netip.MustParseAddrPort("127.0.0.1:82"), Weight: 1, Cookie: "s2"}
	return spec.State{
		Frontends: []spec.Frontend{{
			Name: "main", Bind: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, DefaultBackend: "webservers", MaxConn: 1,
			Rules: []spec.Rule{{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "updataserver"}},
		}},
		Backends: []spec.Backend{
			{Name: "updataserver", Servers: []spec.Server{s2}},
			{Name: "webservers", Servers: []spec.Server{s1, s2}, Cookie: spec.Cookie{Name: "w"}},
		},
	}
}

func TestSimulate(t *testing.T) {
	t.Parallel()
	cookie := &explain.Question{Frontend: "main", Fields: []explain.Field{{Name: "Cookie", Value: "w=s2"}}}
	tests := []struct {
		name    string
		change  func(*spec.State)
		samples []*explain.Question
		want    string // method and target of what differs, before, after
	}{
		{"nothing", func(*spec.State) {}, nil, ""},
		{"static files", func(s *spec.State) {
			s.Backends = append(s.Backends, spec.Backend{Name: "static", Servers: []spec.Server{s.Backends[1].Servers[0]}})
			s.Frontends[0].Rules = append([]spec.Rule{{Condition: spec.Condition{Methods: []string{"GET", "HEAD"}, PathPrefixes: []string{"/static/"}}, Backend: "static"}}, s.Frontends[0].Rules...)
		}, nil, "GET /static/: webservers[s1 (weight 1) s2 (weight 1)] -> static[s1 (weight 1)]; HEAD /static/: webservers[s1 (weight 1) s2 (weight 1)] -> static[s1 (weight 1)]"},
		{"a weight", func(s *spec.State) { s.Backends[1].Servers[0].Weight = 3 }, nil, " /: webservers[s1 (weight 1) s2 (weight 1)] -> webservers[s1 (weight 3) s2 (weight 1)]"},
		{"a cookie's server", func(s *spec.State) { s.Backends[1].Servers[1].Cookie = "x" }, []*explain.Question{cookie}, " : webservers s2[] -> webservers[s1 (weight 1) s2 (weight 1)]"},
		{"a deny", func(s *spec.State) {
			s.Frontends[0].Rules = append(s.Frontends[0].Rules, spec.Rule{Condition: spec.Condition{PathPrefixes: []string{"/x"}}, Deny: &spec.Deny{Status: 403}})
		}, []*explain.Question{{Frontend: "main", Target: "/%78"}, cookie}, " /%78: webservers[s1 (weight 1) s2 (weight 1)] -> 403 []"},
		{"a frontend that goes", func(s *spec.State) { s.Frontends = nil }, []*explain.Question{cookie}, " : webservers s2[] -> nobody"},
		{"a server in maintenance", func(s *spec.State) { s.Backends[0].Servers[0].Admin = spec.AdminMaint }, nil, "POST /: updataserver[s2 (weight 1)] -> 503 updataserver[]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			router := open(t, proxy.New(zap.NewNop()))
			router.apply(t, tutorial())
			after := tutorial()
			test.change(&after)
			asked, differences, err := explain.Simulate(router, router.pool, after, test.samples)
			if err != nil || asked == 0 {
				t.Fatal(asked, err)
			}
			var got []string
			for _, d := range differences {
				got = append(got, fmt.Sprintf("%s %s: %s -> %s", d.Question.Method, d.Question.Target, print(&d.Before), print(&d.After)))
			}
			if text := strings.Join(got, "; "); text != test.want {
				t.Errorf("got  %s\nwant %s", text, test.want)
			}
		})
	}
}

func print(o *explain.Outcome) string {
	if o.Frontend == "" {
		return "nobody"
	}
	status := ""
	if o.Status != 0 {
		status = fmt.Sprint(o.Status) + " "
	}
	server := ""
	if o.Server != "" {
		server = " " + o.Server
	}
	return fmt.Sprintf("%s%s%s%v", status, o.Backend, server, o.Among)
}

// The contract of Simulate: what it foretells is what Explain says once the change is made, and asking has changed nothing.
func TestSimulateForetells(t *testing.T) {
	t.Parallel()
	router := open(t, proxy.New(zap.NewNop()))
	random := &random{Rand: rand.New(rand.NewPCG(3, 4))}
	for i := range 5 {
		random.origins = append(random.origins, netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", i+1)))
	}
	current := random.state()
	router.apply(t, current)
	differ, same := 0, 0
	for range 40 {
		for _, s := range router.pool.Servers() {
			if random.one(5) {
				if _, err := router.pool.SetServer(s.Backend, s.Server.Name, pool.Change{Health: pool.Down}, "test"); err != nil {
					t.Fatal(err)
				}
			}
		}
		after, fresh := spec.State{Frontends: current.Frontends, Backends: slices.Clone(current.Backends)}, random.state()
		switch i := random.IntN(5); i {
		case 3:
			after.Frontends = fresh.Frontends
		case 4:
			after = fresh
		default:
			after.Backends[i] = fresh.Backends[i]
		}
		var samples []*explain.Question
		for range 25 {
			samples = append(samples, random.question())
		}
		quiet := router.quiet(t)
		_, differences, err := explain.Simulate(router, router.pool, after, samples)
		if err != nil {
			t.Fatal(err)
		}
		if now := router.quiet(t); now != quiet {
			t.Fatalf("asking has changed the servers: %s, %s", quiet, now)
		}
		before := make([]string, len(samples))
		for i, q := range samples {
			before[i] = told(t, router, q)
		}
		router.apply(t, after)
		current = after
		for i, q := range samples {
			at := slices.IndexFunc(differences, func(d explain.Difference) bool { return fmt.Sprint(d.Question) == fmt.Sprint(*q) })
			got := told(t, router, q)
			if at < 0 {
				if same++; got != before[i] {
					t.Errorf("%+v: %s before and %s after, which was not foretold", q, before[i], got)
				}
				continue
			}
			differ++
			d := differences[at]
			if b, a := short(&d.Before), short(&d.After); b != before[i] || a != got {
				t.Errorf("%+v: foretold %s -> %s, is %s -> %s", q, b, a, before[i], got)
			}
		}
	}
	if differ < 100 || same < 100 {
		t.Errorf("%d requests are answered otherwise, %d as before: too little variety", differ, same)
	}
	_, differences, err := explain.Simulate(router, router.pool, spec.State{Frontends: router.Observe().Frontends, Backends: router.Observe().Backends}, nil)
	if err != nil || len(differences) > 0 {
		t.Errorf("no change: %+v %v", differences, err)
	}
}

// told is what Explain says, without whose turn it is.
func told(t testing.TB, r *router, q *explain.Question) string {
	t.Helper()
	e, err := explain.Explain(r, r.pool, q)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case e.Answer != nil:
		return fmt.Sprintf("%d %s", e.Answer.Status, e.Answer.Location)
	case e.Server == nil:
		return "503 " + e.Backend.Spec.Name
	case e.Server == e.Named || e.Server.Spec.Backup || e.Backend.Spec.Balance.Keyed():
		return e.Backend.Spec.Name + " " + e.Server.Spec.Name
	}
	return e.Backend.Spec.Name
}

func short(o *explain.Outcome) string {
	switch {
	case o.Backend == "":
		return fmt.Sprintf("%d %s", o.Status, o.Location)
	case o.Status != 0:
		return fmt.Sprintf("%d %s", o.Status, o.Backend)
	case o.Server != "":
		return o.Backend + " " + o.Server
	}
	return o.Backend
}

// The requests that are made from rules fit them.
func TestMadeSamplesFit(t *testing.T) {
	t.Parallel()
	random := &random{Rand: rand.New(rand.NewPCG(5, 6))}
	fits, rules := 0, 0
	for range 300 {
		c := random.condition(0)
		state := tutorial()
		state.Frontends[0].Rules = []spec.Rule{{Condition: c, Deny: &spec.Deny{Status: 410}}}
		router := open(t, proxy.New(zap.NewNop()))
		router.apply(t, tutorial())
		_, differences, err := explain.Simulate(router, router.pool, state, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rules++; slices.ContainsFunc(differences, func(d explain.Difference) bool { return d.After.Status == 410 }) {
			fits++
		}
	}
	if fits < rules*9/10 {
		t.Errorf("for %d of %d rules a request was made that fits", fits, rules)
	}
	t.Logf("for %d of %d rules", fits, rules)
}
