package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
)

// imports lets an agent on the machine import the files of the nodes.
func (m *machine) imports(t *testing.T, files map[string][]byte) *vrrpv1.ImportResponse {
	t.Helper()
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	write(t, empty, "{}\n")
	on := m.agent(t, empty)
	request := &vrrpv1.ImportRequest{}
	for _, node := range slices.Sorted(maps.Keys(files)) {
		request.Files = append(request.Files, &vrrpv1.ImportFile{Node: node, Config: files[node]})
	}
	answer, err := vrrpv1.NewAgentAdminClient(on.conn).Import(t.Context(), request, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	on.stop(t)
	return answer
}

// desiredOf is what an import has made, as desired state.
func desiredOf(t *testing.T, answer *vrrpv1.ImportResponse) string {
	t.Helper()
	var desired strings.Builder
	for _, o := range answer.GetObjects() {
		text, err := protojson.Marshal(o.GetInstance())
		if err != nil {
			t.Fatal(err)
		}
		desired.WriteString("---\n" + `{"kind": "instance", ` + strings.TrimPrefix(string(text), "{") + "\n")
	}
	return desired.String()
}

// TestKernelImported lets an agent import the tutorial's two files, and makes the tutorial's test of step 7 with what
// comes out: keepalived stopped on one machine and started again, and the mirror image. Nothing is changed but the
// folder of the passwords.
func TestKernelImported(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	folder := t.TempDir()
	files := map[string][]byte{}
	for _, node := range []string{"haproxy", "haproxy2"} {
		text, err := os.ReadFile("../../internal/keepalived/testdata/keepalived-" + node + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		files[node] = text
	}
	answer := a.imports(t, files)
	if warnings := strings.Join(answer.GetReport().GetWarnings(), "\n"); strings.Count(warnings, "weight -5 of chk_haproxy can never move") != 2 {
		t.Errorf("warnings:\n%s", warnings)
	}

	for _, o := range answer.GetObjects() {
		i := o.GetInstance()
		file := filepath.Join(folder, filepath.Base(i.GetAuthentication().GetPasswordFile()))
		write(t, file, map[string]string{"VI_1": "2222\n", "VI_3": "1111\n"}[i.GetName()])
		i.Authentication.PasswordFile = file
	}
	file := filepath.Join(folder, "desired.yaml")
	write(t, file, desiredOf(t, answer))

	// The files look for a process of this name, by killall -0.
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	haproxy := filepath.Join(folder, "haproxy")
	write(t, haproxy, string(program))
	if err := os.Chmod(haproxy, 0o700); err != nil {
		t.Fatal(err)
	}
	a.run(t, haproxy, "infinity")

	onA, onB := a.agent(t, file), b.agent(t, file)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	onA.stop(t)
	await(t, "haproxy stopped", map[*machine]string{a: "", b: both})
	onA = a.agent(t, file)
	await(t, "haproxy started again", map[*machine]string{a: vip1, b: vip3})
	onB.stop(t)
	await(t, "haproxy2 stopped", map[*machine]string{a: both, b: ""})
	onB = b.agent(t, file)
	await(t, "haproxy2 started again", map[*machine]string{a: vip1, b: vip3})
	onA.stop(t)
	onB.stop(t)
}

// TestKernelImportedBeside imports two files with a virtual Ethernet address, both families, a route and a file that takes a
// node out of service, and lets an agent take the place of one of the two keepalived, beside the other one.
func TestKernelImportedBeside(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	requireKeepalived(t)
	a, b := n.pairV6(t)
	out := filepath.Join(t.TempDir(), "out")
	const file = `
global_defs {
    vrrp_garp_master_refresh 30
}
track_file out {
    file %[1]s
    weight 0
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 53
    priority %[2]d
    version 3
    advert_int 0.1
    use_vmac
    vmac_xmit_base
    virtual_ipaddress {
        192.168.60.78/24
    }
    virtual_routes {
        10.9.0.0/16 via 192.168.60.99 metric 7
    }
    track_file {
        out
    }
}
vrrp_instance VI_6 {
    interface eth0
    virtual_router_id 53
    priority %[2]d
    advert_int 0.1
    native_ipv6
    virtual_ipaddress {
        fe80::78
        2001:db8:60::78/64
    }
    track_file {
        out
    }
}
`
	theirs := strings.ReplaceAll(fmt.Sprintf(file, "/nonexistent", 100), "/64", "/128")
	answer := a.imports(t, map[string][]byte{"haproxy": fmt.Appendf(nil, file, out, 105), "haproxy2": []byte(theirs)})
	desired := filepath.Join(t.TempDir(), "desired.yaml")
	write(t, desired, desiredOf(t, answer))
	onA, onB := a.agent(t, desired), b.keepalived(t, strings.ReplaceAll(theirs, "192.168.60.78/24", "192.168.60.78/32"))
	owner := func(what string, owner, other *machine) {
		t.Helper()
		awaitThat(t, what, func() string {
			cards, left := owner.Exec(t, "ip", "-o", "address"), other.Exec(t, "ip", "-o", "address")
			for _, want := range []string{"vrrp.53    inet " + vip1 + "/32", "eth0    inet6 " + vip6 + "/128", "eth0    inet6 " + vip6Link + "/128"} {
				if !strings.Contains(cards, want) || strings.Contains(left, want) {
					return owner.name + " has\n" + cards + other.name + " has\n" + left
				}
			}
			if !strings.Contains(owner.Exec(t, "ip", "route"), "10.9.0.0/16") || strings.Contains(other.Exec(t, "ip", "route"), "10.9.0.0/16") {
				return "the route is not where the address is"
			}
			return ""
		})
	}
	owner("started", a, b)
	write(t, out, "1\n")
	owner("taken out of service", b, a)
	if reason := onA.instances(t)["VI_1"].GetReason(); reason != "tracker out failed: file "+out+" holds 1" {
		t.Error(reason)
	}
	write(t, out, "0\n")
	owner("in service again", a, b)
	onA.stop(t)
	owner("the agent stopped", b, a)
	onB.stop(t)
}
