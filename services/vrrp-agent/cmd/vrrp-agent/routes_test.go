package main

import (
	"strings"
	"syscall"
	"testing"
)

// routes returns the routes of an agent on the machine.
func (m *machine) routes(t *testing.T) string {
	t.Helper()
	return strings.Join(strings.Fields(m.Exec(t, "ip", "-4", "route", "show", "proto", "112")), " ")
}

// TestKernelRoutes moves a default route with its address, takes it away by hand, and kills its agent in three ways.
func TestKernelRoutes(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired := version3(t, "")
	// Only the first of the two instances has routes: one from its address, one from the card's.
	replace(t, desired, "name: VI_1\n", "name: VI_1\nvirtual_routes:\n  - {destination: 0.0.0.0/0, via: 192.168.60.99, source: "+vip1+"}\n"+
		"  - {destination: 10.0.0.0/8, metric: 7}\n")
	const (
		outward = "default via 192.168.60.99 dev eth0 src " + vip1
		inward  = "10.0.0.0/8 dev eth0 scope link metric 7"
	)
	are := func(what string, want map[*machine]string) {
		t.Helper()
		awaitThat(t, what, func() string {
			for m, routes := range want {
				if got := m.routes(t); got != routes {
					return m.name + " has [" + got + "], want [" + routes + "]"
				}
			}
			return ""
		})
	}
	onA, onB := a.agent(t, desired), b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	are("both started", map[*machine]string{a: outward + " " + inward, b: ""})

	a.Exec(t, "ip", "route", "del", "default")
	a.Exec(t, "ip", "route", "del", "10.0.0.0/8")
	are("deleted by hand", map[*machine]string{a: outward + " " + inward, b: ""})
	a.Exec(t, "ip", "address", "del", vip1+"/32", "dev", "eth0")
	await(t, "address deleted by hand", map[*machine]string{a: vip1, b: vip3})
	are("address deleted by hand", map[*machine]string{a: outward + " " + inward, b: ""})
	if i := onA.instances(t)["VI_1"]; i.GetTransitions() != 2 {
		t.Errorf("the instance left its state: %v", i)
	}

	onA.stop(t)
	are("stopped", map[*machine]string{a: "", b: outward + " " + inward})
	onA = a.agent(t, desired)
	await(t, "started again", map[*machine]string{a: vip1, b: vip3})
	are("started again", map[*machine]string{a: outward + " " + inward, b: ""})

	if err := syscall.Kill(onA.inner(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	are("killed, with a warden", map[*machine]string{a: "", b: outward + " " + inward})
	<-onA.exited
	onA = a.agent(t, desired)
	await(t, "started after that", map[*machine]string{a: vip1, b: vip3})

	onA.kill(t)
	are("killed with its warden", map[*machine]string{a: inward, b: outward + " " + inward}) // the kernel knows which route an address takes along
	empty := t.TempDir() + "/desired.yaml"
	write(t, empty, "{}\n")
	onA = a.agent(t, empty)
	are("purged at the start", map[*machine]string{a: "", b: outward + " " + inward})
	onA.stop(t)

	// A route of somebody else is left alone, and the instance says what is in its way.
	a.Exec(t, "ip", "route", "add", "10.0.0.0/8", "dev", "eth0", "metric", "7")
	onA = a.agent(t, desired)
	awaitThat(t, "fault", func() string {
		if i := onA.instances(t)["VI_1"]; !strings.Contains(i.GetReason(), "another one to 10.0.0.0/8 with metric 7 is there") {
			return i.String()
		}
		return ""
	})
	are("somebody else's", map[*machine]string{a: "", b: outward + " " + inward})
	onA.stop(t)
	onB.stop(t)
}
