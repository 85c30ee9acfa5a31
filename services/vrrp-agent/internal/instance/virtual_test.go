package instance

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The card with the virtual Ethernet address is there while the instance runs, and on from before its first advert until
// behind its last one.
func TestVirtualMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "a", "192.168.60.22/24"), l.join(t, "b", "192.168.60.128/24")
		first, second := vi1(105), vi1(99)
		first.VirtualMAC, second.VirtualMAC = true, true
		a.start(t, first)
		pass(time.Second)
		b.start(t, second)
		pass(5 * time.Second)
		a.leave()
		pass(5 * time.Second)
		expect(t, grep(l.take(), "wear", "doff", "switch", "add", "remove", "priority 0"), "0.000 a wear vrrp.53 00005e000135 behind eth0\n"+
			"1.000 b wear vrrp.53 00005e000135 behind eth0\n3.590 a switch true\n3.590 a add 192.168.60.78\n6.000 a advert 53 priority 0\n"+
			"6.000 a remove 192.168.60.78\n6.000 a switch false\n6.000 a doff\n6.613 b switch true\n6.613 b add 192.168.60.78")
		b.leave()
		b = l.join(t, "c", "192.168.60.129/24")
		b.refuse = errors.New("no more cards")
		b.start(t, first)
		pass(time.Second)
		expect(t, b.print(), "c: VI_1 fault [] (no more cards)")
		b.leave()
	})
}

// The card with the virtual Ethernet address is deleted by somebody, and the renewal of the addresses comes before the word
// of it: it is made anew, with them.
func TestVirtualMACDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "a", "192.168.60.22/24")
		first := vi1(105)
		first.VirtualMAC = true
		a.start(t, first)
		pass(5 * time.Second)
		l.take()
		l.mu.Lock()
		a.pulled, a.on, a.card.Addresses = errors.New("no such device"), false, a.card.Addresses[:1]
		l.mu.Unlock()
		pass(renewal)
		expect(t, grep(l.take(), "wear", "switch", "add", "remove"), "5.090 a wear vrrp.53 00005e000135 behind eth0\n5.090 a switch true\n"+
			"5.090 a add 192.168.60.78")
		expect(t, a.print(), "a: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		a.leave()
	})
}
