package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestKernelSpread starts a second node beside one that holds all addresses, kills it and starts it again: each time it
// gets its share by handover, and nobody who asks for an address that is moved is left without an answer.
func TestKernelSpread(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	var desired strings.Builder
	const instances = 4
	for k := range instances {
		fmt.Fprintf(&desired, "---\nkind: instance\nname: VI_%d\nvirtual_router_id: %d\nvirtual_addresses: [192.168.60.%d]\n"+
			"members: [{node: haproxy, priority: 105}, {node: haproxy2, priority: 99}]\nplacement: PLACEMENT_SPREAD\n", k, 10+k, 100+k)
	}
	file := filepath.Join(t.TempDir(), "desired.yaml")
	write(t, file, desired.String())
	c := n.machine(t, "witness", "192.168.60.1/24").census(t, "eth0", "192.168.60.100") // of VI_0, the first that is moved
	hold := func(what string, onA, onB int) {
		t.Helper()
		awaitThat(t, what, func() string {
			gotA, gotB := len(strings.Fields(a.held(t))), len(strings.Fields(b.held(t)))
			if gotA != onA || gotB != onB {
				return fmt.Sprintf("haproxy holds %d, want %d, haproxy2 %d, want %d", gotA, onA, gotB, onB)
			}
			return ""
		})
	}
	onA := a.agent(t, file)
	hold("one node", instances, 0)
	c.await(t, a.mac(t, "eth0"))
	var onB *agent
	for _, what := range []string{"a second node", "the second node again"} {
		since := c.mark()
		onB = b.agent(t, file)
		hold(what, instances/2, instances/2)
		c.await(t, b.mac(t, "eth0"))
		got := c.count(since)
		t.Logf("%s: %v", what, got)
		if got.nobody > 10 { // the last few are on their way
			t.Errorf("%s: %v", what, got)
		}
		onB.kill(t)
		hold("the second node killed", instances, 0)
		c.await(t, a.mac(t, "eth0"))
	}
	onA.stop(t)
}
