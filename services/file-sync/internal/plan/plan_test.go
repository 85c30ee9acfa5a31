package plan

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twotier/twotier/services/file-sync/internal/spec"
)

func pair(name string) spec.Pair {
	return spec.Pair{
		Name: name, Source: spec.End{Node: "server2", Path: "/data"}, Target: spec.End{Node: "server1", Path: "/web"},
		Address: netip.MustParseAddrPort("172.16.0.88:8730"), Verify: time.Minute,
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	web, other := pair("web"), pair("other")
	moved := web
	moved.Target.Path = "/srv"
	slower := web
	slower.Verify = time.Hour
	for name, c := range map[string]struct {
		node       string
		want, have []spec.Pair
		lines      []string
	}{
		"nothing":           {node: "server1"},
		"equal":             {node: "server1", want: []spec.Pair{web}, have: []spec.Pair{web}},
		"not ours":          {node: "haproxy", want: []spec.Pair{web}},
		"target":            {node: "server1", want: []spec.Pair{web}, lines: []string{"start target of pair web: /web at 172.16.0.88:8730 from server2"}},
		"source":            {node: "server2", want: []spec.Pair{web}, lines: []string{"start source of pair web: /data to server1 at 172.16.0.88:8730"}},
		"gone":              {node: "server2", have: []spec.Pair{web}, lines: []string{"stop source of pair web"}},
		"stops come first":  {node: "server2", want: []spec.Pair{other}, have: []spec.Pair{web}, lines: []string{"stop source of pair web", "start source of pair other: /data to server1 at 172.16.0.88:8730"}},
		"another folder":    {node: "server1", want: []spec.Pair{moved}, have: []spec.Pair{web}, lines: []string{"stop target of pair web", "start target of pair web: /srv at 172.16.0.88:8730 from server2"}},
		"another parameter": {node: "server1", want: []spec.Pair{slower}, have: []spec.Pair{web}, lines: []string{"stop target of pair web", "start target of pair web: /web at 172.16.0.88:8730 from server2"}},
	} {
		var lines []string
		for _, change := range Diff(Sides(c.node, c.want), Sides(c.node, c.have)) {
			lines = append(lines, change.String())
		}
		if !slices.Equal(lines, c.lines) {
			t.Errorf("%s:\n got  %q\n want %q", name, lines, c.lines)
		}
	}
}

func TestSidesOfOneNode(t *testing.T) {
	t.Parallel()
	p := pair("web")
	p.Source.Node = "server1"
	got := Sides("server1", []spec.Pair{p})
	if len(got) != 2 || got[0].Role != Target || got[1].Role != Source {
		t.Errorf("Sides = %v, want the target, then the source", got)
	}
}
