package pool

import (
	"cmp"
	"fmt"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Health is how a server feels, by its checks or by force.
type Health uint8

// The ways to feel. In a Change the zero value leaves it as it is.
const (
	_ Health = iota
	// Up: it takes requests.
	Up
	// Stopping: only requests whose cookie names it still reach it (HAProxy: NOLB).
	Stopping
	// Down: it takes none.
	Down
)

// String is HAProxy's word.
func (h Health) String() string {
	switch h {
	case Up:
		return "UP"
	case Stopping:
		return "NOLB"
	}
	return "DOWN"
}

// vitals are everything that decides whether a server takes requests: pure. The points are HAProxy's: rise+fall-1 is
// full health, from rise on it is up, and what is below is how many good checks in a row a server has that is down.
type vitals struct {
	checked    bool // it has a check
	checksOff  bool // and that is switched off
	rise, fall int
	initial    spec.Initial
	points     int
	stopping   bool // the last check asked for no new clients
	ejected    bool // it is out because of its errors
	admin      spec.Admin
}

// unchecked are the vitals of a server without a check.
var unchecked = vitals{rise: 1, fall: 1, points: 1}

func (v *vitals) full() int { return v.rise + v.fall - 1 }

// checking reports whether checks are made, and count.
func (v *vitals) checking() bool { return v.checked && !v.checksOff && v.admin != spec.AdminMaint }

// health is how it feels, whatever the operator wants of it.
func (v *vitals) health() Health {
	switch {
	case v.points < v.rise, v.ejected:
		return Down
	case v.stopping:
		return Stopping
	}
	return Up
}

// serves is how it feels under what the operator wants of it: a server in maintenance is down.
func (v *vitals) serves() Health {
	if v.admin == spec.AdminMaint {
		return Down
	}
	return v.health()
}

// balanced reports whether it gets requests that name no server, named whether it gets those whose cookie names it.
func (v *vitals) balanced() bool { return v.serves() == Up && v.admin == spec.AdminReady }
func (v *vitals) named() bool    { return v.serves() != Down }

// start makes it as it is at the beginning, or after maintenance: nobody has looked at it.
func (v *vitals) start() {
	v.points, v.stopping = v.full(), false
	if !v.checked || v.checksOff {
		return
	}
	switch v.initial {
	case spec.InitialUnset, spec.InitialUp:
		v.points = v.rise
	case spec.InitialDown:
		v.points = v.rise - 1
	case spec.InitialFullyDown:
		v.points = 0
	}
}

// observe takes the result of one check in. It reports whether it counted as a failure, as in HAProxy's column chkfail:
// those of a server that is down anyway do not.
func (v *vitals) observe(c check.Code) (failed bool) {
	switch {
	case c.Good() && (c != check.Layer7Condition || v.points >= v.rise): // a server that is down does not come back to stop
		if v.points < v.full() {
			if v.points++; v.points >= v.rise {
				v.points = v.full()
			}
		}
		v.stopping = v.points >= v.rise && c == check.Layer7Condition
		return false
	case v.points == 0:
		return false
	}
	if v.points--; v.points < v.rise {
		v.points, v.stopping = 0, false
	}
	return true
}

// force makes it feel so, until a check says otherwise.
func (v *vitals) force(h Health) {
	v.points, v.stopping = v.full(), h == Stopping
	if h == Down {
		v.points = 0
	}
}

// use changes the counts that decide, and keeps the health.
func (v *vitals) use(c *spec.Check) {
	rise, fall := max(c.Rise, 1), max(c.Fall, 1)
	had := v.checked
	up, missing := v.points >= v.rise, v.full()-v.points
	v.checked, v.rise, v.fall, v.initial = c.Kind != spec.CheckNone, rise, fall, c.Initial
	switch {
	case !v.checked:
		v.points, v.stopping = v.full(), false // nobody would ever bring it back
	case !had:
		v.start()
	case up:
		v.points = max(v.rise, v.full()-missing)
	default:
		v.points = min(v.points, v.rise-1)
	}
}

// interval is the pause to the next check (HAProxy: srv_getinter).
func (v *vitals) interval(c *spec.Check) time.Duration {
	switch v.points {
	case v.full():
		return c.Interval
	case 0:
		return cmp.Or(c.Down, c.Interval)
	}
	return cmp.Or(c.Fast, c.Interval)
}

// status is HAProxy's column status.
func (v *vitals) status() string {
	checking := v.checked && !v.checksOff
	if v.admin == spec.AdminMaint {
		return "MAINT"
	}
	word := v.health().String()
	if word == "DOWN" {
		if v.ejected && v.points >= v.rise {
			return "DOWN (ejected)"
		}
		if checking && v.points > 0 {
			return fmt.Sprintf("DOWN %d/%d", v.points, v.rise)
		}
		return word
	}
	if v.health() == Up && v.admin == spec.AdminDrain {
		word = "DRAIN"
	}
	if checking && v.points < v.full() {
		return fmt.Sprintf("%s %d/%d", word, v.points-v.rise+1, v.fall)
	}
	if word == "UP" && !checking {
		return "no check"
	}
	return word
}
