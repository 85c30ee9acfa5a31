package instance

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// fast is VI_1 in version 3.
func fast(priority uint8, interval time.Duration) spec.Local {
	l := vi1(priority)
	l.Version, l.Interval = packet.V3, interval
	return l
}

// TestFast loses the master at 30 ms: its last advert was at 990 ms, and 3 x 30 ms + 157/256 x 30 ms later it is replaced.
func TestFast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, fast(105, 30*time.Millisecond))
		b.start(t, fast(99, 30*time.Millisecond))
		pass(time.Second)
		journal := l.take()
		if lines := strings.Split(grep(journal, "advert"), "\n"); lines[0] != "0.108 haproxy advert 53 priority 105" ||
			lines[len(lines)-1] != "0.978 haproxy advert 53 priority 105" || len(lines) != 30 {
			t.Errorf("%d adverts, from %s to %s", len(lines), lines[0], lines[len(lines)-1])
		}
		a.die()
		pass(time.Second)
		expect(t, grep(l.take(), "haproxy2 add"), "1.086 haproxy2 add 192.168.60.78")
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (no advert for 108.398437ms)")
		a.leave()
		b.leave()
	})
}

// TestFollowsTheMaster: a backup reckons with the interval of the master, and with its own when it is master itself.
func TestFollowsTheMaster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, fast(105, 2*time.Second))
		pass(20 * time.Second)
		b := l.join(t, "haproxy2", "192.168.60.128/24")
		b.start(t, fast(99, time.Second)) // waits 3.613 s on its own account, enough to hear the first advert
		pass(20 * time.Second)
		expect(t, b.print(), "haproxy2: VI_1 backup [] (started)")
		expect(t, grep(l.take(), "haproxy2"), "")
		a.die() // the last advert was at 39.180
		pass(10 * time.Second)
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (no advert for 7.2265625s)") // 3 x 2 s + 157/256 x 2 s
		expect(t, grep(l.take(), "haproxy2 add", "haproxy2 advert"), `46.406 haproxy2 advert 53 priority 99
46.406 haproxy2 add 192.168.60.78
47.406 haproxy2 advert 53 priority 99
48.406 haproxy2 advert 53 priority 99
49.406 haproxy2 advert 53 priority 99`)
		a.leave()
		b.leave()
	})
}

// TestMirrorsTheChecksum: what an advert's checksum covers follows the peers, unless it is ordered.
func TestMirrorsTheChecksum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, fast(105, time.Second))
		pass(10 * time.Second)
		peers := map[string]*wire{}
		for _, address := range []string{"192.168.60.200", "192.168.60.201"} {
			w, _ := l.join(t, address, address+"/24").Listen(nic.Port{Index: 2, Source: netip.MustParseAddr(address)})
			peers[address] = w.(*wire)
		}
		listen := packet.Expect{Version: packet.V3, VirtualRouterID: 53}
		// say sends an advert of a peer and returns the form of the answer.
		say := func(from string, form packet.Checksum) string {
			t.Helper()
			w := peers[from]
			low := packet.Advertisement{VirtualRouterID: 53, Priority: 99, Interval: time.Second, Addresses: vi1(1).Addresses}
			for n := 1; n > 0; { // what lies there
				n, _ = w.Receive(make([]byte, 100))
			}
			if err := w.Send(low.Append(nil, packet.Format{Version: packet.V3, Checksum: form, Source: w.source})); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			b := make([]byte, 100)
			n, _ := w.Receive(b)
			r, err := listen.Receive(b[:n], nil)
			if err != nil {
				t.Fatal(err)
			}
			i := a.set.Instances()[0]
			return fmt.Sprintf("%v, says %v, %v", r.Checksum, i.Checksum, i.Peers)
		}
		expect(t, say("192.168.60.200", packet.ChecksumMessage), "message, says message, map[192.168.60.200:message]")
		expect(t, say("192.168.60.200", packet.ChecksumPseudoHeader),
			"pseudo-header, says pseudo-header, map[192.168.60.200:pseudo-header]")
		expect(t, say("192.168.60.200", packet.ChecksumMessage), "message, says message, map[192.168.60.200:message]")
		expect(t, say("192.168.60.201", packet.ChecksumPseudoHeader),
			"pseudo-header, says pseudo-header, map[192.168.60.200:message 192.168.60.201:pseudo-header]")
		ordered := fast(105, time.Second)
		ordered.Checksum = spec.ChecksumMessage
		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: ordered}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, say("192.168.60.201", packet.ChecksumPseudoHeader),
			"message, says message, map[192.168.60.200:message 192.168.60.201:pseudo-header]")
		a.leave()
		for address := range peers {
			for _, n := range l.nodes {
				if n.name == address {
					n.leave()
				}
			}
		}
	})
}
