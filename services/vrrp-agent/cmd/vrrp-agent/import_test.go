package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
)

// TestKernelImported lets an agent import the tutorial's two files, and makes the tutorial's test of step 7 with what
// comes out: keepalived stopped on one machine and started again, and the mirror image. Nothing is changed but the
// folder of the passwords.
func TestKernelImported(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	folder := t.TempDir()
	empty := filepath.Join(folder, "empty.yaml")
	write(t, empty, "{}\n")
	first := a.agent(t, empty)
	request := &vrrpv1.ImportRequest{}
	for _, node := range []string{"haproxy", "haproxy2"} {
		text, err := os.ReadFile("../../internal/keepalived/testdata/keepalived-" + node + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		request.Files = append(request.Files, &vrrpv1.ImportFile{Node: node, Config: text})
	}
	answer, err := vrrpv1.NewAgentAdminClient(first.conn).Import(t.Context(), request, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	first.stop(t)
	if warnings := strings.Join(answer.GetReport().GetWarnings(), "\n"); strings.Count(warnings, "weight -5 of chk_haproxy can never move") != 2 {
		t.Errorf("warnings:\n%s", warnings)
	}

	var desired bytes.Buffer
	for _, o := range answer.GetObjects() {
		i := o.GetInstance()
		file := filepath.Join(folder, filepath.Base(i.GetAuthentication().GetPasswordFile()))
		write(t, file, map[string]string{"VI_1": "2222\n", "VI_3": "1111\n"}[i.GetName()])
		i.Authentication.PasswordFile = file
		text, err := protojson.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		desired.WriteString("---\n" + `{"kind": "instance", ` + strings.TrimPrefix(string(text), "{") + "\n")
	}
	file := filepath.Join(folder, "desired.yaml")
	write(t, file, desired.String())

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
