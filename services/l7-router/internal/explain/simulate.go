package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// MaxSamples is the most requests that are asked about, given or made.
const MaxSamples = 1000

// Shadower makes pools of what would be.
type Shadower interface {
	Shadow([]spec.Backend) *pool.Pool
}

// Outcome is what becomes of a request, as far as it does not depend on whose turn it is.
type Outcome struct {
	// Frontend that it comes to; empty: none.
	Frontend string
	// Status and Location when the router answers itself; Refused when it does before any rule.
	Status   int
	Location string
	Refused  string
	// Backend and Server that answer. Server is empty when the servers in Among take turns, or none can.
	Backend, Server string
	Among           []string
	// Head is what the server gets.
	Head string
}

func (o *Outcome) equal(other *Outcome) bool {
	return o.Frontend == other.Frontend && o.Status == other.Status && o.Location == other.Location && o.Refused == other.Refused &&
		o.Backend == other.Backend && o.Server == other.Server && o.Head == other.Head && slices.Equal(o.Among, other.Among)
}

// Difference is a request that is answered otherwise.
type Difference struct {
	Question      Question
	Before, After Outcome
}

// world is a state with its servers.
type world struct {
	frontends map[string]*exchange.Frontend
	listeners []plan.Listener
	pool      *pool.Pool
	states    []pool.State
}

func newWorld(state spec.State, listeners []plan.Listener, s Shadower, page *pool.Backend) *world {
	w := &world{frontends: map[string]*exchange.Frontend{}, listeners: listeners, pool: s.Shadow(state.Backends)}
	backends := map[string]*pool.Backend{}
	for _, b := range state.Backends {
		backends[b.Name] = w.pool.Backend(b.Name)
	}
	for _, f := range state.Frontends {
		w.frontends[f.Name] = exchange.NewFrontend(f, backends, stats.NewSet())
		w.frontends[f.Name].Page = page
	}
	w.states = w.pool.Servers()
	return w
}

// Simulate says what would be answered otherwise if what is in force became after: for samples, or, without any, for requests
// made from the rules of both. asked is how many were. The error is an *Error.
func Simulate(r Router, s Shadower, after spec.State, samples []*Question) (asked int, differences []Difference, err error) {
	have := r.Observe()
	before := spec.State{Frontends: have.Frontends, Backends: have.Backends}
	slices.SortFunc(before.Frontends, func(a, b spec.Frontend) int { return cmp.Compare(a.Name, b.Name) })
	var listeners []plan.Listener
	for _, f := range after.Frontends {
		for _, address := range f.Bind {
			listeners = append(listeners, plan.Listener{Address: address, Frontend: f.Name})
		}
		for _, address := range f.BindTLS {
			listeners = append(listeners, plan.Listener{Address: address, Frontend: f.Name, TLS: true})
		}
	}
	var page *pool.Backend
	for _, f := range before.Frontends {
		if now := r.Frontend(f.Name); now != nil {
			page = now.Current().Page
		}
	}
	old, now := newWorld(before, have.Listeners, s, page), newWorld(after, listeners, s, page)
	if len(samples) == 0 {
		samples = made(before.Frontends, after.Frontends)
	}
	if len(samples) > MaxSamples {
		return 0, nil, &Error{"samples", fmt.Sprintf("want at most %d, got %d", MaxSamples, len(samples))}
	}
	for i, q := range samples {
		at := func(err error) error {
			if wrong, ok := err.(*Error); ok {
				return &Error{fmt.Sprintf("samples[%d].%s", i, wrong.Field), wrong.Reason}
			}
			return err
		}
		if (q.Frontend == "") == (q.Address == "") {
			return 0, nil, at(&Error{"frontend", "want either a frontend or an address"})
		}
		client, err := q.client()
		if err != nil {
			return 0, nil, at(err)
		}
		head, err := q.head()
		if err != nil {
			return 0, nil, at(err)
		}
		a, err := old.outcome(q, head, client)
		if err != nil {
			return 0, nil, at(err)
		}
		b, err := now.outcome(q, head, client)
		if err != nil {
			return 0, nil, at(err)
		}
		if !a.equal(&b) {
			differences = append(differences, Difference{*q, a, b})
		}
	}
	return len(samples), differences, nil
}

func (w *world) outcome(q *Question, head []byte, client *exchange.Client) (Outcome, error) {
	name, port := q.Frontend, uint16(0)
	if q.Address != "" {
		address, err := netip.ParseAddrPort(q.Address)
		if err != nil {
			return Outcome{}, &Error{"address", fmt.Sprintf("want HOST:PORT with an IP address, got %q", q.Address)}
		}
		name, port = listening(w.listeners, address), address.Port()
	}
	f := w.frontends[name]
	if f == nil {
		return Outcome{}, nil
	}
	own := *client
	if own.Port = port; port == 0 && len(f.Spec.Bind) > 0 {
		own.Port = f.Spec.Bind[0].Port()
	}
	r := explain(f, w.states, head, &own)
	o := Outcome{Frontend: name}
	switch {
	case r.Refused != nil:
		o.Refused, o.Status = r.Refused.Reason, r.Refused.Status
	case r.Answer != nil:
		o.Status, o.Location = r.Answer.Status, string(r.Answer.Location)
	default:
		o.Backend, o.Head = r.Backend.Spec.Name, string(r.Head)
		switch s := r.Server; {
		case s == nil:
			o.Status = 503
		case same(s, r.Named), s.Spec.Backup, r.Backend.Spec.Balance.Keyed():
			o.Server = s.Spec.Name
		default:
			o.Among = sharers(r)
		}
	}
	return o, nil
}

