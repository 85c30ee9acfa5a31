package loop

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// CountEvery is how often the open connections of leaving real servers are counted on a plane that has to look through all
// connections for that. While a real server may be full they are counted in each pass.
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

// remember keeps what a course has to have remembered. What could not be saved is saved at the next pass.
func (l *Loop) remember(course steer.Course) error {
	l.course = course
	// What was counted of one that stays after all says nothing about the next time that it leaves.
	counted := toCount(course.Leaving, course.Limited, course.ByLoad)
	maps.DeleteFunc(l.open, func(k steer.Key, _ uint64) bool { return !counted[k] })
	if !reflect.DeepEqual(l.memory, course.Memory) {
		l.memory, l.unsaved = course.Memory, true
	}
	if !l.unsaved {
		return nil
	}
	if err := l.cfg.Recall.Save(course.Memory); err != nil {
		return fmt.Errorf("this director will not remember after a restart which real servers are leaving: %w", err)
	}
	l.unsaved = false
	return nil
}

// toCount are the real servers whose open connections are to be counted.
func toCount(keys ...[]steer.Key) map[steer.Key]bool {
	all := map[steer.Key]bool{}
	for _, key := range slices.Concat(keys...) {
		all[key] = true
	}
	return all
}

// steer sets the course. Any goroutine may call.
func (l *Loop) steer(want spec.Want, have plan.Have, memory steer.Memory, open map[steer.Key]uint64, lending *steer.Lending) steer.Course {
	w := steer.World{Want: want, Have: have, Now: time.Now(), Ceilings: l.ceilings.Load(), Lending: lending, Health: func(k steer.Key) steer.Health {
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

// count counts the open connections of those that leave, now and then, of those that may be full, each time, and of those whose slots
// follow from them. When that fails it is not known: their time decides about those that leave, and the others stay what they are. So
// it is where another director has the connections.
func (l *Loop) count(ctx context.Context, have plan.Have) error {
	counter, ok := l.plane.(Counter)
	leaving := l.course.Leaving
	if l.kept.keeper != nil {
		leaving = slices.DeleteFunc(slices.Clone(leaving), func(k steer.Key) bool { return !hasAddress(have.Host, k.VIP.Addr()) })
	}
	all, now := toCount(leaving, l.course.Limited, l.course.ByLoad), time.Now()
	levels := len(l.course.ByLoad) > 0 && now.Sub(l.levelled) >= l.levelPause
	l.fresh = false
	switch {
	case !ok || len(all) == 0:
		l.open, l.countErr = nil, nil
	case len(leaving) > 0 && now.Sub(l.counted) >= CountEvery || len(l.course.Limited) > 0 || levels:
		open, err := counter.CountOpen(ctx, slices.Collect(maps.Keys(all)))
		l.open, l.counted, l.countErr = open, time.Now(), nil
		if err != nil {
			l.open, l.countErr = nil, fmt.Errorf("count open connections: %w", err)
		} else if levels {
			l.fresh, l.levelled, l.levelPause = true, l.counted, max(LevelEvery, keptShare*l.counted.Sub(now))
		}
	}
	return l.countErr
}

// reset ends the connections of those that have left or died, where that is wanted. Those that it cannot end, or that the kernel still
// gives new ones, are for the next pass.
func (l *Loop) reset(ctx context.Context, have plan.Have) error {
	resetter, ok := l.plane.(Resetter)
	if !ok {
		return nil
	}
	takes := takers(have)
	var gone []steer.Key
	for key := range l.resets {
		if !takes[key] {
			gone = append(gone, key)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := resetter.Reset(ctx, gone); err != nil {
		return err
	}
	for _, key := range gone {
		delete(l.resets, key)
	}
	return nil
}

// toReset notes whose connections are to be ended. One that has come back keeps them.
func (l *Loop) toReset(keys []steer.Key, have plan.Have) {
	takes := takers(have)
	maps.DeleteFunc(l.resets, func(k steer.Key, _ bool) bool { return takes[k] })
	for _, key := range keys {
		l.resets[key] = true
	}
}

// takers are the real servers that the kernel gives new connections.
func takers(have plan.Have) map[steer.Key]bool {
	takes := map[steer.Key]bool{}
	for _, s := range have.Services {
		for _, r := range s.Reals {
			if r.Weight > 0 {
				takes[steer.Key{VIP: s.VIP, Real: r.Address}] = true
			}
		}
	}
	return takes
}

// changes are those that a course leads to. An address does not come up before the health of what it is for is known, and
// none goes while a whole service is leaving.
func changes(course steer.Course, addresses []spec.Address, have plan.Have) []plan.Change {
	all := plan.Diff(spec.Want{Services: course.Services, Addresses: addresses}, have)
	return slices.DeleteFunc(all, func(c plan.Change) bool {
		return c.Kind == plan.AddAddress && course.Pending[c.Address.Addr()] || c.Kind == plan.RemoveAddress && course.ServiceLeaves
	})
}
