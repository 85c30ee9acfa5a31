package pool

import (
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/balance"
)

// ramp returns the weight of a server, in parts of 1/balance.Scale, and its limit of requests under way, 0: none. Both grow
// for as long as its slow start lasts, the weight in balance.Scale steps from the first (HAProxy: slowstart).
func (s *Server) ramp(at int64) (weight int, limit int64) {
	full := int(s.weight.Load())
	weight, limit = full*balance.Scale, int64(s.Spec.MaxConn)
	slow := int64(s.Spec.SlowStart)
	back := s.back.Load()
	if back == 0 || slow == 0 || at-back >= slow {
		return weight, limit
	}
	since := max(at-back, 0)
	weight = full * min(int((balance.Scale*since+slow)/slow), balance.Scale)
	if limit > 0 {
		limit = max(1, limit*(since/int64(time.Microsecond))/(slow/int64(time.Microsecond))) // 2^20 times a day does not overflow
	}
	return weight, limit
}

// throttle returns how far a server's slow start has come, in percent, 1 to 100; 100: it has its full share.
func (s *Server) throttle(at int64) int {
	slow, back := int64(s.Spec.SlowStart), s.back.Load()
	if back == 0 || slow == 0 || at-back >= slow {
		return 100
	}
	return int((balance.Scale*max(at-back, 0)+slow)/slow) * 100 / balance.Scale
}

// cameBack begins the slow start of a server that takes requests again. The caller holds p.mu.
func (p *Pool) cameBack(l *live) {
	l.back.Store(now())
	if p.stopped || l.retired.Load() || l.rising || l.slowStart() == 0 {
		return
	}
	l.rising = true
	p.checks.Go(func() { p.rise(l) })
}

// slowStart is what is wanted of the server now. The caller holds Pool.mu.
func (l *live) slowStart() time.Duration { return l.server.Spec.SlowStart }

// rise is the goroutine of a slow start; it ends with it, or with the server.
func (p *Pool) rise(l *live) {
	for {
		p.mu.Lock()
		slow := l.slowStart()
		over := l.retired.Load() || slow == 0 || now()-l.back.Load() >= int64(slow)
		if over {
			l.rising = false
		}
		if l.backend != nil {
			l.backend.refresh()
		}
		p.mu.Unlock()
		if over {
			return
		}
		timer := time.NewTimer(slow/balance.Scale + 1)
		select {
		case <-timer.C:
		case <-l.gone:
			timer.Stop()
		}
	}
}
