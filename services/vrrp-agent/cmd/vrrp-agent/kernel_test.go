package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	health1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/etcdtest"
)

const both = vip3 + " " + vip1

// TestKernelDualMaster is the tutorial's step 7, with a witness on the wire, and what the tutorial did not try: the
// agent killed, and the address deleted by hand.
func TestKernelDualMaster(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	desired := tutorial(t, "")
	onA, onB := a.agent(t, desired), b.agent(t, desired)

	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	advert := "advert 53 priority 105 from 192.168.60.22 to 224.0.0.18 (01:00:5e:00:00:12): ttl 255 tos 0xc0 df false: " +
		"213569010101" + "136d" + "c0a83c4e" + "3232323200000000"
	arp := fmt.Sprintf("arp %s from %s to ff:ff:ff:ff:ff:ff: operation 1 sender %s target ff:ff:ff:ff:ff:ff",
		vip1, a.mac(t, "eth0"), a.mac(t, "eth0"))
	awaitThat(t, "adverts and announcements of VI_1", func() string {
		if w.count(0, advert) < 5 || w.count(0, arp) < 10 {
			return fmt.Sprintf("%d of %s\n%d of %s", w.count(0, advert), advert, w.count(0, arp), arp)
		}
		return ""
	})

	onA.stop(t)
	if held := a.held(t); held != "" {
		t.Errorf("%s is left after the end", held)
	}
	if w.count(0, "advert 53 priority 0 from 192.168.60.22") != 0 || !strings.Contains(onB.output.String(), "node haproxy hands over") {
		t.Error("the master did not hand over")
	}
	await(t, "haproxy stopped", map[*machine]string{a: "", b: both})
	onA = a.agent(t, desired)
	await(t, "haproxy started again", map[*machine]string{a: vip1, b: vip3})

	onB.stop(t)
	await(t, "haproxy2 stopped", map[*machine]string{a: both, b: ""})
	onB = b.agent(t, desired)
	await(t, "haproxy2 started again", map[*machine]string{a: vip1, b: vip3})

	since := len(w.all())
	a.Exec(t, "ip", "address", "del", vip1+"/32", "dev", "eth0")
	await(t, "address deleted by hand", map[*machine]string{a: vip1, b: vip3})
	awaitThat(t, "announcements after that", func() string {
		if got := w.count(since, arp); got < 5 {
			return fmt.Sprintf("%d announcements", got)
		}
		return ""
	})
	if i := onA.instances(t)["VI_1"]; i.GetState() != vrrpv1.State_STATE_MASTER || w.count(since, "advert 53 priority 0") > 0 {
		t.Errorf("the instance left its state over a deleted address: %v", i)
	}

	b.Exec(t, "ip", "address", "add", vip1+"/32", "dev", "eth0")
	await(t, "address added by hand on the backup", map[*machine]string{a: vip1, b: vip3})

	onA.kill(t)
	await(t, "haproxy killed", map[*machine]string{a: "", b: both})
	a.Exec(t, "ip", "address", "add", vip1+"/32", "dev", "eth0") // as something left behind that has no lifetime
	onA = a.agent(t, desired)
	awaitThat(t, "the left address is removed before the election", func() string {
		if !strings.Contains(onA.output.String(), "left by an earlier run") {
			return "no clean-up in the log"
		}
		return ""
	})
	await(t, "haproxy started after the kill", map[*machine]string{a: vip1, b: vip3})
	onB.stop(t)
	onA.stop(t)
}

// TestKernelMovedAwayWhileDown: an instance that is moved to other nodes while this agent is dead leaves no address here.
func TestKernelMovedAwayWhileDown(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a := n.machine(t, "haproxy", "192.168.60.22/24")
	onA := a.agent(t, tutorial(t, ""))
	await(t, "started", map[*machine]string{a: both})
	onA.kill(t)
	// As if it came back before the kernel has removed them.
	for _, address := range []string{vip1, vip3} {
		a.Exec(t, "ip", "address", "replace", address+"/32", "dev", "eth0", "label", "eth0:vrrp", "valid_lft", "forever", "preferred_lft", "forever")
	}
	a.Exec(t, "ip", "address", "add", "192.168.60.200/32", "dev", "eth0") // somebody else's
	empty := filepath.Join(t.TempDir(), "desired.yaml")
	if err := os.WriteFile(empty, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	onA = a.agent(t, empty)
	await(t, "started again with nothing wanted", map[*machine]string{a: "192.168.60.200"})
	onA.stop(t)
}

// TestKernelHeldUp stops the backup's process for longer than it would wait for a master. When it goes on it must not
// take over: the adverts of the meantime lie in its socket.
func TestKernelHeldUp(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	desired := tutorial(t, "")
	a.agent(t, desired)
	onB := b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})

	adverts := func(since, want int) {
		t.Helper()
		awaitThat(t, "adverts of VI_1", func() string {
			if got := w.count(since, "advert 53 priority 105"); got < want {
				return fmt.Sprintf("%d adverts, want %d", got, want)
			}
			return ""
		})
	}
	onB.signal(t, syscall.SIGSTOP)
	since := len(w.all())
	adverts(since, 6) // more than three missed
	onB.signal(t, syscall.SIGCONT)
	adverts(len(w.all()), 2)
	if got := w.count(since, "advert 53 priority 99"); got != 0 {
		t.Errorf("the backup took over %d times", got)
	}
	await(t, "both go on", map[*machine]string{a: vip1, b: vip3})
}

