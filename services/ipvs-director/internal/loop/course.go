package loop

import (
	"context"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// CountEvery is how often the open connections of leaving real servers are counted on a plane that has to look through all
// connections for that.
const CountEvery = 2 * time.Second

// recall loads what was remembered before the start, once. Without it a real server that was leaving gets its time again.
func (l *Loop) recall() {
	if l.recalled {
		return
	}
	memory, err := l.cfg.Recall.Load()
	if err != nil {
		l.log.Warn("what this director remembered cannot be read", zap.Error(err))
	}
	l.memory, l.recalled = memory, true
}

// remember keeps what a course has to have remembered.
func (l *Loop) remember(course steer.Course) {
	l.course = course
	if reflect.DeepEqual(l.memory, course.Memory) {
		return
	}
	l.memory = course.Memory
	if err := l.cfg.Recall.Save(course.Memory); err != nil {
		l.log.Warn("this director will not remember after a restart which real servers are leaving", zap.Error(err))
	}
}

// steer sets the course. Any goroutine may call.
func (l *Loop) steer(want spec.Want, have plan.Have, memory steer.Memory, open map[steer.Key]uint64) steer.Course {
	w := steer.World{Want: want, Have: have, Now: time.Now(), Health: func(k steer.Key) steer.Health {
		health, _ := l.cfg.Health.State(k)
		return health
	}}
	if open != nil {
		w.Open = func(k steer.Key) (uint64, bool) { n, counted := open[k]; return n, counted }
	}
	return steer.Steer(w, memory)
}

// check has the real servers of want checked.
func (l *Loop) check(want spec.Want) {
	checks := map[steer.Key]spec.Check{}
	for _, s := range want.Services {
		if s.Check.Kind == spec.CheckNone {
			continue
		}
		for _, r := range s.Reals {
			checks[steer.Key{VIP: s.VIP, Real: r.Address}] = s.Check
		}
	}
	l.cfg.Health.Set(checks)
}

// count counts the open connections of those that leave, now and then.
func (l *Loop) count(ctx context.Context) error {
	counter, ok := l.plane.(Counter)
	switch {
	case !ok || len(l.course.Leaving) == 0:
		l.open = nil
	case time.Since(l.counted) >= CountEvery:
		open, err := counter.CountOpen(ctx, l.course.Leaving)
		if err != nil {
			return err
		}
		l.open, l.counted = open, time.Now()
	}
	return nil
}

// reset ends the connections of those that have left, where that is wanted.
func (l *Loop) reset(ctx context.Context, course steer.Course) error {
	if resetter, ok := l.plane.(Resetter); ok && len(course.Reset) > 0 {
		return resetter.Reset(ctx, course.Reset)
	}
	return nil
}

// changes are those that a course leads to. An address does not come up before the health of what it is for is known, and
// none goes while a whole service is leaving.
func changes(course steer.Course, addresses []spec.Address, have plan.Have) []plan.Change {
	all := plan.Diff(spec.Want{Services: course.Services, Addresses: addresses}, have)
	return slices.DeleteFunc(all, func(c plan.Change) bool {
		return c.Kind == plan.AddAddress && course.Pending[c.Address.Addr()] || c.Kind == plan.RemoveAddress && course.ServiceLeaves
	})
}
