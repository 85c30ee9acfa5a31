package exchange

import "time"

// Pace tells a peer that is slow from one that only keeps a connection busy. The peer has a store of time, which passes
// while it is waited for and grows with each byte that it moves; there is never more in it than at the beginning. So a pause
// is forgiven, a trickle is not. The zero value is always content. Times are nanoseconds of the caller's clock.
type Pace struct {
	rate    int64 // bytes that are worth a second, 0: any pace will do
	grace   int64 // the most in store
	end     int64 // when it is over in any case, 0: never
	left    int64 // in store, while nobody waits
	due     int64 // when the store is empty, while somebody waits
	running bool
}

// Begin fills the store. rate is in bytes per second, at most 1<<30, 0: any pace will do; grace is what is in store; most is how long it
// may take in all, 0: as long as it likes.
func (p *Pace) Begin(now int64, rate int, grace, most time.Duration) {
	*p = Pace{rate: int64(rate), grace: int64(grace), left: int64(grace)}
	if most > 0 {
		p.end = now + int64(most)
	}
}

// Wait tells that the peer is waited for from now on.
func (p *Pace) Wait(now int64) {
	if !p.running {
		p.due, p.running = now+p.left, true
	}
}

// Rest tells that it is not the peer that is waited for.
func (p *Pace) Rest(now int64) {
	if p.running {
		p.left, p.running = p.due-now, false
	}
}

// Earn tells that n bytes have been moved.
func (p *Pace) Earn(now, n int64) {
	if p.rate == 0 || n <= 0 {
		return
	}
	const second = int64(time.Second)
	// More than the whole store is worth no more; and no product overflows.
	gain := min(n/p.rate, p.grace/second+1)*second + n%p.rate*second/p.rate
	if p.running {
		p.due = min(p.due+gain, now+p.grace)
	} else {
		p.left = min(p.left+gain, p.grace)
	}
}

// Due returns when the peer's time is up if nothing moves until then, 0: never.
func (p *Pace) Due() int64 {
	if !p.running {
		return 0
	}
	switch {
	case p.rate == 0:
		return p.end
	case p.end == 0:
		return p.due
	}
	return min(p.due, p.end)
}

// Over reports whether the peer's time is up.
func (p *Pace) Over(now int64) bool {
	due := p.Due()
	return due != 0 && now >= due
}
