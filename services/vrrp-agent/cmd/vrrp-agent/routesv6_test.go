package main

import (
	"strings"
	"syscall"
	"testing"
)

// routesV6 returns the routes of IPv6 of an agent on the machine.
func (m *machine) routesV6(t *testing.T) string {
	t.Helper()
	return strings.Join(strings.Fields(m.Exec(t, "ip", "-6", "route", "show", "proto", "112")), " ")
}

// TestKernelRoutesV6 moves a default route of IPv6 with its address, by a gateway of which only the link-local address is
// known, as routers announce themselves; takes it away by hand, and kills its agent.
func TestKernelRoutesV6(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.pairV6(t)
	const (
		more = "virtual_routes:\n  - {destination: '::/0', via: 'fe80::99', source: '" + vip6 + "'}\n" +
			"  - {destination: '2001:db8:70::/48', via: '2001:db8:60::99', metric: 7}"
		outward = "default via fe80::99 dev eth0 src " + vip6 + " metric 1024 pref medium"
		inward  = "2001:db8:70::/48 via 2001:db8:60::99 dev eth0 metric 7 pref medium"
	)
	all := inward + " " + outward
	are := func(what string, onA, onB string) {
		t.Helper()
		awaitThat(t, what, func() string {
			if a, b := a.routesV6(t), b.routesV6(t); a != onA || b != onB {
				return "there are [" + a + "] and [" + b + "], want [" + onA + "] and [" + onB + "]"
			}
			return ""
		})
	}
	desired := family6.desired(t, 105, more)
	onA, onB := a.agent(t, desired), b.agent(t, desired)
	family6.await(t, "started", map[*machine]string{a: family6.all(), b: ""})
	are("started", all, "")

	before := master(t, onA, "VI_6").GetTransitions()
	a.Exec(t, "ip", "-6", "route", "del", "default", "proto", "112")
	a.Exec(t, "ip", "-6", "route", "del", "2001:db8:70::/48")
	are("deleted by hand", all, "")
	a.Exec(t, "ip", "address", "del", vip6+"/128", "dev", "eth0")
	family6.await(t, "address deleted by hand", map[*machine]string{a: family6.all(), b: ""})
	are("address deleted by hand", all, "")
	if i := onA.instances(t)["VI_6"]; i.GetTransitions() != before {
		t.Errorf("the instance left its state: %v", i)
	}

	onA.stop(t)
	are("stopped", "", all)
	onA = a.agent(t, desired)
	are("started again", all, "")
	if err := syscall.Kill(onA.inner(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	are("killed, with a warden", "", all)
	<-onA.exited
	onA = a.agent(t, desired)
	are("started after that", all, "")

	onA.kill(t) // with its warden: the kernel takes the addresses away, and not the routes
	family6.await(t, "killed with its warden", map[*machine]string{a: "", b: family6.all()})
	empty := t.TempDir() + "/desired.yaml"
	write(t, empty, "{}\n")
	onA = a.agent(t, empty)
	are("purged at the start", "", all)
	onA.stop(t)
	onB.stop(t)
}