// sharers are the servers that take turns, with their weights.
func sharers(r *Result) (all []string) {
	for i, c := range r.Candidates {
		s := r.Backend.Server(i)
		if balanced, _ := s.Takes(); balanced && c.State.Weight > 0 && !s.Spec.Backup {
			all = append(all, fmt.Sprintf("%s (weight %d)", s.Spec.Name, c.State.Weight))
		}
	}
	return all
}

// made makes requests from rules: one that no rule is about, one that posts, and for each rule some that its condition is
// likely to hold for.
func made(states ...[]spec.Frontend) (all []*Question) {
	seen := map[string]bool{}
	add := func(q Question) {
		if _, err := q.head(); err != nil {
			return // a value that no request can have
		}
		if key := fmt.Sprintf("%+v", q); !seen[key] && len(all) < MaxSamples {
			seen[key] = true
			all = append(all, &q)
		}
	}
	for _, frontends := range states {
		for _, f := range frontends {
			add(Question{Frontend: f.Name, Target: "/"})
			add(Question{Frontend: f.Name, Method: "POST", Target: "/", Fields: []Field{{"Content-Length", "0"}}})
			for i := range f.Rules {
				for _, d := range drafts(&f.Rules[i].Condition, draft{}) {
					add(d.question(f.Name))
				}
			}
		}
	}
	return all
}

// maxDrafts is the most requests that are made for one rule.
const maxDrafts = 16

// draft is a request that is being made.
type draft struct {
	method, path, suffix, query, host, client string
	fields                                    []Field
	cookies                                   []string
}

func (d *draft) question(frontend string) Question {
	path := d.path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if d.suffix != "" && !strings.HasSuffix(path, d.suffix) {
		path += d.suffix
	}
	q := Question{Frontend: frontend, Method: d.method, Target: path + d.query, Client: d.client, Fields: slices.Clone(d.fields)}
	if d.host != "" {
		q.Fields = append(q.Fields, Field{"Host", d.host})
	}
	if len(d.cookies) > 0 {
		q.Fields = append(q.Fields, Field{"Cookie", strings.Join(d.cookies, "; ")})
	}
	if d.method != "" && d.method != "GET" && d.method != "HEAD" {
		q.Fields = append(q.Fields, Field{"Content-Length", "0"})
	}
	return q
}

// drafts makes requests for which c is likely to hold, beginning with d: one for each value of methods and paths, and for
// each alternative.
func drafts(c *spec.Condition, d draft) []draft {
	d.fields, d.cookies = slices.Clone(d.fields), slices.Clone(d.cookies)
	if len(c.Hosts) > 0 {
		d.host = strings.Replace(c.Hosts[0], "*.", "sample.", 1)
	}
	if len(c.Sources) > 0 {
		d.client = c.Sources[0].Addr().String()
		if next := c.Sources[0].Addr().Next(); c.Sources[0].Contains(next) {
			d.client = next.String()
		}
	}
	for i := range c.Headers {
		if strings.EqualFold(c.Headers[i].Name, "host") {
			d.host = value(&c.Headers[i])
		} else {
			d.fields = append(d.fields, Field{c.Headers[i].Name, value(&c.Headers[i])})
		}
	}
	for i := range c.Cookies {
		d.cookies = append(d.cookies, c.Cookies[i].Name+"="+value(&c.Cookies[i]))
	}
	for i := range c.Queries {
		separator := "?"
		if d.query != "" {
			separator = "&"
		}
		d.query += separator + c.Queries[i].Name + "=" + value(&c.Queries[i])
	}
	if len(c.PathSuffixes) > 0 {
		d.suffix = c.PathSuffixes[0]
	}
	all := []draft{d}
	multiply := func(values []string, set func(*draft, string)) {
		if len(values) == 0 {
			return
		}
		var more []draft
		for _, one := range all {
			for _, v := range values[:min(len(values), maxDrafts)] {
				next := one
				set(&next, v)
				more = append(more, next)
			}
		}
		all = more[:min(len(more), maxDrafts)]
	}
	multiply(c.Methods, func(d *draft, v string) { d.method = v })
	var paths []string
	paths = append(append(paths, c.Paths...), c.PathPrefixes...)
	for _, re := range c.PathRegexes {
		paths = append(paths, example(re))
	}
	multiply(paths, func(d *draft, v string) { d.path = v })
	for i := range c.All {
		var more []draft
		for _, one := range all {
			more = append(more, drafts(&c.All[i], one)...)
		}
		all = more[:min(len(more), maxDrafts)]
	}
	if len(c.Any) > 0 {
		var more []draft
		for i := range c.Any {
			for _, one := range all {
				more = append(more, drafts(&c.Any[i], one)...)
			}
		}
		all = more[:min(len(more), maxDrafts)]
	}
	return all
}

// value is a value that fits.
func value(m *spec.TextMatch) string {
	switch {
	case len(m.Exact) > 0:
		return m.Exact[0]
	case len(m.Prefixes) > 0:
		return m.Prefixes[0]
	case len(m.Suffixes) > 0:
		return m.Suffixes[0]
	case len(m.Contains) > 0:
		return m.Contains[0]
	case len(m.Regexes) > 0:
		return example(m.Regexes[0])
	}
	return "sample"
}
