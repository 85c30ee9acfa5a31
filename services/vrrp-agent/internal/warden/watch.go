package warden

import (
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
)

// held is an address on a card.
type held struct {
	index   int
	address netip.Addr
}

// Cards is where the addresses and routes are.
type Cards interface {
	// Remove takes an address off a card and tells whether it was there.
	Remove(index int, a netip.Addr) (bool, error)
	// RemoveRoute takes a route away and tells whether it was there.
	RemoveRoute(nic.Route) (bool, error)
}

// ward is an instance that is watched.
type ward struct {
	holds  []held
	routes []nic.Route
	due    time.Duration // when it will have been silent for too long
}

// watch knows what the agent holds. It has no clock: whoever drives it says what time it is.
type watch struct {
	wards map[router]*ward
	cards Cards
	log   *zap.Logger
}

func newWatch(cards Cards, log *zap.Logger) *watch {
	return &watch{wards: map[router]*ward{}, cards: cards, log: log}
}

// empty tells whether there is nothing to take away.
func (d *ward) empty() bool { return len(d.holds) == 0 && len(d.routes) == 0 }

// take takes in a record.
func (w *watch) take(r record) {
	if w.wards[r.router] == nil {
		w.wards[r.router] = &ward{}
	}
	d, h, route := w.wards[r.router], held{r.index, r.address}, nic.Route{Route: r.route, Index: r.index}
	if r.op != opRelease && r.op != opReleaseRoute { // with a hold too: whoever takes an address lives
		d.due = r.stamp + r.patience
	}
	switch r.op {
	case opHold:
		if !slices.Contains(d.holds, h) {
			d.holds = append(d.holds, h)
		}
	case opRelease:
		d.holds = slices.DeleteFunc(d.holds, func(x held) bool { return x == h })
	case opHoldRoute:
		if !slices.Contains(d.routes, route) {
			d.routes = append(d.routes, route)
		}
	case opReleaseRoute:
		d.routes = slices.DeleteFunc(d.routes, func(x nic.Route) bool { return x == route })
	}
}

// next is when somebody will have been silent for too long; false: nobody holds anything.
func (w *watch) next() (next time.Duration, any bool) {
	for _, d := range w.wards {
		if !d.empty() && (!any || d.due < next) {
			next, any = d.due, true
		}
	}
	return next, any
}

// judge removes what is held by instances that have been silent for too long.
func (w *watch) judge(now time.Duration) {
	for r, d := range w.wards {
		if !d.empty() && now >= d.due {
			w.clear(r, d, "the agent is silent")
		}
	}
}

// end removes everything: the agent is gone.
func (w *watch) end() {
	for r, d := range w.wards {
		w.clear(r, d, "the agent has ended")
	}
}

// clear removes what the instance holds. A removal that fails is not tried again: the kernel does it when the address's
// time is over.
func (w *watch) clear(r router, d *ward, why string) {
	for _, r := range d.routes { // before the addresses that they start from, as the agent does
		removed, err := w.cards.RemoveRoute(r)
		switch {
		case err != nil:
			w.log.Error("remove route", logging.Route(r.String()), logging.Reason(why), zap.Error(err))
		case removed:
			w.log.Warn("removed a route in the agent's place", logging.Route(r.String()), logging.Reason(why))
		}
	}
	var gone []string
	for _, h := range d.holds {
		removed, err := w.cards.Remove(h.index, h.address)
		switch {
		case err != nil:
			w.log.Error("remove address", logging.VIP(h.address.String()), logging.Reason(why), zap.Error(err))
		case removed:
			gone = append(gone, h.address.String())
		}
	}
	if len(gone) > 0 {
		w.log.Warn("removed addresses in the agent's place", zap.Strings("addresses", gone), logging.Reason(why), zap.Uint8("virtual_router", r.id))
	}
	d.holds, d.routes = nil, nil
}
