package spec

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
)

func web() *filesyncv1.Pair {
	return &filesyncv1.Pair{
		Name:   "web",
		Source: &filesyncv1.Source{Node: "server2", Path: "/data"},
		Target: &filesyncv1.Target{Node: "server1", Path: "/web", Address: "172.16.0.88:8730", Allow: []string{"172.16.0.99/32"}},
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, violations := Parse([]*filesyncv1.Pair{web()})
	want := []Pair{{
		Name: "web", Source: End{"server2", "/data"}, Target: End{"server1", "/web"},
		Address: netip.MustParseAddrPort("172.16.0.88:8730"), Allow: []netip.Prefix{netip.MustParsePrefix("172.16.0.99/32")},
		Verify: 10 * time.Minute,
	}}
	if len(violations) != 0 || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v; want %+v", got, violations, want)
	}
	if got, violations := Parse(nil); len(got) != 0 || len(violations) != 0 {
		t.Errorf("nothing wanted: %v, %v", got, violations)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	with := func(change func(*filesyncv1.Pair)) []*filesyncv1.Pair {
		p := web()
		change(p)
		return []*filesyncv1.Pair{p}
	}
	second := func(change func(*filesyncv1.Pair)) []*filesyncv1.Pair {
		p := web()
		p.Name, p.Source.Path, p.Target.Path, p.Target.Address = "x", "/data2", "/web2", "172.16.0.88:8731"
		change(p)
		return []*filesyncv1.Pair{web(), p}
	}
	for name, c := range map[string]struct {
		in   []*filesyncv1.Pair
		want string
	}{
		"empty":            {[]*filesyncv1.Pair{{}}, "pair/.name"},
		"name":             {with(func(p *filesyncv1.Pair) { p.Name = "Web" }), "pair/Web.name"},
		"source node":      {with(func(p *filesyncv1.Pair) { p.Source.Node = "" }), "pair/web.source.node"},
		"relative path":    {with(func(p *filesyncv1.Pair) { p.Source.Path = "data" }), "pair/web.source.path"},
		"unclean path":     {with(func(p *filesyncv1.Pair) { p.Target.Path = "/web/" }), "pair/web.target.path"},
		"root":             {with(func(p *filesyncv1.Pair) { p.Target.Path = "/" }), "pair/web.target.path"},
		"host name":        {with(func(p *filesyncv1.Pair) { p.Target.Address = "server1:8730" }), "pair/web.target.address"},
		"any address":      {with(func(p *filesyncv1.Pair) { p.Target.Address = "0.0.0.0:8730" }), "pair/web.target.address"},
		"port zero":        {with(func(p *filesyncv1.Pair) { p.Target.Address = "172.16.0.88:0" }), "pair/web.target.address"},
		"allow missing":    {with(func(p *filesyncv1.Pair) { p.Target.Allow = nil }), "pair/web.target.allow"},
		"allow, host bits": {with(func(p *filesyncv1.Pair) { p.Target.Allow[0] = "172.16.0.99/16" }), "pair/web.target.allow[0]"},
		"verify too often": {with(func(p *filesyncv1.Pair) { p.VerifyInterval = durationpb.New(time.Second) }), "pair/web.verify_interval"},
		"own tail":         {with(func(p *filesyncv1.Pair) { p.Target.Node, p.Target.Path = "server2", "/data/copy" }), "pair/web.target.path"},
		"same name":        {second(func(p *filesyncv1.Pair) { p.Name = "web" }), "pair/web.name"},
		"same address":     {second(func(p *filesyncv1.Pair) { p.Target.Address = "172.16.0.88:8730" }), "pair/x.target.address"},
		"same target":      {second(func(p *filesyncv1.Pair) { p.Target.Path = "/web/sub" }), "pair/x.target.path"},
		"ring": {second(func(p *filesyncv1.Pair) {
			p.Source.Node, p.Source.Path, p.Target.Node, p.Target.Path = "server1", "/web", "server2", "/data"
		}), "pair/x.source.path"},
	} {
		_, violations := Parse(c.in)
		var fields []string
		for _, v := range violations {
			fields = append(fields, v.GetField())
		}
		if !strings.Contains(" "+strings.Join(fields, " ")+" ", " "+c.want+" ") {
			t.Errorf("%s: violations %q, want %s", name, violations, c.want)
		}
	}
	loop := web()
	loop.Target.Address, loop.Target.Allow = "127.0.0.1:8730", nil
	if _, violations := Parse([]*filesyncv1.Pair{loop}); len(violations) != 0 {
		t.Errorf("a loopback target without allow is refused: %v", violations)
	}
	fan := second(func(p *filesyncv1.Pair) {
		p.Source.Path, p.Target.Node, p.Target.Address = "/data", "server3", "172.16.0.90:8730"
	})
	if _, violations := Parse(fan); len(violations) != 0 {
		t.Errorf("one source with two targets is refused: %v", violations)
	}
}
