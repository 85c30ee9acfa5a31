package instance

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// fail notes that something that the instance needs is broken.
func (i *instance) fail(cause, reason string) {
	first := len(i.faults) == 0
	if i.faults[cause] == reason {
		return
	}
	i.faults[cause] = reason
	i.ownFault()
	switch {
	case i.state == fsm.Initialize: // run decides after its first look
	case first:
		i.offerAway()
		i.step(fsm.Event{Kind: fsm.Broken}, because(reason))
	default:
		i.explain()
	}
}

// mend notes that it works again.
func (i *instance) mend(cause string) {
	if _, broken := i.faults[cause]; !broken {
		return
	}
	delete(i.faults, cause)
	i.ownFault()
	switch {
	case i.state == fsm.Initialize:
	case len(i.faults) == 0:
		i.step(fsm.Event{Kind: fsm.Mended}, because("the fault is over"))
	default:
		i.explain()
	}
}

// explain makes the present faults the reason for the state.
func (i *instance) explain() {
	i.why = i.faultReason()
	i.publish()
	i.changed()
}

// faultReason lists the faults in the order of their causes.
func (i *instance) faultReason() string {
	var all []string
	for _, cause := range slices.Sorted(maps.Keys(i.faults)) {
		all = append(all, i.faults[cause])
	}
	return strings.Join(all, "; ")
}

// track starts a check. It ends with ctx or when its tracker is stopped.
func (i *instance) track(ctx context.Context, c spec.Check, well bool) {
	ctx, stop := context.WithCancel(ctx)
	t := &tracker{check: c, stop: stop, found: plan.Finding{Tracker: c.Name, Well: well}}
	if c.Weight > 0 && well {
		t.sum = c.Weight
	}
	i.trackers[c.Name] = t
	i.goroutine.Go(func() {
		defer stop()
		i.watch(ctx, c, well, func(well bool, why string) {
			select {
			case i.findings <- finding{tracker: t, well: well, why: why}:
			case <-ctx.Done():
			}
		})
	})
}

// judge takes in what a tracker has found.
func (i *instance) judge(f finding) {
	name := f.tracker.check.Name
	if i.trackers[name] != f.tracker {
		return // of a tracker that has been replaced meanwhile
	}
	f.tracker.found = plan.Finding{Tracker: name, Well: f.well, Why: f.why, Since: time.Now()}
	defer i.publish() // also when nothing follows from it
	if w := f.tracker.check.Weight; w != 0 {
		i.weigh(f, w)
		i.mend(causeTracker + name) // it has answered
		return
	}
	if f.well {
		i.mend(causeTracker + name)
		return
	}
	i.fail(causeTracker+name, "tracker "+name+" failed: "+f.why)
}

// findingsNow are what the trackers have found, in the order of their names.
func (i *instance) findingsNow() []plan.Finding {
	var all []plan.Finding
	for _, name := range slices.Sorted(maps.Keys(i.trackers)) {
		t := i.trackers[name]
		f := t.found
		f.Adds = t.sum
		all = append(all, f)
	}
	return all
}

// weigh takes in the finding of a tracker that changes the priority.
func (i *instance) weigh(f finding, weight int) {
	f.tracker.sum = 0
	if f.well == (weight > 0) {
		f.tracker.sum = weight
	}
	old := i.config.Priority
	if i.priority() == old {
		return
	}
	i.build()
	i.log.Info("priority changed", zap.Uint8("old", old), zap.Uint8("new", i.config.Priority),
		logging.Reason(fmt.Sprintf("tracker %s: well %v %s", f.tracker.check.Name, f.well, f.why)))
	if i.state == fsm.Master {
		i.send(i.advert, false) // the peers learn of it now, not at the next turn
		if node := i.successor(); node != "" && i.order.local.Preempt && i.agents[node].priority > i.config.Priority {
			i.handOver(node, false, func(string, error) {}) // what comes of it is in the log
		}
	}
	i.publish()
}

// obey takes a new order without leaving the state.
func (i *instance) obey(tracking context.Context, o order) {
	old := i.order.local
	i.take(o)

	for name, t := range i.trackers {
		if !slices.Contains(o.local.Trackers, t.check) {
			t.stop()
			delete(i.trackers, name)
			if !slices.ContainsFunc(o.local.Trackers, func(c spec.Check) bool { return c.Name == name }) {
				i.mend(causeTracker + name)
			}
		}
	}
	for _, c := range o.local.Trackers {
		if _, runs := i.trackers[c.Name]; !runs {
			// What is new is taken for well until it says otherwise: asking a new question is no reason to move the
			// addresses. What has replaced a failed check of the same name begins as failed.
			_, failed := i.faults[causeTracker+c.Name]
			i.track(tracking, c, !failed)
		}
	}
	i.build() // the weights may be others

	i.release(slices.DeleteFunc(slices.Clone(i.held), func(a netip.Addr) bool { return slices.Contains(o.local.Addresses, a) }))
	i.look()
	if i.state == fsm.Master {
		if !slices.Equal(old.Addresses, o.local.Addresses) {
			i.announced = time.Time{}
			i.act(fsm.AddAddresses)
			i.act(fsm.Announce)
		}
		i.addRoutes()
		i.announceLater()
		// The peers learn of a new priority or list now, not at the next turn.
		i.act(fsm.SendAdvert)
	}
	i.checkRefused()
	i.publish()
}
