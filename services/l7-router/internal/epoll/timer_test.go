package epoll

import (
	"math/rand/v2"
	"testing"
	"time"
)

type counter struct {
	timer
	fired int
}

func (c *counter) expired() { c.fired++ }

func fire(e expirer) { e.expired() }

// TestWheel puts timers off, forward and away at random, and compares with what a plain list of deadlines says.
func TestWheel(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var w wheel
	now := int64(time.Hour)
	w.init(now)
	timers := make([]counter, 50)
	due := make([]int64, len(timers)) // 0: not set
	for i := range timers {
		timers[i].owner = &timers[i]
	}
	for range 20000 {
		i := random.IntN(len(timers))
		switch random.IntN(10) {
		case 0:
			w.set(&timers[i].timer, 0)
			due[i] = 0
		case 1:
			w.remove(&timers[i].timer)
			due[i] = 0
		default:
			due[i] = now + random.Int64N(int64(40*time.Second)) // more than the wheel holds
			w.set(&timers[i].timer, due[i])
		}
		if random.IntN(3) > 0 {
			continue
		}
		wait := w.wait(now)
		for i, at := range due {
			if at != 0 && (wait < 0 || now+int64(wait) > at+tick) {
				t.Fatalf("timer %d is due in %v, but the wheel waits %v", i, time.Duration(at-now), wait)
			}
		}
		now += random.Int64N(int64(2 * time.Second))
		w.advance(now, fire)
		for i := range timers {
			fired := timers[i].fired
			timers[i].fired = 0
			switch {
			case due[i] != 0 && due[i]+tick <= now && fired != 1:
				t.Fatalf("timer %d was due %v ago and fired %d times", i, time.Duration(now-due[i]), fired)
			case (due[i] == 0 || due[i] > now) && fired != 0:
				t.Fatalf("timer %d fired too early", i)
			}
			if fired > 0 {
				due[i] = 0
			}
		}
	}
	for i := range timers {
		w.remove(&timers[i].timer)
	}
	if wait := w.wait(now); wait >= 0 {
		t.Errorf("an empty wheel waits %v", wait)
	}
}
