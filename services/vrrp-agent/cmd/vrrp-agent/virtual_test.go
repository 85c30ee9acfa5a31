package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// The virtual Ethernet addresses of virtual router 53.
const (
	virtual4 = "00:00:5e:00:01:35"
	virtual6 = "00:00:5e:00:02:35"
)

// known waits until the client has been told by the owner, and returns what it knows.
func (m *machine) known(t *testing.T, address string) string {
	t.Helper()
	mac := ""
	awaitThat(t, "somebody answers for "+address, func() string {
		m.Do(t, func() { speak(address) })
		if mac = m.neighbor(t, address); mac == "" {
			return "nobody"
		}
		return ""
	})
	return mac
}

// TestKernelVirtualMAC moves an address with its Ethernet address, in both families: what a client knows stays true when
// the owner is stopped and when it is killed, and nothing is left on the machines.
func TestKernelVirtualMAC(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.pairV6(t)
	client := n.machineV6(t, "witness", "192.168.60.1/24", "2001:db8:60::1/64")
	w := client.watch(t, "eth0")
	desired := func() string { return bothFamilies(t, 105, "virtual_mac: true") }
	held := func(what string, owner, other *machine) {
		t.Helper()
		awaitThat(t, what, func() string {
			cards := owner.Exec(t, "ip", "-o", "address")
			for _, want := range []string{"vrrp.53    inet " + vip1 + "/32", "vrrp6.53    inet6 " + vip6 + "/128", "vrrp6.53    inet6 " + vip6Link + "/128"} {
				if !strings.Contains(cards, want) {
					return "the owner has no " + want + ":\n" + cards
				}
			}
			for line := range strings.Lines(other.Exec(t, "ip", "-o", "link")) {
				if strings.Contains(line, "vrrp") && !strings.Contains(line, "state DOWN") {
					return "the other one has " + line
				}
			}
			if cards := other.Exec(t, "ip", "-o", "address"); strings.Contains(cards, "vrrp") {
				return "the other one has " + cards
			}
			return ""
		})
	}
	onA, onB := a.agent(t, desired()), b.agent(t, desired())
	held("started", a, b)
	adverts := []string{
		"advert 53 priority 105 from 192.168.60.22 to 224.0.0.18 (01:00:5e:00:00:12) by " + virtual4,
		"advert 53 priority 105 from fe80::",
	}
	awaitThat(t, "adverts from the virtual Ethernet addresses", func() string {
		all := w.all()
		if w.count(0, adverts[0]) < 5 || w.count(0, adverts[1]) < 5 {
			return strings.Join(all[max(0, len(all)-5):], "\n")
		}
		return ""
	})
	for _, line := range w.all() {
		if strings.HasPrefix(line, "advert 53 priority 105") && !strings.Contains(line, " by 00:00:5e:00:0") {
			t.Fatalf("not from the virtual Ethernet address: %s", line)
		}
	}
	same := func(what string) {
		t.Helper()
		if got4, got6 := client.known(t, vip1), client.known(t, vip6); got4 != virtual4 || got6 != virtual6 {
			t.Fatalf("%s: the client knows %s and %s", what, got4, got6)
		}
	}
	same("started")
	for _, on := range []*agent{onA, onB} {
		awaitThat(t, "the agents know each other", func() string {
			for _, i := range on.instances(t) {
				if len(i.GetAgents()) != 1 || !i.GetAgents()[0].GetOwner() && !i.GetAgents()[0].GetReady() {
					return fmt.Sprint(i)
				}
			}
			return ""
		})
	}
	onA.stop(t)
	held("stopped", b, a)
	same("stopped")
	onA = a.agent(t, desired())
	held("started again", a, b)
	same("started again")

	_ = syscall.Kill(onA.inner(t), syscall.SIGKILL) // its warden takes the cards away
	held("killed", b, a)
	same("killed")
	<-onA.exited
	onA = a.agent(t, desired())
	held("started after that", a, b)
	onA.kill(t) // nobody takes the cards away; the next agent does
	empty := filepath.Join(t.TempDir(), "desired.yaml")
	if err := os.WriteFile(empty, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	onA = a.agent(t, empty)
	held("killed with its warden, and nothing wanted", b, a)
	awaitThat(t, "the cards are gone", func() string {
		if cards := a.Exec(t, "ip", "-o", "link"); strings.Contains(cards, "vrrp") {
			return cards
		}
		return ""
	})
	same("killed with its warden")
	// Nobody but the card with the virtual Ethernet address has answered, nor spoken in the name of its address.
	for _, line := range w.all() {
		if strings.HasPrefix(line, "arp "+vip1+" from") && !strings.HasPrefix(line, "arp "+vip1+" from "+virtual4) {
			t.Errorf("another Ethernet address: %s", line)
		}
	}
	for _, i := range onB.instances(t) {
		if len(i.GetDropped()) > 0 || i.GetForeignClaims() > 0 {
			t.Errorf("%v", i)
		}
	}
	onA.stop(t)
	onB.stop(t)
}

// frr starts FRR's VRRP on a machine, with the cards that it wants to be there already.
func (m *machine) frr(t *testing.T, priority int) (stop func()) {
	t.Helper()
	const programs = "/usr/lib/frr/"
	if _, err := os.Stat(programs + "vrrpd"); err != nil {
		testreq.Missing(t, "FRR")
	}
	if !strings.Contains(m.Exec(t, "ip", "-o", "link"), "frr4") {
		for name, mac := range map[string]string{"frr4": virtual4, "frr6": virtual6} {
			m.Exec(t, "ip", "link", "add", name, "link", "eth0", "type", "macvlan", "mode", "bridge")
			m.Exec(t, "ip", "link", "set", name, "address", mac, "up")
		}
		// What FRR's manual asks for, and what keeps the card itself from answering.
		m.Exec(t, "sh", "-c", "cd /proc/sys/net/ipv4/conf; echo 1 >eth0/arp_ignore; echo 2 >eth0/arp_announce; echo 1 >frr4/arp_ignore; echo 2 >frr4/rp_filter")
		m.Exec(t, "ip", "address", "add", vip1+"/24", "dev", "frr4")
		m.Exec(t, "ip", "address", "add", vip6+"/64", "dev", "frr6", "nodad")
		m.Exec(t, "ip", "address", "add", vip6Link+"/64", "dev", "frr6", "nodad")
	}
	// FRR keeps its sockets short; a folder of a test can be too long for them.
	folder, err := os.MkdirTemp("", "frr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })  // what is left is in the temporary folder
	if err := os.Chmod(folder, 0o777); err != nil { // FRR goes on as a user of its own
		t.Fatal(err)
	}
	configuration := fmt.Sprintf("interface eth0\n vrrp 53 version 3\n vrrp 53 priority %d\n vrrp 53 advertisement-interval 100\n vrrp 53 ip %s\n"+
		" vrrp 53 ipv6 %s\n vrrp 53 ipv6 %s\n", priority, vip1, vip6Link, vip6)
	var all []*process
	for _, name := range []string{"zebra", "vrrpd"} {
		file := filepath.Join(folder, name+".conf")
		text := "log stdout\n"
		if name == "vrrpd" {
			text += configuration
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{"-f", file, "-i", filepath.Join(folder, name+".pid"), "-z", filepath.Join(folder, "zserv.api"),
			"--vty_socket", folder, "-A", "127.0.0.1"}
		all = append(all, m.run(t, programs+name, args...))
		awaitThat(t, name+" listens", func() string {
			if _, err := os.Stat(filepath.Join(folder, name+".vty")); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	return func() {
		t.Helper()
		all[1].stop(t)
		all[0].stop(t)
	}
}

// frrIs tells which of FRR's cards are on: those of the instances that it is master of.
func (m *machine) frrIs(t *testing.T) string {
	t.Helper()
	state, links := "", m.Exec(t, "ip", "-o", "link", "show", "type", "macvlan")
	for _, name := range []string{"frr4", "frr6"} { // in this order, whichever card came first
		for line := range strings.Lines(links) {
			if strings.Contains(line, name+"@") && !strings.Contains(line, "protodown on") {
				state += name + " "
			}
		}
	}
	return strings.TrimSpace(state)
}

// TestKernelFRR lets the agent and FRR take each other's place, with a virtual Ethernet address, on both families.
func TestKernelFRR(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.pairV6(t)
	client := n.machineV6(t, "witness", "192.168.60.1/24", "2001:db8:60::1/64")
	desired := func(priority int) string {
		return bothFamilies(t, priority, "advert_interval: 0.1s\nvirtual_mac: true")
	}
	owner := func(what string, ours bool) {
		t.Helper()
		awaitThat(t, what, func() string {
			frr, cards := b.frrIs(t), a.Exec(t, "ip", "-o", "address")
			mine := strings.Contains(cards, vip1+"/32") && strings.Contains(cards, vip6+"/128")
			none := !strings.Contains(cards, "vrrp") // no address on the cards
			if ours && (!mine || frr != "") || !ours && (!none || frr != "frr4 frr6") {
				return fmt.Sprintf("FRR is master by [%s], the agent has\n%s", frr, cards)
			}
			return ""
		})
		if got4, got6 := client.known(t, vip1), client.known(t, vip6); got4 != virtual4 || got6 != virtual6 {
			t.Fatalf("%s: the client knows %s and %s", what, got4, got6)
		}
	}
	stop := b.frr(t, 100)
	owner("FRR alone", false)
	onA := a.agent(t, desired(105))
	owner("the agent is better", true)
	onA.kill(t)
	owner("the agent is killed", false)
	onA = a.agent(t, desired(105))
	owner("the agent is back", true)
	onA.stop(t)
	owner("the agent is stopped", false)
	onA = a.agent(t, desired(95))
	awaitThat(t, "the agent hears FRR on both families", func() string {
		for _, i := range onA.instances(t) {
			if i.GetAdvertsReceived() < 5 {
				return fmt.Sprint(i)
			}
		}
		return ""
	})
	owner("the agent is worse", false)
	stop()
	awaitThat(t, "FRR is stopped", func() string {
		if cards := a.Exec(t, "ip", "-o", "address"); !strings.Contains(cards, vip1+"/32") || !strings.Contains(cards, vip6+"/128") {
			return cards
		}
		return ""
	})
	stop = b.frr(t, 100)
	owner("FRR is back", false)
	for _, i := range onA.instances(t) {
		if len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
			t.Errorf("%v", i)
		}
	}
	onA.stop(t)
	stop()
}
