package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// The addresses of the instance of IPv6.
const (
	vip6Link = "fe80::78"
	vip6     = "2001:db8:60::78"
)

// bothV6 is what a master of it holds, as heldV6 says it.
const bothV6 = vip6 + " " + vip6Link

// machineV6 is a machine with both families.
func (n *lan) machineV6(t *testing.T, name, prefix, prefixV6 string) *machine {
	t.Helper()
	m := n.machine(t, name, prefix)
	m.Exec(t, "ip", "address", "add", prefixV6, "dev", "eth0", "nodad")
	return m
}

// pairV6 is the two nodes of the pair.
func (n *lan) pairV6(t *testing.T) (a, b *machine) {
	t.Helper()
	return n.machineV6(t, "haproxy", "192.168.60.22/24", "2001:db8:60::22/64"),
		n.machineV6(t, "haproxy2", "192.168.60.128/24", "2001:db8:60::128/64")
}

var singleV6 = regexp.MustCompile(`inet6 (\S+)/128 `)

// heldV6 returns the single addresses of IPv6 on the machine's cards.
func (m *machine) heldV6(t *testing.T) string {
	t.Helper()
	var all []string
	for _, match := range singleV6.FindAllStringSubmatch(m.Exec(t, "ip", "-6", "-o", "address", "show", "dev", "eth0"), -1) {
		all = append(all, match[1])
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// awaitV6 is await for IPv6.
func awaitV6(t *testing.T, what string, want map[*machine]string) {
	t.Helper()
	awaitThat(t, what, func() string {
		for m, addresses := range want {
			if got := m.heldV6(t); got != addresses {
				return fmt.Sprintf("%s holds [%s], want [%s]", m.name, got, addresses)
			}
		}
		return ""
	})
}

// onlyV6 is the pair's instance of IPv6 as desired state, with more lines.
func onlyV6(t *testing.T, priority int, more string) string {
	t.Helper()
	file := t.TempDir() + "/desired.yaml"
	text := fmt.Sprintf("kind: instance\nname: VI_6\nvirtual_router_id: 53\nvirtual_addresses: [%q, %q]\nmembers:\n"+
		"  - {node: haproxy, priority: %d, addresses: [%q]}\n  - {node: haproxy2, priority: 100, addresses: [%q]}\n%s\n",
		vip6Link, vip6, priority, "2001:db8:60::22", "2001:db8:60::128", more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// bothFamilies is the pair's instance of IPv4 and that of IPv6 as desired state, with more lines for each.
func bothFamilies(t *testing.T, priority int, more string) string {
	t.Helper()
	v4, err := os.ReadFile(only(t, priority, more))
	if err != nil {
		t.Fatal(err)
	}
	file := onlyV6(t, priority, more)
	v6, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(string(v4)+"---\n"+string(v6)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// neighbor returns what a machine knows of who has the address.
func (m *machine) neighbor(t *testing.T, address string) string {
	t.Helper()
	match := regexp.MustCompile(`lladdr (\S+)`).FindStringSubmatch(m.Exec(t, "ip", "neighbor", "show", address, "dev", "eth0"))
	if match == nil {
		return ""
	}
	return match[1]
}

// speak sends a datagram to an address, so that the kernel looks for it.
func speak(address string) {
	if conn, err := net.Dial("udp", net.JoinHostPort(address, "9")); err == nil {
		_, _ = conn.Write([]byte("?")) // nobody answers
		_ = conn.Close()
	}
}

// TestKernelIPv6 is an agent pair on IPv6, with a client that follows the neighbor advertisements: handed over, killed,
// cut off from multicast, the address deleted by hand, and somebody else who claims it.
func TestKernelIPv6(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	n := newLAN(t)
	a, b := n.pairV6(t)
	client := n.machineV6(t, "witness", "192.168.60.1/24", "2001:db8:60::1/64")
	w := client.watch(t, "eth0")
	ours, theirs := map[*machine]string{a: bothV6, b: ""}, map[*machine]string{a: "", b: bothV6}
	onA, onB := a.agent(t, onlyV6(t, 105, "")), b.agent(t, onlyV6(t, 105, ""))
	awaitV6(t, "started", ours)
	macA, macB := a.mac(t, "eth0"), b.mac(t, "eth0")
	advert := "advert 53 priority 105 from fe80::"
	announcement := "neighbor " + vip6 + " at " + macA + " to 33:33:00:00:00:01: hops 255 flags 0x20"
	awaitThat(t, "adverts and announcements", func() string {
		if w.count(0, advert) < 5 || w.count(0, announcement) < 10 {
			return fmt.Sprintf("%d adverts, %d of %s", w.count(0, advert), w.count(0, announcement), announcement)
		}
		return ""
	})
	for _, line := range w.all() {
		if strings.HasPrefix(line, advert) && !strings.Contains(line, "to ff02::12 (33:33:00:00:00:12): hops 255 class 0xc0: 313569020003") {
			t.Fatalf("advert: %s", line)
		}
	}
	known := func(what, mac string) {
		t.Helper()
		awaitThat(t, what, func() string {
			// The question is answered by the cache, or asked of the network; either way the answer is the owner's.
			client.Do(t, func() { speak(vip6) })
			if got := client.neighbor(t, vip6); got != mac {
				return fmt.Sprintf("the client knows [%s], want %s", got, mac)
			}
			return ""
		})
	}
	known("started", macA)
	awaitThat(t, "the agents know each other", func() string {
		for _, on := range []*agent{onA, onB} {
			i := on.instances(t)["VI_6"]
			if len(i.GetAgents()) != 1 || !i.GetAgents()[0].GetOwner() && !i.GetAgents()[0].GetReady() {
				return fmt.Sprint(i)
			}
		}
		return ""
	})

	a.cutV6(t, "ip6 daddr ff02::12 drop")
	awaitThat(t, "the backup asks, and gets the adverts by unicast", func() string {
		if !strings.Contains(onA.output.String(), "an agent does not hear our adverts") {
			return onA.output.String()
		}
		return ""
	})
	heard := onB.instances(t)["VI_6"]
	awaitThat(t, "adverts by unicast", func() string {
		if i := onB.instances(t)["VI_6"]; i.GetAdvertsReceived() < heard.GetAdvertsReceived()+20 || i.GetTransitions() != heard.GetTransitions() {
			return fmt.Sprint(i)
		}
		return ""
	})
	awaitV6(t, "multicast cut", ours)
	a.cutV6(t, "")

	a.Exec(t, "ip", "address", "del", vip6+"/128", "dev", "eth0")
	awaitV6(t, "address deleted by hand", ours)
	before := onA.instances(t)["VI_6"].GetForeignClaims()
	awaitThat(t, "a claim is heard", func() string {
		b.claimV6(t, vip6)
		if i := onA.instances(t)["VI_6"]; i.GetForeignClaims() == before {
			return fmt.Sprint(i)
		}
		return ""
	})
	known("claimed", macA)

	onA.stop(t)
	awaitV6(t, "handed over", theirs)
	if w.count(0, "advert 53 priority 0") != 0 || !strings.Contains(onB.output.String(), "node haproxy hands over") {
		t.Error("the master did not hand over")
	}
	known("handed over", macB)
	onA = a.agent(t, onlyV6(t, 105, ""))
	awaitV6(t, "back", ours)
	onA.kill(t) // its warden too: the kernel removes them
	awaitV6(t, "killed", theirs)
	known("killed", macB)
	onA = a.agent(t, onlyV6(t, 105, ""))
	awaitV6(t, "back after that", ours)
	for _, on := range []*agent{onA, onB} {
		if i := on.instances(t)["VI_6"]; len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
			t.Errorf("%v", i)
		}
	}
	onA.stop(t)
	onB.stop(t)
}

// cutV6 puts rules in force for what the machine sends and gets by IPv6; none with "".
func (m *machine) cutV6(t *testing.T, rules string) {
	t.Helper()
	text := "table ip6 cut\ndelete table ip6 cut\ntable ip6 cut {\n chain i { type filter hook input priority 0;\n" + rules +
		"\n }\n chain o { type filter hook output priority 0;\n" + rules + "\n }\n}\n"
	var said []byte
	var err error
	m.Do(t, func() {
		command := exec.Command("nft", "-f", "-")
		command.Stdin = strings.NewReader(text)
		said, err = command.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, said, text)
	}
}

// TestKernelMixedPairV6 is TestKernelMixedPair on IPv6.
func TestKernelMixedPairV6(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	const unicast = "    unicast_src_ip 2001:db8:60::128\n    unicast_ttl 255\n    unicast_peer {\n        2001:db8:60::22\n    }\n"
	for name, tt := range map[string]struct{ ours, theirs string }{
		"multicast": {},
		"unicast":   {"unicast: true", unicast},
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
			keepalived := func() *process {
				return b.keepalived(t, "vrrp_instance VI_6 {\n    state BACKUP\n    interface eth0\n    virtual_router_id 53\n    priority 100\n"+
					"    version 3\n    advert_int 0.1\n"+tt.theirs+"    virtual_ipaddress {\n        "+vip6Link+"\n        "+vip6+"\n    }\n}\n")
			}
			ourState := func(priority int) string { return onlyV6(t, priority, "advert_interval: 0.1s\n"+tt.ours) }
			ours, theirs := map[*machine]string{a: bothV6, b: ""}, map[*machine]string{a: "", b: bothV6}
			onA, onB := a.agent(t, ourState(105)), keepalived()
			awaitV6(t, "started", ours)
			awaitThat(t, "adverts", func() string {
				if i := onA.instances(t)["VI_6"]; i.GetAdvertsSent() < 8 {
					return fmt.Sprint(i)
				}
				return ""
			})
			awaitV6(t, "no change", ours)
			onA.kill(t)
			awaitV6(t, "agent killed", theirs)
			onA = a.agent(t, ourState(105))
			awaitV6(t, "agent is back", ours)
			a.cutV6(t, "meta l4proto vrrp drop")
			awaitV6(t, "cut off", map[*machine]string{a: bothV6, b: bothV6}) // as VRRP has it
			a.cutV6(t, "")
			awaitV6(t, "found again", ours)
			onA.stop(t)
			awaitV6(t, "agent stopped", theirs)
			onA = a.agent(t, ourState(95))
			awaitThat(t, "the agent hears the better one", func() string {
				if i := onA.instances(t)["VI_6"]; i.GetAdvertsReceived() < 5 {
					return fmt.Sprint(i)
				}
				return ""
			})
			awaitV6(t, "the lower priority", theirs)
			onB.stop(t)
			awaitV6(t, "keepalived stopped", ours)
			onB = keepalived()
			awaitV6(t, "keepalived is back", theirs)
			for line := range strings.Lines(onB.output.String()) {
				if complaints.MatchString(line) {
					t.Errorf("keepalived says: %s", line)
				}
			}
			if i := onA.instances(t)["VI_6"]; len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
				t.Errorf("%v", i)
			}
			onA.stop(t)
			onB.stop(t)
		})
	}
}
