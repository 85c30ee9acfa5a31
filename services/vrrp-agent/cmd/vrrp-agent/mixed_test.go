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

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/testreq"
)

// entered is how keepalived tells that it takes over.
const entered = "Entering MASTER STATE"

// TestKernelMixedPair lets the agent and keepalived take each other's place: started, killed, cut off, and with another
// priority, in both versions and families, by multicast and by unicast. Nobody changes its state more often than that.
func TestKernelMixedPair(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	const (
		compat, theirs2 = "profile: PROFILE_COMPAT\n", "    version 2\n    advert_int 1\n"
		fast, theirs3   = "advert_interval: 0.1s\n", "    version 3\n    advert_int 0.1\n"
	)
	for name, tt := range map[string]struct {
		family
		ours, theirs string
		unicast      bool
	}{
		"version 2":                {family4, compat, theirs2, false},
		"version 2, unicast":       {family4, compat, theirs2, true},
		"version 3":                {family4, fast, theirs3, false},
		"version 3, unicast":       {family4, fast, theirs3, true},
		"version 3, IPv6":          {family6, fast, theirs3, false},
		"version 3, IPv6, unicast": {family6, fast, theirs3, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			requireKeepalived(t)
			a, b := n.pairV6(t)
			awaitThat(t, "keepalived wants a link-local address at its start", func() string {
				if out := b.Exec(t, "ip", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"); !strings.Contains(out, "fe80") {
					return "none"
				}
				return ""
			})
			if tt.unicast {
				tt.ours += "unicast: true\n"
				tt.theirs += "    unicast_src_ip " + tt.members[1] + "\n    unicast_ttl 255\n    unicast_peer {\n        " + tt.members[0] + "\n    }\n"
			}
			keepalived := func() *process {
				return b.keepalived(t, "vrrp_instance "+tt.instance+" {\n    state BACKUP\n    interface eth0\n    virtual_router_id 53\n    priority 100\n"+
					tt.theirs+"    virtual_ipaddress {\n        "+strings.Join(tt.vips, "\n        ")+"\n    }\n}\n")
			}
			instance := func(on *agent) *vrrpv1.InstanceState { return on.instances(t)[tt.instance] }
			moved := func(on *agent, want uint64) {
				t.Helper()
				if i := instance(on); i.GetTransitions() != want {
					t.Errorf("want %d changes: %v", want, i)
				}
			}
			ours, theirs := map[*machine]string{a: tt.all(), b: ""}, map[*machine]string{a: "", b: tt.all()}
			onA, onB := a.agent(t, tt.desired(t, 105, tt.ours)), keepalived()
			tt.await(t, "started", ours)
			atStart := instance(onA).GetTransitions() // both began at once
			awaitThat(t, "adverts", func() string {
				if i := instance(onA); i.GetAdvertsSent() < 8 {
					return fmt.Sprint(i)
				}
				return ""
			})
			tt.await(t, "no change", ours)
			moved(onA, atStart)
			before := strings.Count(onB.output.String(), entered)
			onA.kill(t)
			tt.await(t, "agent killed", theirs)
			onA = a.agent(t, tt.desired(t, 105, tt.ours))
			tt.await(t, "agent is back", ours)
			a.drop(t, "meta l4proto vrrp drop")
			tt.await(t, "cut off", map[*machine]string{a: tt.all(), b: tt.all()}) // as VRRP has it
			a.drop(t, "")
			tt.await(t, "found again", ours)
			moved(onA, 2) // backup, master
			onA.stop(t)
			tt.await(t, "agent stopped", theirs)
			onA = a.agent(t, tt.desired(t, 95, tt.ours))
			awaitThat(t, "the agent hears the better one", func() string {
				if i := instance(onA); i.GetAdvertsReceived() < 5 {
					return fmt.Sprint(i)
				}
				return ""
			})
			tt.await(t, "the lower priority", theirs)
			moved(onA, 1)                                                              // backup
			if got := strings.Count(onB.output.String(), entered) - before; got != 3 { // killed, cut off, stopped
				t.Errorf("keepalived has become master %d times", got)
			}
			onB.stop(t)
			tt.await(t, "keepalived stopped", ours)
			onB = keepalived()
			tt.await(t, "keepalived is back", theirs)
			moved(onA, 3) // backup, master, backup
			for line := range strings.Lines(onB.output.String()) {
				if complaints.MatchString(line) {
					t.Errorf("keepalived says: %s", line)
				}
			}
			if i := instance(onA); len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
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
	onA := a.agent(t, family4.desired(t, 105, "advert_interval: 0.1s"))
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
// long as TWOTIER_BUSY says. It needs real-time priority, and a machine that does nothing else: metronomes beside the agents
// tell whether it was that which held them up.
func TestKernelBusy(t *testing.T) {
	keepBeat()
	length := 10 * time.Second
	if text := os.Getenv("TWOTIER_BUSY"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired := family4.desired(t, 105, "advert_interval: 0.01s")
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
	control := a.metronome(t)
	enough := before.GetAdvertsSent() + uint64(length/(10*time.Millisecond))*9/10
	deadline := time.Now().Add(length + patience)
	awaitUntil(t, deadline, "adverts", func() string {
		if i := onA.instances(t)["VI_1"]; i.GetAdvertsSent() < enough {
			return fmt.Sprint(i)
		}
		return ""
	})
	afterA, afterB := onA.instances(t)["VI_1"], onB.instances(t)["VI_1"]
	longest := control.end(t)
	if afterA.GetTransitions() != before.GetTransitions() || afterB.GetTransitions() != beforeB.GetTransitions() ||
		afterB.GetTakeoversPrevented() > 0 {
		t.Errorf("the state has changed; the machine held up a thread of the agents' priority for %v at the most:\n%v\n%v", longest, afterA, afterB)
	}
	t.Logf("%d adverts, %d heard", afterA.GetAdvertsSent()-before.GetAdvertsSent(), afterB.GetAdvertsReceived())
	onA.stop(t)
	onB.stop(t)
}
