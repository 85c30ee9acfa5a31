package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/control"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/ipvs"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

const (
	// binaryVariable names the program for tests that run where it cannot be built.
	binaryVariable = "TWOTIER_TEST_DIRECTOR"
	// patience bounds every wait. It is far above what is ever needed; no test measures it.
	patience = 60 * time.Second
)

// buildDirector makes the program as it is shipped: static.
func buildDirector(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv(binaryVariable); binary != "" {
		return binary
	}
	binary := filepath.Join(t.TempDir(), "ipvs-director")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// director is the program, running in a namespace.
type director struct {
	t               *testing.T
	ns              *netnstest.NS
	binary, dir     string
	process         *exec.Cmd
	log             *lockedBuffer
	client          directorv1.DirectorClient
	admin           directorv1.DirectorAdminClient
	health          grpc_health_v1.HealthClient
	desired, socket string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newDirector(t *testing.T, ns *netnstest.NS, desired string) *director {
	t.Helper()
	d := &director{t: t, ns: ns, binary: buildDirector(t), dir: t.TempDir(), log: new(lockedBuffer)}
	d.desired, d.socket = filepath.Join(d.dir, "desired.yaml"), filepath.Join(d.dir, "control.sock")
	d.want(desired)
	conn, err := grpc.NewClient("unix:"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	d.client, d.admin, d.health = directorv1.NewDirectorClient(conn), directorv1.NewDirectorAdminClient(conn), grpc_health_v1.NewHealthClient(conn)
	t.Cleanup(func() {
		if d.process != nil {
			_ = d.process.Process.Kill()
			_ = d.process.Wait()
		}
		if t.Failed() {
			t.Logf("log of the director:\n%s", d.log)
		}
	})
	return d
}

// want puts another desired state in place, as an editor does.
func (d *director) want(desired string) {
	d.t.Helper()
	if err := os.WriteFile(d.desired+".new", []byte(desired), 0o644); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(d.desired+".new", d.desired); err != nil {
		d.t.Fatal(err)
	}
}

func (d *director) start(args ...string) {
	d.t.Helper()
	d.process = exec.Command(d.binary, append([]string{
		"--node", "lvs", "--desired", d.desired, "--state-dir", filepath.Join(d.dir, "state"), "--grpc-listen", "unix:" + d.socket,
	}, args...)...)
	d.process.Stderr = d.log
	var err error
	d.ns.Do(d.t, func() { err = d.process.Start() })
	if err != nil {
		d.t.Fatal(err)
	}
}

// stop ends the program and returns how it ended.
func (d *director) stop(signal os.Signal) *os.ProcessState {
	d.t.Helper()
	if err := d.process.Process.Signal(signal); err != nil {
		d.t.Fatal(err)
	}
	_ = d.process.Wait() // the state says it
	state := d.process.ProcessState
	d.process = nil
	return state
}

// until waits for a status.
func (d *director) until(what string, ok func(*commonv1.Status) bool) *commonv1.Status {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	var last *commonv1.Status
	for ctx.Err() == nil {
		stream, err := d.client.WatchStatus(ctx, &commonv1.WatchStatusRequest{}, grpc.WaitForReady(true))
		for err == nil {
			var s *commonv1.Status
			if s, err = stream.Recv(); err == nil {
				if last = s; ok(s) {
					return s
				}
			}
		}
	}
	d.t.Fatalf("waited for %s; the last status is\n%v", what, last)
	return nil
}

func done(s *commonv1.Status) bool { return s.GetOutcome() == commonv1.Outcome_OUTCOME_DONE }

// eventually tries until f succeeds.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// desiredState is one service on the VIP with two real servers, and the VIP itself.
func desiredState(n *planetest.Network, weightB int) string {
	return fmt.Sprintf(`kind: virtual-service
name: web
address: %s
port: 80
scheduler: wrr
drain_timeout: 2s
real_servers:
  - {address: %s, port: %d}
  - {address: %s, port: %d, weight: %d}
---
kind: address
name: vip
prefix: %[1]s/24
`, planetest.VIP, n.Reals[0].Addr(), n.Reals[0].Port(), n.Reals[1].Addr(), n.Reals[1].Port(), weightB)
}

func spread(t *testing.T, n *planetest.Network, connections int) map[netip.AddrPort]int {
	t.Helper()
	taken := map[netip.AddrPort]int{}
	for range connections {
		c, err := n.Dial(t, planetest.VIPPort)
		if err != nil {
			t.Fatal(err)
		}
		taken[c.Real]++
	}
	return taken
}

// drive runs the life of a director: first start, a change, hands of others, a crash, a restart, an orderly end.
func drive(t *testing.T, plane string, witness func(ns *netnstest.NS) string, wipe func(ns *netnstest.NS)) {
	n := planetest.NewNetwork(t)
	n.Director.Exec(t, "ip", "address", "delete", planetest.VIP+"/24", "dev", "outer")
	d := newDirector(t, n.Director, desiredState(n, 1))
	d.start("--dataplane", plane)
	d.until("the first good pass", done)

	serving, err := d.health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: control.Service})
	if err != nil || serving.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", serving, err)
	}
	answer, err := d.client.GetDataplane(t.Context(), &directorv1.GetDataplaneRequest{})
	if err != nil || answer.GetChosen() != plane {
		t.Errorf("data plane: %v, %v", answer, err)
	}
	if taken := spread(t, n, 6); taken[n.Reals[0]] != 3 || taken[n.Reals[1]] != 3 {
		t.Errorf("6 connections went %v", taken)
	}
	held, err := n.Dial(t, planetest.VIPPort)
	if err != nil {
		t.Fatal(err)
	}
	if text := witness(n.Director); !strings.Contains(text, planetest.VIP) || !strings.Contains(text, n.Reals[0].Addr().String()) {
		t.Errorf("the witness does not see the service:\n%s", text)
	} else {
		t.Logf("the witness:\n%s", text)
	}

	d.want(desiredState(n, 0))
	drained := fmt.Sprintf("set real server %s weight 0 of %s:80 (was 1)", n.Reals[1], planetest.VIP)
	d.until("the drain", func(s *commonv1.Status) bool { return done(s) && slices.Contains(s.GetLastChanges(), drained) })
	if taken := spread(t, n, 4); taken[n.Reals[0]] != 4 {
		t.Errorf("after the drain 4 connections went %v", taken)
	}
	held.Echo(t, "after the drain")
	services, err := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{})
	if err != nil || len(services.GetServices()) != 1 || services.GetServices()[0].GetAddress() != planetest.VIP+":80" ||
		len(services.GetServices()[0].GetRealServers()) != 2 || services.GetServices()[0].GetRealServers()[1].GetWeight() != 0 {
		t.Errorf("services: %v, %v", services, err)
	}

	if state := d.stop(syscall.SIGKILL); state.Success() {
		t.Errorf("killed, and ended with %v", state)
	}
	held.Echo(t, "the director is dead")
	spread(t, n, 2)
	d.start("--dataplane", plane)
	again := d.until("the first good pass after the crash", done)
	if len(again.GetLastChanges()) > 0 {
		t.Errorf("the restart changed: %v", again.GetLastChanges())
	}
	held.Echo(t, "the director is back")

	wipe(n.Director)
	n.Director.Exec(t, "ip", "address", "delete", planetest.VIP+"/24", "dev", "outer")
	eventually(t, "new connections after others have removed service and address", func() error {
		c, err := n.Dial(t, planetest.VIPPort)
		if err == nil {
			err = c.Close()
		}
		return err
	})

	if state := d.stop(syscall.SIGTERM); !state.Success() {
		t.Errorf("asked to end, and ended with %v", state)
	}
	if taken := spread(t, n, 2); taken[n.Reals[0]] != 2 {
		t.Errorf("without a director 2 connections went %v", taken)
	}
	d.want("kind: address\nname: other\nprefix: 10.10.60.23/24\n")
	d.start("--dataplane", plane)
	d.gone()
	if text := n.Director.Exec(t, "ip", "-4", "address", "show", "dev", "outer"); strings.Contains(text, planetest.VIP) || !strings.Contains(text, "10.10.60.23/24") {
		t.Errorf("the addresses are not as wanted:\n%s", text)
	}
}

