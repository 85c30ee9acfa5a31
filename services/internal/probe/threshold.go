package probe

// Threshold tells up from down: rise good results in a row bring a thing up, fall bad ones bring it down. Not for use by
// several goroutines.
type Threshold struct {
	rise, fall   int
	up           bool
	firstDecides bool
	streak       int // results in a row that speak against the present state
}

// NewThreshold starts in the state up. rise and fall below 1 count as 1. With firstDecides the very first result decides
// alone.
func NewThreshold(rise, fall int, up, firstDecides bool) *Threshold {
	return &Threshold{rise: max(rise, 1), fall: max(fall, 1), up: up, firstDecides: firstDecides}
}

// Up tells the present state.
func (t *Threshold) Up() bool { return t.up }

// Observe takes one result in and tells the state after it, and whether it changed.
func (t *Threshold) Observe(good bool) (up, changed bool) {
	first := t.firstDecides
	t.firstDecides = false
	if good == t.up {
		t.streak = 0
		return t.up, false
	}
	t.streak++
	need := t.fall
	if good {
		need = t.rise
	}
	if !first && t.streak < need {
		return t.up, false
	}
	t.up, t.streak = good, 0
	return t.up, true
}
