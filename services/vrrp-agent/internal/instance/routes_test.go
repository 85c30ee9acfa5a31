package instance

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// routed is VI_1 with a default route from its address, and another one.
func routed(priority uint8) spec.Local {
	l := vi1(priority)
	l.Routes = []spec.Route{
		{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.60.99"), Source: l.Addresses[0]},
		{Destination: netip.MustParsePrefix("10.0.0.0/8"), Metric: 5},
	}
	return l
}

// Routes come behind the address, go before it, and are put back; a new order changes them in place.
func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		a := lan.join(t, "a", "192.168.60.22/24")
		a.start(t, routed(105))
		pass(5 * time.Second)
		expect(t, grep(lan.take(), "route", "add 192"), "3.590 a add 192.168.60.78\n"+
			"3.590 a add route 0.0.0.0/0 via 192.168.60.99 src 192.168.60.78\n3.590 a add route 10.0.0.0/8 metric 5")
		routes, _ := a.Routes()
		for _, r := range routes {
			if _, known := a.watched.Load(r); !known {
				t.Errorf("the warden does not know %v", r)
			}
		}

		a.change(func() { a.routes = a.routes[:1] })
		expect(t, grep(lan.take(), "route"), "5.000 a add route 10.0.0.0/8 metric 5")
		a.change(func() { a.card.Addresses, a.routes = a.card.Addresses[:1], a.routes[1:] }) // the kernel removes what starts from an address
		expect(t, grep(lan.take(), "add"), "5.000 a add 192.168.60.78\n5.000 a add route 0.0.0.0/0 via 192.168.60.99 src 192.168.60.78")

		fewer := routed(105)
		fewer.Routes = fewer.Routes[:1]
		update := func(l spec.Local) {
			t.Helper()
			if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: l}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		update(fewer)
		update(routed(105))
		expect(t, grep(lan.take(), "route"), "5.000 a remove route 10.0.0.0/8 metric 5\n5.000 a add route 10.0.0.0/8 metric 5")

		a.leave()
		expect(t, grep(lan.take(), "route", "remove"), "5.000 a remove route 0.0.0.0/0 via 192.168.60.99 src 192.168.60.78\n"+
			"5.000 a remove route 10.0.0.0/8 metric 5\n5.000 a remove 192.168.60.78")
		for _, r := range routes {
			if _, known := a.watched.Load(r); known {
				t.Errorf("the warden still watches %v", r)
			}
		}
	})
}

// A node that cannot have the routes is of no use as master; one that is not master has none.
func TestRoutesRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := newLAN()
		a, b := lan.join(t, "a", "192.168.60.22/24"), lan.join(t, "b", "192.168.60.128/24")
		a.refuseRoute = errors.New("another one is there")
		a.start(t, routed(105))
		b.start(t, routed(99))
		pass(10 * time.Second)
		expect(t, a.print()+"\n"+b.print(), "a: VI_1 fault [] (another one is there)\nb: VI_1 master [192.168.60.78] (master 192.168.60.22 resigned)")

		left := nic.Route{Route: routed(99).Routes[1], Index: a.card.Index}
		a.change(func() { a.refuseRoute, a.routes = nil, []nic.Route{left} })
		if routes, _ := a.Routes(); len(routes) != 0 {
			t.Errorf("%v is left on a node that is not master", routes)
		}
		have, err := a.set.Observe(t.Context())
		if err != nil || len(have.Routes) != 0 {
			t.Errorf("%v %v", have.Routes, err)
		}
		a.leave()
		b.leave()
	})
}
