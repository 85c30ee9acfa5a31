package nftables

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	// The hash of zero is 0; those of one and other are the same.
	const zero, one, other = "10.1.136.233:34451", "10.40.117.140:45971", "10.77.63.145:31665"
	const hash = 0x1c899d54
	for _, c := range []struct {
		name  string
		reals []string
		want  map[string]uint32
	}{
		{"nobody", nil, map[string]uint32{}},
		{"one", []string{one}, map[string]uint32{one: hash}},
		{"the other", []string{other}, map[string]uint32{other: hash}},
		{"both", []string{one, other}, map[string]uint32{one: hash, other: hash + 1}},
		{"in another order", []string{other, zero, one}, map[string]uint32{one: hash, other: hash + 1, zero: 1}},
		{"IPv6", []string{"[2001:db8:60::78]:8080", one}, map[string]uint32{"[2001:db8:60::78]:8080": 0x3a894510, one: hash}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var reals []spec.Real
			for _, a := range c.reals {
				reals = append(reals, spec.Real{Address: netip.MustParseAddrPort(a), Weight: 1})
			}
			got := map[string]uint32{}
			for a, n := range numbers(reals) {
				got[a.String()] = binary.BigEndian.Uint32(n)
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("%v have the numbers %x; want %x", c.reals, got, c.want)
			}
		})
	}
}

// A packet that comes with the number of a real server as its priority goes where it would without, and no priority but 0 is seen behind the rules.
func TestKernelPersistencePriority(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "the nft program: install nftables")
	}
	n := network(t)
	for vip, client := range map[spec.VIP]string{vipAt(planetest.VIP, planetest.VIPPort): "10.10.60.1", vipAt(planetest.VIP6, planetest.VIPPort): "2001:db8:10::1"} {
		s := spec.Service{VIP: vip, Scheduler: spec.SH, Persistence: spec.Persistence{Timeout: time.Hour, Prefix: vip.Addr().BitLen()}}
		for _, a := range kinds(n)[vip] {
			s.Reals = append(s.Reals, spec.Real{Address: a, Weight: 1})
		}
		become(t, n, s)
		table := slots.Of(s)
		slot, _ := table.Slot(addrPort(client, 0))
		home := table.Slots[slot]
		for a, number := range numbers(s.Reals) {
			if a == home {
				continue
			}
			family, priority := familyName(vip), binary.NativeEndian.Uint32(number)
			n.Director.Exec(t, "nft", fmt.Sprintf(`add table %[1]s witness; flush table %[1]s witness
				add chain %[1]s witness before { type filter hook prerouting priority mangle; }
				add rule %[1]s witness before meta priority set %[2]x:%[3]x
				add chain %[1]s witness behind { type filter hook prerouting priority dstnat + 1; }
				add rule %[1]s witness behind ct state new meta priority none counter`, family, priority>>16, priority&0xffff))
			become(t, n) // so that the client is not remembered
			become(t, n, s)
			for _, which := range []string{"new", "remembered"} {
				if c, err := n.DialVIP(t, vip); err != nil || c.Real != home {
					t.Errorf("%s: a %s client whose packets have the number of %s is at %v, %v; want %s", vip, which, a, c, err, home)
				}
			}
			out := n.Director.Exec(t, "nft", "list", "chain", family, "witness", "behind")
			counted := regexp.MustCompile(`meta priority none counter packets (\d+)`).FindStringSubmatch(out)
			if counted == nil {
				t.Fatalf("no counter:\n%s", out)
			}
			if passed, err := strconv.Atoi(counted[1]); err != nil || passed != 2 { // what is sent again does not see the rules
				t.Errorf("%s: of 2 connections %s have begun without a priority", vip, counted[1])
			}
		}
	}
}
