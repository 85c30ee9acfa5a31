package loop

import (
	"context"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// forgetAgain is how long after a VIP has gone its connections are forgotten once more: what was on its way to this node when the
// address went has made the kernel remember some anew.
const forgetAgain = 10 * time.Second

// absence is how long a VIP has been gone, and how often its connections have been forgotten since.
type absence struct {
	since time.Time
	times int
}

// holding notes which VIPs this node has and which of those that it had before, perhaps before a restart, it has no more. Without another
// director nobody has to know: a VIP may be served by a route then, and without an address.
func (l *Loop) holding(have plan.Have) map[spec.VIP]bool {
	if l.kept.keeper == nil {
		return nil
	}
	held := map[spec.VIP]bool{}
	for _, s := range have.Services {
		if hasAddress(have.Host, s.VIP.Addr()) {
			held[s.VIP] = true
			delete(l.kept.absent, s.VIP)
		}
	}
	for vip := range l.memory.Held {
		if _, known := l.kept.absent[vip]; !known && !hasAddress(have.Host, vip.Addr()) {
			l.kept.absent[vip] = absence{since: time.Now()}
		}
	}
	return held
}

// forget has the kernel forget the connections to VIPs that have gone elsewhere: there they go on and end. If the VIP comes back, what
// this kernel remembered would send the clients' next ones where the old ones were, and would be counted as open for days.
func (l *Loop) forget(ctx context.Context) error {
	due := map[spec.VIP]bool{}
	for vip, a := range l.kept.absent {
		if a.times == 0 || time.Since(a.since) >= forgetAgain {
			due[vip] = true
		}
	}
	if len(due) == 0 {
		return nil
	}
	if err := l.kept.keeper.Forget(ctx, due); err != nil {
		return err
	}
	for vip := range due {
		a := l.kept.absent[vip]
		if a.times++; a.times > 1 {
			delete(l.kept.absent, vip)
		} else {
			l.kept.absent[vip] = a
		}
	}
	return nil
}
