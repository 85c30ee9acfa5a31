package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// The addresses of the instance of IPv6.
const (
	vip6Link = "fe80::78"
	vip6     = "2001:db8:60::78"
)

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

// bothFamilies is the pair's instance of IPv4 and that of IPv6 as desired state, with more lines for each.
func bothFamilies(t *testing.T, priority int, more string) string {
	t.Helper()
	first, err := os.ReadFile(family4.desired(t, priority, more))
	if err != nil {
		t.Fatal(err)
	}
	file := family6.desired(t, priority, more)
	second, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(first)+"---\n"+string(second))
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
	ours, theirs := map[*machine]string{a: family6.all(), b: ""}, map[*machine]string{a: "", b: family6.all()}
	onA, onB := a.agent(t, family6.desired(t, 105, "")), b.agent(t, family6.desired(t, 105, ""))
	family6.await(t, "started", ours)
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

	a.drop(t, "ip6 daddr ff02::12 drop")
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
	family6.await(t, "multicast cut", ours)
	a.drop(t, "")

	a.Exec(t, "ip", "address", "del", vip6+"/128", "dev", "eth0")
	family6.await(t, "address deleted by hand", ours)
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
	family6.await(t, "handed over", theirs)
	if w.count(0, "advert 53 priority 0") != 0 || !strings.Contains(onB.output.String(), "node haproxy hands over") {
		t.Error("the master did not hand over")
	}
	known("handed over", macB)
	onA = a.agent(t, family6.desired(t, 105, ""))
	family6.await(t, "back", ours)
	onA.kill(t) // its warden too: the kernel removes them
	family6.await(t, "killed", theirs)
	known("killed", macB)
	onA = a.agent(t, family6.desired(t, 105, ""))
	family6.await(t, "back after that", ours)
	for _, on := range []*agent{onA, onB} {
		if i := on.instances(t)["VI_6"]; len(i.GetDropped()) > 0 || i.GetAddressesMismatched() > 0 {
			t.Errorf("%v", i)
		}
	}
	onA.stop(t)
	onB.stop(t)
}