// TestKernelTracker lets the watched service on one node fail and come back.
func TestKernelTracker(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	onNode := map[string]*health.Server{}
	sockets := map[string]string{}
	for _, node := range []string{"haproxy", "haproxy2"} {
		sockets[node] = filepath.Join(t.TempDir(), "router.sock")
		listener, err := net.Listen("unix", sockets[node])
		if err != nil {
			t.Fatal(err)
		}
		server, state := grpc.NewServer(), health.NewServer()
		health1.RegisterHealthServer(server, state)
		onNode[node] = state
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		t.Cleanup(func() {
			server.Stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
	desired := tutorial(t, fmt.Sprintf("trackers: [{name: router, grpc_health: {address: {haproxy: 'unix:%s', haproxy2: 'unix:%s'}}}]\n",
		sockets["haproxy"], sockets["haproxy2"]))
	onA := a.agent(t, desired)
	b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})

	onNode["haproxy"].SetServingStatus("", health1.HealthCheckResponse_NOT_SERVING)
	await(t, "router of haproxy failed", map[*machine]string{a: "", b: both})
	i := onA.instances(t)["VI_1"]
	if want := `tracker router failed: health of "": NOT_SERVING`; i.GetState() != vrrpv1.State_STATE_FAULT || i.GetReason() != want {
		t.Errorf("got %v, want fault because of %s", i, want)
	}
	onNode["haproxy"].SetServingStatus("", health1.HealthCheckResponse_SERVING)
	await(t, "router of haproxy is back", map[*machine]string{a: vip1, b: vip3})
}

// TestKernelCard renames, empties and replaces the network card of a master.
func TestKernelCard(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired := tutorial(t, "")
	onA := a.agent(t, desired)
	b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	inFault := func(reason string) {
		t.Helper()
		awaitThat(t, "fault", func() string {
			i := onA.instances(t)["VI_1"]
			if i.GetState() != vrrpv1.State_STATE_FAULT || !strings.Contains(i.GetReason(), reason) {
				return fmt.Sprintf("%v %s, want fault because of %q", i.GetState(), i.GetReason(), reason)
			}
			return ""
		})
	}

	a.Exec(t, "ip", "link", "set", "eth0", "down")
	inFault("is down")
	a.Exec(t, "ip", "link", "set", "eth0", "name", "lan0")
	a.Exec(t, "ip", "link", "set", "lan0", "up")
	await(t, "card renamed", map[*machine]string{a: vip1, b: vip3})

	a.Exec(t, "ip", "address", "del", "192.168.60.22/24", "dev", "lan0")
	inFault("no network card has an address in a subnet with [192.168.60.78]")
	await(t, "own address gone", map[*machine]string{a: "", b: both})
	a.Exec(t, "ip", "address", "add", "192.168.60.22/24", "dev", "lan0")
	await(t, "own address back", map[*machine]string{a: vip1, b: vip3})

	a.Exec(t, "ip", "link", "del", "lan0")
	inFault("no network card has an address in a subnet with [192.168.60.78]")
	await(t, "card pulled out", map[*machine]string{a: "", b: both})
	a.plug(t, "eth2", "192.168.60.22/24")
	await(t, "another card plugged in", map[*machine]string{a: vip1, b: vip3})
}

// master waits until the agent says that it is master of the instance; the addresses are there a moment before.
func master(t *testing.T, a *agent, name string) (i *vrrpv1.InstanceState) {
	t.Helper()
	awaitThat(t, "state of "+name, func() string {
		if i = a.instances(t)[name]; i.GetState() != vrrpv1.State_STATE_MASTER {
			return fmt.Sprint(i)
		}
		return ""
	})
	return i
}

// TestKernelUpdate changes the desired state under a running pair: nothing moves but what has to.
func TestKernelUpdate(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	desired := tutorial(t, "")
	onA := a.agent(t, desired)
	b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	before := master(t, onA, "VI_1").GetTransitions()

	text, err := os.ReadFile(desired)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "{node: haproxy, priority: 105}", "{node: haproxy, priority: 110}", 1)
	changed = strings.Replace(changed, `["`+vip1+`"]`, `["`+vip1+`", "192.168.60.79"]`, 1)
	since := len(w.all())
	if err := os.WriteFile(desired, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "an address more", map[*machine]string{a: vip1 + " 192.168.60.79", b: vip3})
	awaitThat(t, "adverts of the new priority", func() string {
		if w.count(since, "advert 53 priority 110") == 0 {
			return "none"
		}
		return ""
	})
	if i := onA.instances(t)["VI_1"]; i.GetTransitions() != before || w.count(since, "advert 53 priority 0") > 0 {
		t.Errorf("the update has changed the state: %v", i)
	}
}

