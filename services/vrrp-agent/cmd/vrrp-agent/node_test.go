package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// guestMAC is the Ethernet address that qemu gives its first card.
const guestMAC = "52:54:00:12:34:56"

// guest is a whole machine, with a kernel of its own, on the network: haproxy, which runs the agent and nothing else.
type guest struct {
	*process
	qemu int
}

// guest starts it. It answers after some 15 s.
func (n *lan) guest(t *testing.T, desired string) *guest {
	t.Helper()
	script, err := filepath.Abs("../../../../scripts/qemu-run")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), script, "-c").CombinedOutput(); err != nil {
		testreq.Missing(t, string(out))
	}
	file, err := agentFile()
	if err != nil {
		t.Fatal(err)
	}
	n.hub.Exec(t, "ip", "tuntap", "add", "haproxy", "mode", "tap")
	n.hub.Exec(t, "ip", "link", "set", "haproxy", "up", "master", "switch")
	g := &guest{process: (&machine{NS: n.hub, name: "switch"}).run(t, script, "-n", "haproxy", "sh", "-c",
		"ip address add 192.168.60.22/24 dev eth0; ip link set eth0 up; exec "+file+
			" --node haproxy --desired "+desired+" --state-dir /run/tmp --grpc-listen unix:/run/tmp/control.sock")}
	t.Cleanup(func() {
		for _, timeout := range childrenOf(g.command.Process.Pid) { // which ends qemu, also when that is frozen
			_ = syscall.Kill(timeout, syscall.SIGTERM) // gone is as good
		}
		<-g.exited
	})
	awaitThat(t, "qemu runs", func() string {
		for _, timeout := range childrenOf(g.command.Process.Pid) {
			for _, child := range childrenOf(timeout) {
				if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err == nil && strings.HasPrefix(string(name), "qemu") {
					g.qemu = child
					return ""
				}
			}
		}
		return "there is no such process"
	})
	return g
}

// TestKernelFrozenNode freezes a whole machine for ten seconds, its kernel with all that runs on it, while it holds the
// address, and thaws it. What was asked meanwhile lies before its card, and is not answered; it says nothing of the address
// before it has let go, has listened, and has been given the address back.
func TestKernelFrozenNode(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	b, witness := n.machine(t, "haproxy2", "192.168.60.128/24"), n.machine(t, "witness", "192.168.60.1/24")
	w, c := witness.watch(t, "eth0"), witness.census(t, "eth0", vip1)
	desired := family4.desired(t, 105, "advert_interval: 1s")
	g, onB := n.guest(t, desired), b.agent(t, desired)
	c.await(t, guestMAC)
	awaitThat(t, "the agents know each other", func() string {
		if i := onB.instances(t)["VI_1"]; len(i.GetAgents()) != 1 || !i.GetAgents()[0].GetOwner() {
			return fmt.Sprint(i)
		}
		return ""
	})
	if err := syscall.Kill(g.qemu, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	frozen := c.mark()
	c.await(t, b.mac(t, "eth0"))
	awaitThat(t, "ten thousand questions", func() string {
		if got := c.mark(); got < frozen+10_000 {
			return fmt.Sprint(got - frozen)
		}
		return ""
	})
	thawed, lines := c.mark(), len(w.all())
	if err := syscall.Kill(g.qemu, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.await(t, guestMAC)
	t.Logf("frozen: %v", c.between(frozen, thawed))
	t.Logf("thawed: %v", c.count(thawed))
	if late := c.answered(guestMAC, frozen, thawed); late > 0 {
		t.Errorf("%d questions of the meantime were answered", late)
	}
	resigned, listened := false, false
	for _, line := range w.all()[lines:] {
		own := strings.HasPrefix(line, "advert 53 priority 105 from 192.168.60.22") || strings.HasPrefix(line, "arp "+vip1+" from "+guestMAC)
		switch {
		case strings.HasPrefix(line, "advert 53 priority 0 from 192.168.60.22"):
			resigned = true
		case strings.HasPrefix(line, "advert 53 priority 100 from 192.168.60.128"):
			listened = listened || resigned
		case own && !listened:
			t.Errorf("before it has listened: %s", line)
		}
	}
	if !listened || !strings.Contains(onB.output.String(), "handed over to node haproxy") {
		t.Error("the node has not let go, or has not been given the address back")
	}
	onB.stop(t)
}