// gone waits until no service is left: connections were open, so that it leaves only when its time is up.
func (d *director) gone() {
	d.t.Helper()
	eventually(d.t, "the removal of the service", func() error {
		services, err := d.client.ListServices(d.t.Context(), &directorv1.ListServicesRequest{})
		if err == nil && len(services.GetServices()) > 0 {
			err = fmt.Errorf("there is %v", services)
		}
		return err
	})
	d.until("a good pass after it", done)
}

// drainUnderLoad takes a real server out of the desired state while 100 connections are open, and has the director killed
// meanwhile: no new connection goes there, no byte of the old ones is lost, and with the last of them it is gone. Before that,
// a real server that cannot be reached gets none.
func drainUnderLoad(t *testing.T, plane string) {
	n := planetest.NewNetwork(t)
	d := newDirector(t, n.Director, "")
	want := func(reals ...netip.AddrPort) {
		text := fmt.Sprintf("kind: virtual-service\nname: web\naddress: %s\nport: 80\nscheduler: rr\ncheck: {tcp: {}, interval: 0.2s, timeout: 0.5s, fall: 2}\nreal_servers:\n", planetest.VIP)
		for _, r := range reals {
			text += fmt.Sprintf("- {address: %s, port: %d}\n", r.Addr(), r.Port())
		}
		d.want(text)
	}
	weights := func(is ...uint32) {
		t.Helper()
		eventually(t, fmt.Sprintf("weights %v", is), func() error {
			services, err := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{}, grpc.WaitForReady(true))
			var got []uint32
			for _, s := range services.GetServices() {
				for _, r := range s.GetRealServers() {
					got = append(got, r.GetWeight())
				}
			}
			if err == nil && !slices.Equal(got, is) {
				err = fmt.Errorf("they are %v: %v", got, services)
			}
			return err
		})
	}
	want(n.Reals[0], n.Reals[1])
	d.start("--dataplane", plane)
	weights(1, 1)
	n.Director.Exec(t, "ip", "link", "set", "inner1", "down")
	weights(1, 0)
	if taken := spread(t, n, 4); taken[n.Reals[0]] != 4 {
		t.Errorf("with one that cannot be reached 4 connections went %v", taken)
	}
	n.Director.Exec(t, "ip", "link", "set", "inner1", "up")
	weights(1, 1)

	var old, there []*planetest.Conn
	for range 100 {
		c, err := n.Dial(t, planetest.VIPPort)
		if err != nil {
			t.Fatal(err)
		}
		if old = append(old, c); c.Real == n.Reals[1] {
			there = append(there, c)
		}
	}
	if len(there) != 50 {
		t.Fatalf("of 100 connections %d went to the one of two", len(there))
	}
	want(n.Reals[0])
	weights(1, 0)
	quiet := func(when string) {
		t.Helper()
		if taken := spread(t, n, 20); taken[n.Reals[1]] != 0 {
			t.Errorf("%s: of 20 new connections %d went to the drained one", when, taken[n.Reals[1]])
		}
		for _, c := range old {
			c.Echo(t, when)
		}
	}
	quiet("draining")
	d.stop(syscall.SIGKILL)
	quiet("without a director")
	d.start("--dataplane", plane)
	d.until("a good pass after the crash", done)
	weights(1, 0)
	quiet("with a new director")
	for _, c := range there {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	weights(1)
}

