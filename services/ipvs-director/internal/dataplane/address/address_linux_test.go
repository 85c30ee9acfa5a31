package address

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// want plans for these addresses and carries the plan out, returning its lines and the joined errors.
func become(t *testing.T, ns *netnstest.NS, prefixes ...string) (lines []string, failed error) {
	t.Helper()
	var want spec.Want
	for _, p := range prefixes {
		want.Addresses = append(want.Addresses, spec.Address{Prefix: netip.MustParsePrefix(p)})
	}
	ns.Do(t, func() {
		have, err := Host{}.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range plan.Diff(want, plan.Have{Host: have}) {
			lines = append(lines, c.String())
			failed = errors.Join(failed, Host{}.Apply(t.Context(), c))
		}
	})
	return lines, failed
}

func TestKernelAddresses(t *testing.T) {
	netnstest.Require(t)
	client, director := netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t, client, "outer", "10.10.60.1/24", director, "outer", "10.10.60.21/24")
	director.Exec(t, "ip", "address", "add", "10.10.60.30/24", "dev", "outer") // an operator's

	for _, step := range []struct {
		name, edit, want, plan, fails string
	}{
		{"put there", "", "10.10.60.22/24", "add address 10.10.60.22/24 to outer", ""},
		{"nothing to do", "", "10.10.60.22/24", "", ""},
		{"put back", "address delete 10.10.60.22/24 dev outer", "10.10.60.22/24", "add address 10.10.60.22/24 to outer", ""},
		{"no card, the others go on", "", "192.168.60.99/24 10.10.60.22/24 10.10.60.23/24",
			"add address 192.168.60.99/24: no network card has an address in 192.168.60.0/24\nadd address 10.10.60.23/24 to outer", "192.168.60.0/24"},
		{"the operator's serves", "", "10.10.60.30/24 10.10.60.22/24 10.10.60.23/24", "", ""},
		{"only ours go", "", "", "remove address 10.10.60.22/24 from outer\nremove address 10.10.60.23/24 from outer", ""},
		{"nothing left to do", "", "", "", ""},
	} {
		if step.edit != "" {
			director.Exec(t, "ip", strings.Fields(step.edit)...)
		}
		lines, err := become(t, director, strings.Fields(step.want)...)
		if got := strings.Join(lines, "\n"); got != step.plan {
			t.Errorf("%s: plan\n%s\nwant\n%s", step.name, got, step.plan)
		}
		if step.fails == "" && err != nil || step.fails != "" && (!errors.Is(err, plan.ErrNoCard) || !strings.Contains(err.Error(), step.fails)) {
			t.Errorf("%s: error %v, want one with %q", step.name, err, step.fails)
		}
	}
	got := director.Exec(t, "ip", "-4", "-brief", "address", "show", "dev", "outer")
	if !strings.HasSuffix(strings.TrimSpace(got), " 10.10.60.21/24 10.10.60.30/24") {
		t.Errorf("left on the card: %s", got)
	}
}

func TestKernelNeighboursLearnTheAddress(t *testing.T) {
	netnstest.Require(t)
	client, director := netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t, client, "outer", "10.10.60.1/24", director, "outer", "10.10.60.21/24")
	client.Exec(t, "ip", "neighbour", "replace", "10.10.60.22", "lladdr", "02:00:00:00:00:01", "dev", "outer", "nud", "stale")
	if _, err := become(t, director, "10.10.60.22/24"); err != nil {
		t.Fatal(err)
	}
	mac := strings.Fields(director.Exec(t, "ip", "-brief", "link", "show", "dev", "outer"))[2]
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(10 * time.Second)
	for {
		entry := client.Exec(t, "ip", "neighbour", "show", "10.10.60.22")
		if strings.Contains(entry, mac) {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("the client still has %q, the director's card is %s", entry, mac)
		}
	}
}

// Addresses of IPv6 are seen with their card, but for one that is still asked for or that somebody else has.
func TestKernelAddressesOfIPv6(t *testing.T) {
	netnstest.Require(t)
	other, director := netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t, other, "outer", "10.10.60.1/24", director, "outer", "10.10.60.21/24")
	other.Exec(t, "ip", "address", "add", "2001:db8::22/64", "dev", "outer", "nodad")
	director.Exec(t, "ip", "address", "add", "2001:db8::21/64", "dev", "outer", "nodad")
	director.Exec(t, "ip", "address", "add", "2001:db8::1:21", "peer", "2001:db8::1:1/128", "dev", "outer", "nodad")
	director.Exec(t, "ip", "address", "add", "2001:db8::22/64", "dev", "outer") // the other has it
	seen := func() (all []string) {
		director.Do(t, func() {
			host, err := Host{}.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range host.Addresses {
				if !a.Prefix.Addr().IsLinkLocalUnicast() {
					all = append(all, a.CardName+" "+a.Prefix.String())
				}
			}
		})
		return all
	}
	want := []string{"outer 10.10.60.21/24", "outer 2001:db8::21/64", "outer 2001:db8::1:21/128"}
	if got := seen(); !slices.Equal(got, want) { // while it is asked for
		t.Errorf("got %q, want %q", got, want)
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(20 * time.Second); !strings.Contains(director.Exec(t, "ip", "-6", "address", "show", "dev", "outer"), "dadfailed"); {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("nobody has objected to the address of another")
		}
	}
	if got := seen(); !slices.Equal(got, want) {
		t.Errorf("after the objection: got %q, want %q", got, want)
	}
	director.Exec(t, "ip", "address", "flush", "dev", "outer", "to", "2001:db8::22")
	director.Exec(t, "ip", "address", "add", "2001:db8::23/64", "dev", "outer")
	for deadline := time.After(20 * time.Second); !slices.Contains(seen(), "outer 2001:db8::23/64"); {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("an address to which nobody objects is not seen: %q", seen())
		}
	}
}

func TestKernelForwarding(t *testing.T) {
	netnstest.Require(t)
	ns := netnstest.New(t)
	for setting, want := range map[string]bool{"0": false, "1": true} {
		ns.Do(t, func() {
			if err := os.WriteFile(forwarding, []byte(setting), 0o644); err != nil {
				t.Fatal(err)
			}
			host, err := Host{}.Observe(t.Context())
			if err != nil || host.Forwarding != want {
				t.Errorf("ip_forward %s: got %v, %v", setting, host.Forwarding, err)
			}
		})
	}
}
