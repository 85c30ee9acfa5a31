package main

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// Each fault is named when it is there, and nothing is said when there is none.
func TestKernelExamine(t *testing.T) {
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	n := planetest.NewNetwork(t)
	// A dot in the name, as that of a VLAN has.
	n.Director.Exec(t, "sh", "-c", "ip link set inner0 down; ip link set inner0 name inner.0; ip link set inner.0 up")
	d := newDirector(t, n.Director, desiredState(n, 1))
	sysctl := func(key, value string) {
		n.Director.Exec(t, "sh", "-c", fmt.Sprintf("echo %s >/proc/sys/%s", value, key))
	}
	sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1")
	d.start("--dataplane", dataplane.NFTables)
	d.until("the first good pass", done)
	examine := func(want string) {
		t.Helper()
		// The pass that Examine looks at is a second old at most.
		eventually(t, fmt.Sprintf("findings %q", want), func() error {
			answer, err := d.client.Examine(t.Context(), &directorv1.ExamineRequest{}, grpc.WaitForReady(true))
			var codes []string
			for _, f := range answer.GetFindings() {
				codes = append(codes, f.GetCode())
				if f.GetWhat() == "" || f.GetRemedy() == "" {
					t.Errorf("no words: %v", f)
				}
			}
			if got := strings.Join(codes, " "); err == nil && got != want {
				err = fmt.Errorf("got %q: %v", got, answer)
			}
			return err
		})
	}
	examine("")
	for _, c := range []struct {
		code     string
		do, undo func()
	}{
		{"ip_forward", func() { sysctl("net/ipv4/ip_forward", "0") }, func() { sysctl("net/ipv4/ip_forward", "1") }},
		{"tcp_loose", func() { sysctl("net/netfilter/nf_conntrack_tcp_loose", "0") }, func() { sysctl("net/netfilter/nf_conntrack_tcp_loose", "1") }},
		{"be_liberal", func() { sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "0") }, func() { sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1") }},
		{"duplicate_vip", func() { n.Client.Exec(t, "ip", "address", "add", planetest.VIP+"/32", "dev", "outer") },
			func() { n.Client.Exec(t, "ip", "address", "delete", planetest.VIP+"/32", "dev", "outer") }},
		{"mtu", func() { n.Director.Exec(t, "ip", "link", "set", "inner.0", "mtu", "1400") },
			func() { n.Director.Exec(t, "ip", "link", "set", "inner.0", "mtu", "1500") }},
		{"return_path", func() { n.Servers[0].Exec(t, "ip", "route", "delete", "default") },
			func() { n.Servers[0].Exec(t, "ip", "route", "add", "default", "via", "192.168.60.99") }},
		{"rp_filter", func() {
			netnstest.Veth(t, n.Servers[0], "second", "", n.Director, "second", "192.168.60.98/24")
			sysctl("net/ipv4/conf/inner.0/rp_filter", "1")
			n.Director.Exec(t, "ip", "route", "add", "192.168.60.78/32", "dev", "second")
			n.Servers[0].Exec(t, "ip", "link", "set", "second", "down")
			sysctl("net/ipv4/conf/second/rp_filter", "0")
		}, func() { n.Director.Exec(t, "ip", "link", "delete", "second") }},
	} {
		c.do()
		examine(c.code)
		c.undo()
		examine("")
	}
}