func TestKernelDirectorOnNFTables(t *testing.T) {
	t.Parallel()
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "the nft program, as a witness: install nftables")
	}
	t.Run("drain", func(t *testing.T) { drainUnderLoad(t, dataplane.NFTables) })
	drive(t, dataplane.NFTables,
		func(ns *netnstest.NS) string { return ns.Exec(t, "nft", "list", "ruleset") },
		func(ns *netnstest.NS) { ns.Exec(t, "nft", "flush", "ruleset") })
}

func TestKernelDirectorOnIPVS(t *testing.T) {
	netnstest.Require(t)
	if !ipvs.Probe().Usable {
		end := planetest.UML.Start(t, "^"+t.Name()+"$", binaryVariable+"="+buildDirector(t))
		t.Parallel()
		end()
		return
	}
	if _, err := exec.LookPath("ipvsadm"); err != nil {
		testreq.Missing(t, "the ipvsadm program, as a witness: install ipvsadm")
	}
	t.Run("drain", func(t *testing.T) { drainUnderLoad(t, dataplane.IPVS) })
	drive(t, dataplane.IPVS,
		func(ns *netnstest.NS) string { return ns.Exec(t, "ipvsadm", "-Ln") },
		func(ns *netnstest.NS) { ns.Exec(t, "ipvsadm", "-C") })
}

