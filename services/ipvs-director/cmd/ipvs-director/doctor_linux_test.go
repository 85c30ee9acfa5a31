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
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/ipvs"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// Each fault is named when it is there, and nothing is said when there is none.
func TestKernelExamine(t *testing.T) {
	t.Parallel()
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	n := planetest.NewNetwork(t)
	// A dot in the name, as that of a VLAN has.
	n.Director.Exec(t, "sh", "-c", "ip link set inner0 down; ip link set inner0 name inner.0; ip link set inner.0 up")
	six := fmt.Sprintf("---\nkind: virtual-service\nname: six\naddress: %s\nport: 80\nreal_servers: [{address: %q, port: %d}]\n", planetest.VIP6, n.Reals6[0].Addr(), n.Reals6[0].Port())
	d := newDirector(t, n.Director, desiredState(n, 1)+six)
	sysctl := setter(t, n)
	sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1")
	d.start("--dataplane", dataplane.NFTables)
	d.until("the first good pass", done)
	d.examine("")
	for _, c := range []struct {
		code     string
		do, undo func()
	}{
		{"ip_forward", func() { sysctl("net/ipv4/ip_forward", "0") }, func() { sysctl("net/ipv4/ip_forward", "1") }},
		{"tcp_loose", func() { sysctl("net/netfilter/nf_conntrack_tcp_loose", "0") }, func() { sysctl("net/netfilter/nf_conntrack_tcp_loose", "1") }},
		{"be_liberal", func() { sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "0") }, func() { sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1") }},
		{"duplicate_vip", func() { n.Client.Exec(t, "ip", "address", "add", planetest.VIP+"/32", "dev", "outer") },
			func() { n.Client.Exec(t, "ip", "address", "delete", planetest.VIP+"/32", "dev", "outer") }},
		{"duplicate_vip", func() { n.Client.Exec(t, "ip", "address", "add", planetest.VIP6+"/128", "dev", "outer", "nodad") },
			func() { n.Client.Exec(t, "ip", "address", "delete", planetest.VIP6+"/128", "dev", "outer") }},
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
		d.examine(c.code)
		c.undo()
		d.examine("")
	}
}

// examine waits until the findings are those, by their codes.
func (d *director) examine(want string) {
	d.t.Helper()
	// The pass that Examine looks at is a second old at most.
	eventually(d.t, fmt.Sprintf("findings %q", want), func() error {
		answer, err := d.client.Examine(d.t.Context(), &directorv1.ExamineRequest{}, grpc.WaitForReady(true))
		var codes []string
		for _, f := range answer.GetFindings() {
			codes = append(codes, f.GetCode())
			if f.GetWhat() == "" || f.GetRemedy() == "" {
				d.t.Errorf("no words: %v", f)
			}
		}
		if got := strings.Join(codes, " "); err == nil && got != want {
			err = fmt.Errorf("got %q: %v", got, answer)
		}
		return err
	})
}

// setter sets sysctls of the director's namespace.
func setter(t *testing.T, n *planetest.Network) func(key, value string) {
	return func(key, value string) {
		t.Helper()
		n.Director.Set(t, key, value)
	}
}

// The same for what only IPVS has; that clients are kept on a drained real server matters where they are kept at all.
func TestKernelExamineIPVS(t *testing.T) {
	netnstest.Require(t)
	if !ipvs.Probe().Usable {
		end := planetest.UML.Start(t, "^"+t.Name()+"$", binaryVariable+"="+buildDirector(t))
		t.Parallel()
		end()
		return
	}
	n := planetest.NewNetwork(t)
	plain := desiredState(n, 1)
	keeps := strings.Replace(plain, "drain_timeout: 2s", "drain_timeout: 2s\npersistence: {timeout: 60s}", 1)
	d := newDirector(t, n.Director, keeps)
	sysctl := setter(t, n)
	d.start("--dataplane", dataplane.IPVS)
	d.until("the first good pass", done)
	all := []string{"conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template"}
	become := func(value string) {
		for _, key := range all {
			sysctl("net/ipv4/vs/"+key, value)
		}
	}
	become("1")
	d.examine("")
	become("0")
	d.examine(strings.Join(all, " "))
	d.want(plain)
	d.examine(strings.Join(all[:2], " "))
}
