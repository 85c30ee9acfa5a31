package nftables

import (
	"testing"
	"time"
)

// However dear a reading is, and however often somebody looks, the counters take their share at most; cheap ones are read at
// each look.
func TestLooksKeepToTheirShare(t *testing.T) {
	t.Parallel()
	const every, long = time.Second, 1000 * time.Second
	for cost, least := range map[time.Duration]int{
		0: 999, 5 * time.Millisecond: 990, spareAbove: 900, 101 * time.Millisecond: 480, 900 * time.Millisecond: 90, 5 * time.Second: 18,
	} {
		var l looks
		begin := time.Unix(1_000_000, 0)
		now, readings := begin, 0
		for now.Sub(begin) < long {
			if l.due(now) {
				readings++
				now = now.Add(cost)
				l.spent(now, cost)
			}
			now = now.Add(every)
		}
		share := float64(readings) * cost.Seconds() / now.Sub(begin).Seconds()
		if readings < least || share > 1./countShare {
			t.Errorf("at %v each: %d readings, at least %d are wanted; they took %.3f of the time", cost, readings, least, share)
		}
	}
}
