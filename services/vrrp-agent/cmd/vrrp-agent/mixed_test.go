package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/testreq"
)

// only is one instance of the pair as desired state, with more lines.
func only(t *testing.T, priority int, more string) string {
	t.Helper()
	file := t.TempDir() + "/desired.yaml"
	text := fmt.Sprintf("kind: instance\nname: VI_1\nvirtual_router_id: 53\nvirtual_addresses: [%s]\nmembers:\n"+
		"  - {node: haproxy, priority: %d, addresses: [192.168.60.22]}\n  - {node: haproxy2, priority: 100, addresses: [192.168.60.128]}\n%s\n",
		vip1, priority, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestKernelMixedPair lets the agent and keepalived take each other's place: started, killed, cut off, and with another
// priority, in both versions, by multicast and by unicast.
func TestKernelMixedPair(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	const unicast = "    unicast_src_ip 192.168.60.128\n    unicast_peer {\n        192.168.60.22\n    }\n"
	for name, tt := range map[string]struct{ ours, theirs string }{
		"version 2":          {"profile: PROFILE_COMPAT", "    version 2\n    advert_int 1\n"},
		"version 3":          {"advert_interval: 0.1s", "    version 3\n    advert_int 0.1\n"},
		"version 3, unicast": {"advert_interval: 0.1s\nunicast: true", "    version 3\n    advert_int 0.1\n" + unicast},
		"version 2, unicast": {"profile: PROFILE_COMPAT\nunicast: true", "    version 2\n    advert_int 1\n" + unicast},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			requireKeepalived(t)
			a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
			keepalived := func() *process {
				return b.keepalived(t, "vrrp_instance VI_1 {\n    state BACKUP\n    interface eth0\n    virtual_router_id 53\n    priority 100\n"+
					tt.theirs+"    virtual_ipaddress {\n        192.168.60.78\n    }\n}\n")
			}
			ours, theirs := map[*machine]string{a: vip1, b: ""}, map[*machine]string{a: "", b: vip1}
			onA, onB := a.agent(t, only(t, 105, tt.ours)), keepalived()
			await(t, "started", ours)
			awaitThat(t, "adverts", func() string {
				if i := onA.instances(t)["VI_1"]; i.GetAdvertsSent() < 8 {
					return fmt.Sprint(i)
				}
				return ""
			})
			await(t, "no change", ours)
			onA.kill(t)
			await(t, "agent killed", theirs)
			onA = a.agent(t, only(t, 105, tt.ours))
			await(t, "agent is back", ours)
			a.cut(t, "dispatch network")
			await(t, "cut off", map[*machine]string{a: vip1, b: vip1}) // as VRRP has it
			a.cut(t, "none")
			await(t, "found again", ours)
			onA.stop(t)
			await(t, "agent stopped", theirs)
			onA = a.agent(t, only(t, 95, tt.ours))
			awaitThat(t, "the agent hears the better one", func() string {
				if i := onA.instances(t)["VI_1"]; i.GetAdvertsReceived() < 5 {
					return fmt.Sprint(i)
				}
				return ""
			})
			await(t, "the lower priority", theirs)
			onB.stop(t)
			await(t, "keepalived stopped", ours)
			onB = keepalived()
			await(t, "keepalived is back", theirs)
			for line := range strings.Lines(onB.output.String()) {
				if complaints.MatchString(line) {
					t.Errorf("keepalived says: %s", line)
				}
			}
			if i := onA.instances(t)["VI_1"]; len(i.GetDropped()) > 0 {
				t.Errorf("%v", i)
			}
			onA.stop(t)
			onB.stop(t)
		})
	}
}

// TestKernelLeftBehind kills keepalived, whose address stays on its machine for good: the agent takes over all the same, and
// tells the network again each time that the dead one's kernel claims the address.
func TestKernelLeftBehind(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	requireKeepalived(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	onB := b.keepalived(t, "vrrp_instance VI_1 {\n    state MASTER\n    interface eth0\n    virtual_router_id 53\n    priority 110\n"+
		"    version 3\n    advert_int 0.1\n    virtual_ipaddress {\n        192.168.60.78\n    }\n}\n")
	await(t, "keepalived holds it", map[*machine]string{b: vip1})
	onA := a.agent(t, only(t, 105, "advert_interval: 0.1s"))
	awaitThat(t, "the agent hears it", func() string {
		if i := onA.instances(t)["VI_1"]; i.GetAdvertsReceived() < 3 {
			return fmt.Sprint(i)
		}
		return ""
	})
	for _, pid := range append(childrenOf(onB.command.Process.Pid), onB.command.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone is as good
	}
	await(t, "taken over", map[*machine]string{a: vip1, b: vip1})
	arp := fmt.Sprintf("arp %s from %s", vip1, a.mac(t, "eth0"))
	awaitThat(t, "the announcements of the take-over", func() string {
		if got := w.count(0, arp); got < 10 {
			return fmt.Sprint(got)
		}
		return ""
	})
	since := len(w.all())
	// What a kernel says that looks for somebody in the name of the address.
	awaitThat(t, "the claim is heard, and answered", func() string {
		b.ask(t, "eth0", vip1, "192.168.60.1")
		i := onA.instances(t)["VI_1"]
		if i.GetForeignClaims() == 0 || w.count(since, arp) < 5 {
			return fmt.Sprintf("%d announcements, %v", w.count(since, arp), i)
		}
		return ""
	})
	onA.stop(t)
}

// TestKernelBusy: adverts every 10 ms while all processors are busy: the backup never misses three of them. 10 s, or as
// long as TWOTIER_BUSY says. It needs real-time priority.
func TestKernelBusy(t *testing.T) {
	length := 10 * time.Second
	if text := os.Getenv("TWOTIER_BUSY"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired := only(t, 105, "advert_interval: 0.01s")
	onA, onB := a.agent(t, desired), b.agent(t, desired)
	await(t, "started", map[*machine]string{a: vip1, b: ""})
	awaitThat(t, "the agents know each other", func() string {
		if i := onA.instances(t)["VI_1"]; len(i.GetAgents()) != 1 {
			return fmt.Sprint(i)
		}
		return ""
	})
	if strings.Contains(onA.output.String(), "no real-time priority") {
		testreq.Missing(t, "real-time priority (CAP_SYS_NICE)")
	}
	before, beforeB := onA.instances(t)["VI_1"], onB.instances(t)["VI_1"]
	for range runtime.NumCPU() {
		a.run(t, "sh", "-c", "while :; do :; done")
	}
	enough := before.GetAdvertsSent() + uint64(length/(10*time.Millisecond))*9/10
	deadline := time.Now().Add(length + patience)
	awaitUntil(t, deadline, "adverts", func() string {
		if i := onA.instances(t)["VI_1"]; i.GetAdvertsSent() < enough {
			return fmt.Sprint(i)
		}
		return ""
	})
	afterA, afterB := onA.instances(t)["VI_1"], onB.instances(t)["VI_1"]
	if afterA.GetTransitions() != before.GetTransitions() || afterB.GetTransitions() != beforeB.GetTransitions() ||
		afterB.GetTakeoversPrevented() > 0 {
		t.Errorf("the state has changed:\n%v\n%v", afterA, afterB)
	}
	t.Logf("%d adverts, %d heard", afterA.GetAdvertsSent()-before.GetAdvertsSent(), afterB.GetAdvertsReceived())
	onA.stop(t)
	onB.stop(t)
}
