package track

import "time"

// holdMost is how often the time of a hold doubles: 16 times as long at the most.
const holdMost = 16

// hold keeps a check that has failed in that state for a while, longer each time that it fails again soon.
type hold struct {
	least  time.Duration // 0: it holds nothing
	report func(well bool, why string)

	well    bool // what was reported
	told    bool // whether anything was
	pending bool // well, but not reported yet
	factor  time.Duration
	until   time.Time // from when on it may be well
	over    time.Time // when it was well again last
}

func newHold(least time.Duration, report func(bool, string)) *hold {
	return &hold{least: least, report: report, factor: 1}
}

// take takes in a new state.
func (h *hold) take(now time.Time, well bool, why string) {
	h.pending = false
	if !well {
		// Only what has been well before comes and goes.
		if h.told && h.well {
			if !h.over.IsZero() && now.Sub(h.over) < 2*h.least*h.factor {
				h.factor = min(2*h.factor, holdMost)
			} else {
				h.factor = 1
			}
			h.until = now.Add(h.least * h.factor)
		}
		h.tell(false, why)
		return
	}
	if h.told && !h.well && now.Before(h.until) {
		h.pending = true
		return
	}
	h.over = now
	h.tell(true, "")
}

// pass lets the time go on.
func (h *hold) pass(now time.Time) {
	if h.pending && !now.Before(h.until) {
		h.pending = false
		h.over = now
		h.tell(true, "")
	}
}

func (h *hold) tell(well bool, why string) {
	h.well, h.told = well, true
	h.report(well, why)
}
