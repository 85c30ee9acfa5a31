package nftables

import "time"

const (
	// spareAbove is what reading all counters may cost of a processor at each look, which the loop has once a second. Dearer
	// readings are made less often.
	spareAbove = 100 * time.Millisecond
	// countShare bounds the processor time that those take: one part in so many. 20,000 real servers take 0.2 s, so that
	// their counters are up to 2 s old.
	countShare = 10
)

// looks spares readings of the counters: nothing but figures for people depends on them. That the rules are as they were is
// asked at each look, which costs nothing.
type looks struct {
	next time.Time // no reading before this
}

// due tells whether the counters may be read at a moment.
func (l looks) due(now time.Time) bool { return !now.Before(l.next) }

// spent notes what a reading that ended at a moment has cost.
func (l *looks) spent(now time.Time, cost time.Duration) {
	l.next = now
	if cost > spareAbove {
		l.next = now.Add((countShare - 1) * cost)
	}
}
