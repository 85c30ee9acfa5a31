package loop

import (
	"context"
	"fmt"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// LevelEvery is the least time between two steps of the slots of lc and wlc. There is one in each pass, or less often, so that
// counting takes a twentieth of the time at most.
const LevelEvery = Resync / 2

// lentNotes are those of what is lent of each service, the oldest first.
func lentNotes(notes []decodedNote) map[spec.VIP][]decodedNote {
	all := map[spec.VIP][]decodedNote{}
	for _, n := range notes {
		if n.lent != nil {
			all[n.lent.VIP] = append(all[n.lent.VIP], n)
		}
	}
	return all
}

// newest are the loans that were told last; none where nothing has been told.
func newest(notes []decodedNote) []spec.Loan {
	if len(notes) == 0 {
		return nil
	}
	return notes[len(notes)-1].lent.Loans
}

// lending says what this pass may do about the slots of lc and wlc; nil: the plane looks at the connections itself. While another
// director cannot be told, or has been told of so many connections that more would not fit, no slot moves.
func (l *Loop) lending(have plan.Have) *steer.Lending {
	if !l.ceilings.Load() {
		return nil
	}
	turn := func(vip spec.VIP) bool { return l.fresh && !l.stepped[vip] }
	if l.kept.keeper == nil { // there is no other
		return &steer.Lending{Follow: follows(nil), Level: turn}
	}
	notes, read := l.cfg.Board.Notes()
	all := l.read(notes)
	told, _ := connections(all)
	lent := lentNotes(all)
	there := map[spec.VIP][]spec.Loan{}
	for _, s := range have.Services {
		there[s.VIP] = s.Lent
	}
	follow := map[spec.VIP][]spec.Loan{}
	for _, s := range l.want.Services {
		if _, made := there[s.VIP]; read && (!made || !hasAddress(have.Host, s.VIP.Addr())) {
			follow[s.VIP] = newest(lent[s.VIP])
		}
	}
	free := read && l.kept.failed == nil && l.kept.lentFailed == nil && l.kept.leftOut == 0 && len(told) <= kept.Most/2
	return &steer.Lending{Follow: follows(follow), Level: func(vip spec.VIP) bool {
		return free && turn(vip) && slices.Equal(there[vip], newest(lent[vip]))
	}}
}

// still is lending for a look at what would be: nothing moves, and nobody is followed.
func (l *Loop) still() *steer.Lending {
	if !l.ceilings.Load() {
		return nil
	}
	return &steer.Lending{Follow: follows(nil), Level: func(spec.VIP) bool { return false }}
}

func follows(loans map[spec.VIP][]spec.Loan) func(spec.VIP) ([]spec.Loan, bool) {
	return func(vip spec.VIP) ([]spec.Loan, bool) { told, follow := loans[vip]; return told, follow }
}

// took notes which services have had a step, so that others have one before them when there are many.
func (l *Loop) took(course steer.Course) {
	clear(l.stepped)
	if len(course.Stepped) == steer.StepsAtOnce {
		for _, vip := range course.Stepped {
			l.stepped[vip] = true
		}
	}
}

// tellLent tells the other directors what is lent of the services whose VIP this node holds, and takes own notes away that nobody
// needs. It comes after those connections have been told that the loans leave elsewhere than their slot says; without etcd it is tried
// again, and nothing else depends on it.
func (l *Loop) tellLent(ctx context.Context, have plan.Have) error {
	if l.kept.keeper == nil {
		return nil
	}
	notes, read := l.cfg.Board.Notes()
	if !read {
		return nil
	}
	lent := lentNotes(l.read(notes))
	there := map[spec.VIP]bool{}
	for _, s := range have.Services {
		there[s.VIP] = true
		if hasAddress(have.Host, s.VIP.Addr()) && !slices.Equal(newest(lent[s.VIP]), s.Lent) {
			if err := l.tellLoans(ctx, kept.Lent{VIP: s.VIP, Loans: s.Lent}, lent[s.VIP]); err != nil {
				return err
			}
			delete(lent, s.VIP)
		}
	}
	for vip, all := range lent {
		for i, n := range all {
			if n.own && (i < len(all)-1 || !there[vip]) {
				if err := l.cfg.Board.Unpin(ctx, n.key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tellLoans puts up a note in place of the own ones there are. No note at all says that nothing is lent.
func (l *Loop) tellLoans(ctx context.Context, now kept.Lent, there []decodedNote) error {
	if len(now.Loans) > 0 || slices.ContainsFunc(there, func(n decodedNote) bool { return !n.own }) {
		note, err := kept.EncodeLent(now)
		if err != nil {
			return err
		}
		if err := l.cfg.Board.Pin(ctx, note); err != nil {
			return fmt.Errorf("tell other directors which slots of %s are lent: %w", now.VIP, err)
		}
	}
	for _, n := range there {
		if n.own {
			if err := l.cfg.Board.Unpin(ctx, n.key); err != nil {
				return err
			}
		}
	}
	return nil
}
