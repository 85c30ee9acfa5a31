package warden

import (
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
)

// held is an address on a card.
type held struct {
	index   int
	address netip.Addr
}

// ward is an instance that is watched.
type ward struct {
	holds []held
	due   time.Duration // when it will have been silent for too long
}

// watch knows what the agent holds. It has no clock: whoever drives it says what time it is.
type watch struct {
	wards  map[router]*ward
	remove func(index int, a netip.Addr) (bool, error)
	log    *zap.Logger
}

func newWatch(remove func(int, netip.Addr) (bool, error), log *zap.Logger) *watch {
	return &watch{wards: map[router]*ward{}, remove: remove, log: log}
}

// take takes in a record.
func (w *watch) take(r record) {
	if w.wards[r.router] == nil {
		w.wards[r.router] = &ward{}
	}
	d, h := w.wards[r.router], held{r.index, r.address}
	if r.op != opRelease { // with a hold too: whoever takes an address lives
		d.due = r.stamp + r.patience
	}
	switch r.op {
	case opHold:
		if !slices.Contains(d.holds, h) {
			d.holds = append(d.holds, h)
		}
	case opRelease:
		d.holds = slices.DeleteFunc(d.holds, func(x held) bool { return x == h })
	}
}

// next is when somebody will have been silent for too long; false: nobody holds anything.
func (w *watch) next() (next time.Duration, any bool) {
	for _, d := range w.wards {
		if len(d.holds) > 0 && (!any || d.due < next) {
			next, any = d.due, true
		}
	}
	return next, any
}

// judge removes what is held by instances that have been silent for too long.
func (w *watch) judge(now time.Duration) {
	for r, d := range w.wards {
		if len(d.holds) > 0 && now >= d.due {
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
	for _, h := range d.holds {
		removed, err := w.remove(h.index, h.address)
		switch {
		case err != nil:
			w.log.Error("remove address", logging.VIP(h.address.String()), logging.Reason(why), zap.Error(err))
		case removed:
			w.log.Warn("removed an address in the agent's place", logging.VIP(h.address.String()), logging.Reason(why),
				zap.Uint8("virtual_router", r.id))
		}
	}
	d.holds = nil
}
