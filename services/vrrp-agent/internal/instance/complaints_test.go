package instance

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// A flood of adverts that are dropped is a word a minute in the log for each reason, with their number; those of another
// instance are no fault, whatever their version.
func TestComplaints(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.WarnLevel)
		i := newInstance(deafNetwork{}, deafNetwork{}, nil, zap.New(core), func() {}, func(spec.Local, plan.Transition) {},
			order{local: vi1(105), keys: []parley.Key{{}}})
		if err := i.settle(nic.Port{Index: 2, Source: netip.MustParseAddr("192.168.60.22"), Own: netip.MustParseAddr("192.168.60.22")}); err != nil {
			t.Fatal(err)
		}
		from := netip.MustParseAddr("192.168.60.1")
		advert := func(id uint8, interval time.Duration, f packet.Format, addresses ...netip.Addr) []byte {
			a := packet.Advertisement{VirtualRouterID: id, Priority: 90, Interval: interval, Addresses: addresses}
			return ipv4(from, a.Append(nil, f))
		}
		v3 := packet.Format{Version: packet.V3, Source: from}
		ours := vi1(1).Addresses
		flood := [][]byte{
			advert(53, time.Second, v3, ours...),
			advert(53, 2*time.Second, v2, ours...),
			advert(54, time.Second, v3, ours...),
			advert(53, time.Second, v2, netip.MustParseAddr("192.168.60.79")),
		}
		for range 150 { // two minutes and a half
			for _, datagram := range flood {
				i.receive(datagram)
			}
			time.Sleep(time.Second) // of the bubble's clock
		}
		got := ""
		for _, e := range logs.All() {
			fields := e.ContextMap()
			got += e.Message
			for _, key := range []string{"reason", "address", "addresses", "count"} {
				if v, ok := fields[key]; ok {
					got += fmt.Sprint(" ", v)
				}
			}
			got += "\n"
		}
		want := ""
		for _, count := range []string{"1", "61", "121"} {
			want += "dropped an advert version 192.168.60.1 " + count + "\n" +
				"dropped an advert interval 192.168.60.1 " + count + "\n" +
				"an advert has other addresses than ours 192.168.60.1 [192.168.60.79] " + count + "\n"
		}
		expect(t, got, want)
		i.hangUp()
		i.goroutine.Wait()
	})
}

// Who removes an address again and again is a word a minute in the log too.
func TestTampering(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.WarnLevel)
		i := newInstance(deafNetwork{}, deafNetwork{}, nil, zap.New(core), func() {}, func(spec.Local, plan.Transition) {},
			order{local: vi1(105), keys: []parley.Key{{}}})
		for range 1500 { // two minutes and a half
			i.restored(i.order.local.Addresses)
			time.Sleep(100 * time.Millisecond) // of the bubble's clock
		}
		got := ""
		for _, e := range logs.All() {
			got += fmt.Sprint(e.Message, " ", e.ContextMap()["addresses"], " ", e.ContextMap()["count"], "\n")
		}
		const message = "put back an address that was removed [192.168.60.78] "
		expect(t, got, message+"1\n"+message+"600\n"+message+"600\n")
		i.stopTimers()
	})
}
