package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
)

// onVirtual waits until the machine has the card with the virtual Ethernet address, on, with the address of IPv4 on it.
func (m *machine) onVirtual(t *testing.T, what string) {
	t.Helper()
	awaitThat(t, what, func() string {
		cards := m.Exec(t, "ip", "-o", "link") + m.Exec(t, "ip", "-o", "address")
		if !strings.Contains(cards, "vrrp.53    inet "+vip1+"/32") || !strings.Contains(cards, "link/ether "+virtual4) {
			return cards
		}
		return ""
	})
}

// TestKernelVirtualMACDeleted deletes the card with the virtual Ethernet address by hand, again and again: it is back with its
// address, and no state changes over it. The backup's is back too, and takes over from.
func TestKernelVirtualMACDeleted(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	onA, onB := a.agent(t, family4.desired(t, 105, "virtual_mac: true")), b.agent(t, family4.desired(t, 105, "virtual_mac: true"))
	a.onVirtual(t, "started")
	before := master(t, onA, "VI_1").GetTransitions()
	since := len(w.all())
	for round := range 20 { // at other moments of the renewal each time
		a.Exec(t, "ip", "link", "del", "vrrp.53")
		a.onVirtual(t, fmt.Sprint("deleted, round ", round))
	}
	awaitThat(t, "adverts after that", func() string {
		if w.count(since, "advert 53 priority 105 from 192.168.60.22 to 224.0.0.18 (01:00:5e:00:00:12) by "+virtual4) < 20 {
			return "too few"
		}
		return ""
	})
	if i := onA.instances(t)["VI_1"]; i.GetState() != vrrpv1.State_STATE_MASTER || i.GetTransitions() != before || w.count(since, "advert 53 priority 0") > 0 {
		t.Errorf("the master left its state: %v\n%s", i, onA.output)
	}
	before = onB.instances(t)["VI_1"].GetTransitions()
	b.Exec(t, "ip", "link", "del", "vrrp.53")
	onA.kill(t)
	b.onVirtual(t, "the backup's deleted, and the master killed")
	if i := master(t, onB, "VI_1"); i.GetTransitions() != before+1 {
		t.Errorf("the backup did more than to take over: %v\n%s", i, onB.output)
	}
	onB.stop(t)
}

// TestKernelVirtualMACManners looks at what the network's card is set to while it has cards with virtual Ethernet addresses
// behind it, and afterwards, however the agent has ended.
func TestKernelVirtualMACManners(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a := n.machineV6(t, "haproxy", "192.168.60.22/24", "2001:db8:60::22/64")
	set := func(ignore, announce string) {
		t.Helper()
		a.Exec(t, "sh", "-c", "cd /proc/sys/net/ipv4/conf/eth0; echo "+ignore+" >arp_ignore; echo "+announce+" >arp_announce")
	}
	are := func(what, want string) {
		t.Helper()
		awaitThat(t, what, func() string {
			got := strings.Join(strings.Fields(a.Exec(t, "sh", "-c", "cd /proc/sys/net/ipv4/conf/eth0; cat arp_ignore arp_announce; ip -o link | grep -c vrrp || true")), " ")
			if got != want {
				return "arp_ignore, arp_announce and cards are " + got + ", want " + want
			}
			return ""
		})
	}
	desired, empty := bothFamilies(t, 105, "virtual_mac: true"), t.TempDir()+"/desired.yaml"
	write(t, empty, "{}\n")
	set("0", "1")
	onA := a.agent(t, desired)
	are("two instances", "1 2 2")
	replace(t, desired, "name: VI_1\n", "name: VI_1\nnetwork: 10.9.9.0/24\noutside_network: true\n") // no card has it: the instance gives up its place
	are("one of them has gone", "1 2 1")
	onA.stop(t)
	are("stopped", "0 1 0")

	onA = a.agent(t, bothFamilies(t, 105, "virtual_mac: true"))
	are("started again", "1 2 2")
	_ = syscall.Kill(onA.inner(t), syscall.SIGKILL)
	<-onA.exited
	are("killed, with a warden", "0 1 0")

	onA = a.agent(t, bothFamilies(t, 105, "virtual_mac: true"))
	are("started after that", "1 2 2")
	a.Exec(t, "ip", "link", "del", "vrrp.53") // with it goes one record of how it was
	a.onVirtual(t, "deleted by hand")
	onA.kill(t)
	are("killed with its warden", "1 2 2")
	onA = a.agent(t, empty)
	are("the next start", "0 1 0")
	onA.stop(t)

	onA = a.agent(t, bothFamilies(t, 105, "virtual_mac: true"))
	are("started once more", "1 2 2")
	set("8", "2")
	onA.stop(t)
	are("what somebody has set meanwhile stays", "8 1 0")
}