// complaints are words that keepalived uses when it does not like an advert.
var complaints = regexp.MustCompile(`(?i)error|invalid|mismatch|bogus|wrong|incorrect|unable|fail|expected|dropp`)

// TestKernelKeepalived pairs the agent with keepalived, both ways: each is master of one instance and backup of the
// other, with the tutorial's configuration.
func TestKernelKeepalived(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	requireKeepalived(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired := tutorial(t, "")

	onA, onB := a.agent(t, desired), b.keepalived(t, keepalivedOnHaproxy2)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	onA.stop(t)
	await(t, "agent stopped", map[*machine]string{a: "", b: both})
	onA = a.agent(t, desired)
	await(t, "agent started again", map[*machine]string{a: vip1, b: vip3})
	first := onB.output.String()
	onB.stop(t)
	await(t, "keepalived stopped", map[*machine]string{a: both, b: ""})
	onB = b.keepalived(t, keepalivedOnHaproxy2)
	await(t, "keepalived started again", map[*machine]string{a: vip1, b: vip3})

	content(t, first+onB.output.String(), onA)
	onA.stop(t)
	onB.stop(t)
}

// TestKernelKeepalivedWithoutPassword is the same with authentication type 0.
func TestKernelKeepalivedWithoutPassword(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	requireKeepalived(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	file := tutorial(t, "")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	open := regexp.MustCompile(`(?m)^authentication:.*$`).ReplaceAllString(string(text), "profile: PROFILE_COMPAT")
	if err := os.WriteFile(file, []byte(open), 0o600); err != nil {
		t.Fatal(err)
	}
	onA, onB := a.agent(t, file), b.keepalived(t, keepalivedAuthentication.ReplaceAllString(keepalivedOnHaproxy2, ""))
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	awaitThat(t, "adverts", func() string {
		all := onA.instances(t)
		if all["VI_1"].GetAdvertsSent() < 3 || all["VI_3"].GetAdvertsReceived() < 3 {
			return fmt.Sprint(all)
		}
		return ""
	})
	await(t, "no change", map[*machine]string{a: vip1, b: vip3})
	content(t, onB.output.String(), onA)
}

// TestKernelKeepalivedVersion3 is the same in version 3, where each side has an interval of its own: the backup goes by
// its master's.
func TestKernelKeepalivedVersion3(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	requireKeepalived(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	desired := version3(t, "profile: PROFILE_FAST")
	configuration := keepalivedVersion3(400)

	onA, onB := a.agent(t, desired), b.keepalived(t, configuration)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	since, before := len(w.all()), onA.instances(t)["VI_3"].GetTransitions()
	adverts := []string{
		"advert 53 priority 105 from 192.168.60.22 to 224.0.0.18 (01:00:5e:00:00:12): ttl 255 tos 0xc0 df false: 313569010003",
		"advert 56 priority 105 from 192.168.60.128 to 224.0.0.18 (01:00:5e:00:00:12): ttl 255 tos 0xc0 df false: 313869010028",
	}
	awaitThat(t, "adverts", func() string {
		if w.count(since, adverts[0]) < 50 || w.count(since, adverts[1]) < 4 {
			return fmt.Sprintf("%d and %d", w.count(since, adverts[0]), w.count(since, adverts[1]))
		}
		return ""
	})
	all := onA.instances(t)
	form := vrrpv1.ChecksumForm_CHECKSUM_FORM_PSEUDO_HEADER
	if i := all["VI_3"]; i.GetTransitions() != before || i.GetVersion() != 3 || i.GetChecksum() != form ||
		i.GetPeerChecksums()["192.168.60.128"] != form {
		t.Errorf("backup of a slower master: %v", i)
	}
	onA.stop(t)
	await(t, "agent stopped", map[*machine]string{a: "", b: both})
	onA = a.agent(t, desired)
	await(t, "agent started again", map[*machine]string{a: vip1, b: vip3})
	first := onB.output.String()
	onB.stop(t)
	await(t, "keepalived stopped", map[*machine]string{a: both, b: ""})
	onB = b.keepalived(t, configuration)
	await(t, "keepalived started again", map[*machine]string{a: vip1, b: vip3})

	content(t, first+onB.output.String(), onA)
	onA.stop(t)
	onB.stop(t)
}

// content checks that keepalived and the agent have found nothing wrong with each other.
func content(t *testing.T, log string, a *agent) {
	t.Helper()
	for line := range strings.Lines(log) {
		if complaints.MatchString(line) {
			t.Errorf("keepalived says: %s", line)
		}
	}
	for name, i := range a.instances(t) {
		if len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
			t.Errorf("%s: %v", name, i)
		}
	}
}

// TestKernelEtcdLost applies an instance through the control API, then takes etcd away: the address stays, and a
// restarted agent goes on with what it knew.
func TestKernelEtcdLost(t *testing.T) {
	t.Parallel()
	a := newLAN(t).machine(t, "haproxy", "192.168.60.22/24")
	if _, err := agentFile(); err != nil { // built outside of the namespace
		t.Fatal(err)
	}
	// All of it inside: etcd ends with the thread that has started it.
	a.Do(t, func() { etcdLost(t, a, etcdtest.Start(t)) })
}

func etcdLost(t *testing.T, a *machine, etcd *etcdtest.Etcd) {
	t.Helper()
	state := t.TempDir()
	start := func() *agent {
		return a.agentWith(t, "--etcd", strings.Join(etcd.Endpoints(), ","), "--state-dir", state)
	}
	onA := start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := health1.NewHealthClient(onA.conn).Check(ctx, &health1.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "serving", func() string {
		answer, err := health1.NewHealthClient(onA.conn).Check(ctx, &health1.HealthCheckRequest{})
		if err != nil || answer.GetStatus() != health1.HealthCheckResponse_SERVING {
			return fmt.Sprintf("health %v %v", answer, err)
		}
		return ""
	})
	instance := &vrrpv1.Instance{
		Name: "VI_1", VirtualRouterId: 53, VirtualAddresses: []string{vip1},
		Members: []*vrrpv1.Member{{Node: "haproxy", Priority: 105}, {Node: "haproxy2", Priority: 99}},
	}
	admin := vrrpv1.NewAgentAdminClient(onA.conn)
	instance.Members[1].Priority = 105
	_, err := admin.Apply(ctx, &vrrpv1.ApplyRequest{Object: &vrrpv1.Object{Kind: &vrrpv1.Object_Instance{Instance: instance}}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("equal priorities: got %v", err)
	}
	instance.Members[1].Priority = 99
	answer, err := admin.Apply(ctx, &vrrpv1.ApplyRequest{Object: &vrrpv1.Object{Kind: &vrrpv1.Object_Instance{Instance: instance}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(answer.GetChanges()), "[start instance VI_1: virtual router 53, priority 105, [192.168.60.78]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	await(t, "applied", map[*machine]string{a: vip1})

	before := master(t, onA, "VI_1").GetTransitions()
	etcd.Stop()
	awaitThat(t, "the loss of etcd in the status", func() string {
		s, err := vrrpv1.NewAgentClient(onA.conn).GetStatus(ctx, &commonv1.GetStatusRequest{})
		if err != nil || s.GetDesired().GetSourceAvailable() {
			return fmt.Sprintf("%v %v", s, err)
		}
		return ""
	})
	await(t, "etcd lost", map[*machine]string{a: vip1})
	if i := onA.instances(t)["VI_1"]; i.GetTransitions() != before {
		t.Errorf("the loss of etcd has changed the state: %v", i)
	}
	onA.stop(t)
	await(t, "stopped", map[*machine]string{a: ""})
	start()
	await(t, "started again without etcd", map[*machine]string{a: vip1})
}