// A kernel without IPVS is an answer, not a success and not a crash.
func TestKernelDirectorWithoutIPVS(t *testing.T) {
	t.Parallel()
	netnstest.Require(t)
	if ipvs.Probe().Usable {
		t.Log("this kernel has IPVS: what happens without it shows elsewhere")
		return
	}
	n := planetest.NewNetwork(t)
	n.Director.Exec(t, "ip", "address", "delete", planetest.VIP+"/24", "dev", "outer")
	d := newDirector(t, n.Director, desiredState(n, 1))
	d.start("--dataplane", dataplane.IPVS)
	const reason = "no IPVS in this kernel"
	s := d.until("the reason", func(s *commonv1.Status) bool { return strings.Contains(s.GetError(), reason) })
	if s.GetOutcome() != commonv1.Outcome_OUTCOME_RETRY {
		t.Errorf("outcome %v", s.GetOutcome())
	}
	plane, err := d.client.GetDataplane(t.Context(), &directorv1.GetDataplaneRequest{})
	if err != nil || plane.GetChosen() != "" || len(plane.GetPlanes()) != 2 || plane.GetPlanes()[0].GetUsable() || !strings.Contains(plane.GetPlanes()[0].GetReason(), reason) {
		t.Errorf("data plane: %v, %v", plane, err)
	}
	_, applied := d.admin.Apply(t.Context(), &directorv1.ApplyRequest{})
	_, reconciled := d.admin.Reconcile(t.Context(), &commonv1.ReconcileRequest{})
	_, listed := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{})
	for name, err := range map[string]error{"Apply": applied, "Reconcile": reconciled, "ListServices": listed} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(status.Convert(err).Message(), reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, service := range []string{"", control.Service} {
		serving, err := d.health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || serving.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("health of %q: %v, %v", service, serving, err)
		}
	}
	if text := n.Director.Exec(t, "ip", "-4", "address", "show", "dev", "outer"); strings.Contains(text, planetest.VIP) {
		t.Errorf("the VIP is there although nothing serves it:\n%s", text)
	}
	// The same with auto falls back, and says why.
	d.stop(syscall.SIGTERM)
	if r := nftables.Probe(); !r.Usable {
		return
	}
	d.start()
	s = d.until("the first good pass on another plane", done)
	if text := strings.Join(s.GetNotes(), "\n"); !strings.Contains(text, "data plane nftables (asked for: auto)") || !strings.Contains(text, reason) {
		t.Errorf("notes:\n%s", text)
	}
	spread(t, n, 2)
}