// TestKernelKeepalivedVirtualMAC lets the agent and keepalived take each other's place, both with the virtual Ethernet
// address, in both versions and families, and with adverts that keepalived sends by its virtual card and by its own.
func TestKernelKeepalivedVirtualMAC(t *testing.T) {
	t.Parallel()
	const (
		v4 = "vrrp_instance VI_1 {\n    state BACKUP\n    interface eth0\n    virtual_router_id 53\n    priority 100\n    use_vmac\n%s" +
			"    virtual_ipaddress {\n        " + vip1 + "\n    }\n}\n"
		v6 = "vrrp_instance VI_6 {\n    state BACKUP\n    interface eth0\n    virtual_router_id 53\n    priority 100\n    use_vmac\n    native_ipv6\n%s" +
			"    virtual_ipaddress {\n        " + vip6Link + "\n        " + vip6 + "\n    }\n}\n"
	)
	for name, tt := range map[string]struct{ ours, theirs string }{
		"version 2":                {"profile: PROFILE_COMPAT", fmt.Sprintf(v4, "    version 2\n    advert_int 1\n")},
		"version 3":                {"advert_interval: 0.1s", fmt.Sprintf(v4, "    version 3\n    advert_int 0.1\n")},
		"version 3, from the card": {"advert_interval: 0.1s\nadverts_from_card: true", fmt.Sprintf(v4, "    version 3\n    advert_int 0.1\n    vmac_xmit_base\n")},
		"version 3, both families": {"advert_interval: 0.1s", fmt.Sprintf(v4+v6, "    version 3\n    advert_int 0.1\n", "    version 3\n    advert_int 0.1\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newLAN(t)
			requireKeepalived(t)
			a, b := n.pairV6(t)
			client := n.machineV6(t, "witness", "192.168.60.1/24", "2001:db8:60::1/64")
			// Without it keepalived's machine asks for the client in the virtual address's name, by the card's own Ethernet address.
			b.Exec(t, "sh", "-c", "echo 2 >/proc/sys/net/ipv4/conf/eth0/arp_announce")
			both := strings.Contains(tt.theirs, "VI_6")
			desired := func(priority int) string {
				if both {
					return bothFamilies(t, priority, "virtual_mac: true\n"+tt.ours)
				}
				return family4.desired(t, priority, "virtual_mac: true\n"+tt.ours)
			}
			held := func(m *machine) (all string) {
				for line := range strings.Lines(m.Exec(t, "ip", "-o", "address")) {
					if fields := strings.Fields(line); strings.HasPrefix(fields[1], "vrrp") && (strings.HasSuffix(fields[3], "/32") || strings.HasSuffix(fields[3], "/128")) {
						all += fields[3] + " "
					}
				}
				return strings.TrimSpace(all)
			}
			want := []string{vip1 + "/32"}
			if both {
				want = append(want, vip6Link+"/128", vip6+"/128")
			}
			owner := func(what string, owner, other *machine) {
				t.Helper()
				awaitThat(t, what, func() string {
					has, left := held(owner), held(other)
					for _, address := range want {
						if !strings.Contains(has+" ", address+" ") || left != "" {
							return owner.name + " has " + has + ", " + other.name + " " + left
						}
					}
					return ""
				})
				if got := client.known(t, vip1); got != virtual4 {
					t.Fatalf("%s: the client knows %s", what, got)
				}
				if both {
					if got := client.known(t, vip6); got != virtual6 {
						t.Fatalf("%s: the client knows %s", what, got)
					}
				}
			}
			heard := func(what string, on *agent) {
				t.Helper()
				awaitThat(t, what, func() string {
					for _, i := range on.instances(t) {
						if i.GetAdvertsReceived() < 5 {
							return fmt.Sprint(i)
						}
					}
					return ""
				})
			}
			onA, onB := a.agent(t, desired(105)), b.keepalived(t, tt.theirs)
			owner("started", a, b)
			onA.kill(t)
			owner("agent killed", b, a)
			onA = a.agent(t, desired(105))
			owner("agent is back", a, b)
			onA.stop(t)
			owner("agent stopped", b, a)
			onA = a.agent(t, desired(95))
			heard("the agent hears the better one", onA)
			owner("the lower priority", b, a)
			onB.stop(t)
			owner("keepalived stopped", a, b)
			onB = b.keepalived(t, tt.theirs)
			owner("keepalived is back", b, a)
			heard("the agent hears it again", onA)
			for line := range strings.Lines(onB.output.String()) {
				if complaints.MatchString(line) {
					t.Errorf("keepalived says: %s", line)
				}
			}
			for _, i := range onA.instances(t) {
				if len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
					t.Errorf("%v", i)
				}
			}
			onA.stop(t)
			onB.stop(t)
		})
	}
}
