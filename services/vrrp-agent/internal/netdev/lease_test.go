package netdev

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/testreq"
)

// left is how long nft says that an element lives on.
var left = regexp.MustCompile(`expires (\S+)`)

// TestKernelLease: an address that stays on its card without being renewed, as it does on a machine that goes on after it
// was stopped, is not answered for.
func TestKernelLease(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	a, b := pair(t)
	p := find(t, a)
	a.ns.Exec(t, "ip", "address", "add", "2001:db8:60::22/64", "dev", "eth0", "nodad")
	b.ns.Exec(t, "ip", "address", "add", "2001:db8:60::128/64", "dev", "eth0", "nodad")
	for _, address := range []netip.Addr{vip, netip.MustParseAddr("2001:db8:60::78")} {
		asked := func(what, want string) {
			t.Helper()
			ask := func() {
				b.ns.Exec(t, "ip", "neighbor", "flush", "dev", "eth0")
				b.ns.Do(t, func() {
					if conn, err := net.Dial("udp", net.JoinHostPort(address.String(), "9")); err == nil {
						_, _ = conn.Write([]byte("?")) // nobody listens
						_ = conn.Close()
					}
				})
			}
			ask()
			ticker := time.NewTicker(10 * time.Millisecond)
			defer ticker.Stop()
			deadline := time.After(20 * time.Second)
			for {
				known := b.ns.Exec(t, "ip", "neighbor", "show", address.String(), "dev", "eth0")
				if strings.Contains(known, want) {
					return
				}
				if known != "" && !strings.Contains(known, "INCOMPLETE") { // the other answer
					ask()
				}
				select {
				case <-ticker.C:
				case <-deadline:
					t.Fatalf("%v %s: the other end knows %q, want %s", address, what, known, want)
				}
			}
		}
		renew := func(life time.Duration) {
			t.Helper()
			if _, err := a.Add(p.Index, address, life); err != nil {
				t.Fatal(err)
			}
		}
		single := fmt.Sprintf("%v/%d", address, address.BitLen())
		forever := []string{"address", "replace", single, "dev", "eth0", "valid_lft", "forever", "preferred_lft", "forever"}
		renew(time.Minute)
		asked("added", "lladdr")
		// One that goes and comes back soon has its whole life before it.
		rest := func() time.Duration {
			t.Helper()
			table := map[bool]string{true: "ip6", false: "arp"}[address.Is6()]
			match := left.FindStringSubmatch(a.ns.Exec(t, "nft", "list", "set", table, leaseTable, "renewed"))
			if match == nil {
				t.Fatalf("%v has no lease", address)
			}
			d, err := time.ParseDuration(match[1])
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		if _, err := a.Remove(p.Index, address); err != nil {
			t.Fatal(err)
		}
		before := rest()
		for before > time.Minute-time.Second {
			before = rest()
		}
		renew(time.Minute)
		if got := rest(); got <= before {
			t.Errorf("%v came back with %v, had %v", address, got, before)
		}
		renew(time.Second)
		a.ns.Exec(t, "ip", forever...)
		asked("not renewed", "FAILED")
		renew(time.Minute)
		asked("renewed", "lladdr")
		renew(time.Minute)
		asked("renewed in time", "lladdr")
		if _, err := a.Remove(p.Index, address); err != nil {
			t.Fatal(err)
		}
		a.ns.Exec(t, "ip", forever...)
		asked("somebody else's", "lladdr")
		renew(time.Minute)
	}
	if rules := a.ns.Exec(t, "nft", "list", "ruleset"); strings.Count(rules, "drop") != 2 || a.leases.failed {
		t.Errorf("rules:\n%s", rules)
	}
	a.Close()
	if rules := a.ns.Exec(t, "nft", "list", "ruleset"); rules != "" {
		t.Errorf("left:\n%s", rules)
	}
}
