package ipvs

import (
	"errors"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// needIPVS returns when this kernel has IPVS. Otherwise it runs the calling test under User Mode Linux and reports
// false: the test has been done there.
func needIPVS(t *testing.T) bool {
	t.Helper()
	netnstest.Require(t)
	if Probe().Usable {
		return true
	}
	planetest.UML.Run(t, "^"+t.Name()+"$")
	return false
}

func TestKernelConformance(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	planetest.Run(t, world)
}

func world(t testing.TB) planetest.World {
	n := planetest.NewNetwork(t)
	return planetest.World{Plane: dataplane.IPVS, Lacks: lacks, Network: n, Open: func() planetest.Plane { return n.Inside(t, Open()) }}
}

// The same in the kernel that most machines run, which has more than one CPU.
func TestKernelStockConformance(t *testing.T) {
	netnstest.Require(t)
	if !planetest.Stock.Inside() {
		planetest.Stock.Run(t, "^"+t.Name()+"$")
		return
	}
	planetest.Run(t, world)
}

// What other programs put into IPVS is left alone, and what they do to ours is noticed and mended.
func TestKernelForeignServices(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	plane := n.Inside(t, Open())
	vip := spec.MustParseVIP(planetest.VIP + ":80")
	service := spec.Service{VIP: vip, Scheduler: spec.WLC, Reals: []spec.Real{{Address: n.Reals[0], Weight: 2}, {Address: n.Reals[1], Weight: 1}}}
	converge := func(want spec.Want) (changes []plan.Change) {
		t.Helper()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		changes = plan.Diff(want, have)
		if _, err := plane.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
		if have, err = plane.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := plan.Diff(want, have); len(left) > 0 {
			t.Fatalf("still to do: %v", left)
		}
		return changes
	}
	n.Director.Exec(t, "ipvsadm", "-A", "-t", planetest.VIP+":443", "-s", "sh")
	n.Director.Exec(t, "ipvsadm", "-a", "-t", planetest.VIP+":443", "-r", "192.168.60.78:443", "-m")
	n.Director.Exec(t, "ipvsadm", "-A", "-f", "7", "-s", "rr")
	foreign := n.Director.Exec(t, "ipvsadm", "-Sn")
	want := spec.Want{Services: []spec.Service{service}}
	converge(want)
	if got := n.Director.Exec(t, "ipvsadm", "-Ln"); !strings.Contains(got, "TCP  "+vip.String()+" wlc\n") || strings.Count(got, "Masq") != 3 {
		t.Errorf("ipvsadm -Ln:\n%s", got)
	}

	for _, edit := range [][]string{
		{"-E", "-t", vip.String(), "-s", "rr"},
		{"-E", "-t", vip.String(), "-s", "wlc", "-p", "300"},
		{"-E", "-t", vip.String(), "-s", "wlc"},
		{"-D", "-t", vip.String()},
		{"-e", "-t", vip.String(), "-r", n.Reals[0].String(), "-m", "-w", "9"},
		{"-e", "-t", vip.String(), "-r", n.Reals[0].String(), "-m", "-w", "2", "-x", "100"},
		{"-d", "-t", vip.String(), "-r", n.Reals[1].String()},
		{"-a", "-t", vip.String(), "-r", "192.168.60.200:80", "-m"},
		{"-C"},
	} {
		n.Director.Exec(t, "ipvsadm", edit...)
		if len(converge(want)) == 0 {
			t.Errorf("ipvsadm %v was not noticed", edit)
		}
	}

	n.Director.Exec(t, "ipvsadm", "-A", "-t", planetest.VIP+":443", "-s", "sh")
	n.Director.Exec(t, "ipvsadm", "-a", "-t", planetest.VIP+":443", "-r", "192.168.60.78:443", "-m")
	n.Director.Exec(t, "ipvsadm", "-A", "-f", "7", "-s", "rr")
	n.Director.Do(t, func() {
		if err := Open().Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if got := n.Director.Exec(t, "ipvsadm", "-Sn"); got != foreign {
		t.Errorf("after our removal:\n%s\nwant\n%s", got, foreign)
	}
}

func TestKernelUnknownScheduler(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	_, err := n.Inside(t, Open()).Apply(t.Context(), []plan.Change{{Kind: plan.AddService, VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: "none-such"}})
	if err == nil || !strings.Contains(err.Error(), "this kernel has no IPVS scheduler none-such") {
		t.Errorf("got %v", err)
	}
}

// A kernel without IPVS is never taken for one that has done what was asked.
func TestKernelWithoutIPVS(t *testing.T) {
	r := Probe()
	if r.Usable {
		t.Log("this kernel has IPVS: what happens without it shows elsewhere")
		return
	}
	if r.Reason == "" {
		t.Error("no reason given")
	}
	if _, err := Open().Observe(t.Context()); !errors.Is(err, dataplane.ErrUnusable) {
		t.Errorf("observe: %v", err)
	}
	add := plan.Change{Kind: plan.AddService, VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.WLC}
	if done, err := Open().Apply(t.Context(), []plan.Change{add}); !errors.Is(err, dataplane.ErrUnusable) || len(done) > 0 {
		t.Errorf("apply: %v, done %v", err, done)
	}
	if err := Open().Remove(t.Context()); err != nil {
		t.Errorf("remove: %v", err)
	}
}
