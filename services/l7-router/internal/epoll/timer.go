package epoll

import (
	"math/bits"
	"time"
)

const (
	// tick is how finely time is told apart: a timeout fires up to one tick late.
	tick = int64(16 * time.Millisecond)
	// slots of a wheel; what is due after the last of them waits there and is looked at again.
	slots = 1024
)

// timer calls its owner when its time has come. It belongs to one loop.
type timer struct {
	owner expirer
	at    int64 // when it is due, 0: never

	// Its place in the wheel, which may be earlier than at: most timers are put off again and again (each byte that moves
	// does it), and that costs nothing but a store.
	prev, next *timer
	slot       int64 // in ticks since the start; 0: not in the wheel
}

type expirer interface{ expired() }

// wheel holds the timers of a loop by the tick in which they have to be looked at.
type wheel struct {
	lists [slots]timer // heads of rings
	used  [slots / 64]uint64
	now   int64 // the last tick that is through
}

func (w *wheel) init(now int64) {
	for i := range w.lists {
		w.lists[i].prev, w.lists[i].next = &w.lists[i], &w.lists[i]
	}
	w.now = now / tick
}

// set makes t due at a time, 0: never.
func (w *wheel) set(t *timer, at int64) {
	t.at = at
	if at == 0 {
		return
	}
	slot := min(max(at/tick+1, w.now+1), w.now+slots-1)
	if t.slot != 0 {
		if t.slot <= slot {
			return
		}
		w.remove(t)
	}
	t.slot = slot
	i := slot % slots
	head := &w.lists[i]
	t.prev, t.next = head.prev, head
	t.prev.next, head.prev = t, t
	w.used[i/64] |= 1 << (i % 64)
}

// remove takes t out of the wheel.
func (w *wheel) remove(t *timer) {
	if t.slot == 0 {
		return
	}
	i := t.slot % slots
	t.prev.next, t.next.prev = t.next, t.prev
	t.prev, t.next, t.slot = nil, nil, 0
	if w.lists[i].next == &w.lists[i] {
		w.used[i/64] &^= 1 << (i % 64)
	}
}

// advance calls fire for everyone whose time has come.
func (w *wheel) advance(now int64, fire func(expirer)) {
	for end := now / tick; w.now < end; {
		w.now++
		i := w.now % slots
		if w.used[i/64]&(1<<(i%64)) == 0 {
			continue
		}
		head := &w.lists[i]
		for head.next != head {
			t := head.next
			w.remove(t)
			switch {
			case t.at == 0:
			case t.at <= now:
				t.at = 0
				fire(t.owner)
			default:
				w.set(t, t.at)
			}
		}
	}
}

// wait returns how long nobody has to be looked at, -1: nobody is in the wheel.
func (w *wheel) wait(now int64) time.Duration {
	first := w.now + 1
	for n := int64(0); n < slots; {
		i := (first + n) % slots
		if word := w.used[i/64] >> (i % 64); word != 0 {
			n += int64(bits.TrailingZeros64(word))
			return time.Duration(max((first+n)*tick-now, 0))
		}
		n += 64 - i%64
	}
	return -1
}
