package pool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// maxStagger bounds the random pause before the first check of a server, so that many do not run in step.
const maxStagger = time.Second

// startCheck begins the checks of a server that has some and does not make them yet; Run waits for them. The caller holds
// p.mu.
func (p *Pool) startCheck(l *live) {
	if p.stopped || l.check.Kind == spec.CheckNone || l.cancel != nil {
		return
	}
	if l.last.Code == check.None {
		l.last.Code = check.Initializing
	}
	// Ended by stopCheck, not by a caller's context: the checks outlive the pass that started them.
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	c := l.check
	p.checks.Go(func() { p.checking(ctx, l, &c) })
}

// stopCheck ends the checks of a server; what is under way does not count any more. The caller holds Pool.mu.
func (l *live) stopCheck() {
	if l.cancel != nil {
		l.cancel()
		l.cancel = nil
	}
}

// look has the check of a server look again at once.
func (l *live) look() {
	select {
	case l.kick <- struct{}{}:
	default: // it is to look already
	}
}

// checking checks a server until ctx ends. Each server has a goroutine of its own, so none waits for another.
func (p *Pool) checking(ctx context.Context, l *live, c *spec.Check) {
	timer := time.NewTimer(rand.N(min(c.Interval/2, maxStagger) + 1))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-l.kick:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		enabled, dial := l.vitals.checking(), dialer(&l.server.Spec, c)
		p.mu.Unlock()
		if !enabled {
			timer.Stop() // until it is kicked
			continue
		}
		pause, ok := p.observe(ctx, l, check.Through(ctx, dial, l.address, c))
		if !ok {
			return
		}
		timer.Reset(pause)
	}
}

// observe takes the result of one check, and tells the pause to the next; false when the check has ended meanwhile.
func (p *Pool) observe(ctx context.Context, l *live, r check.Result) (pause time.Duration, ok bool) {
	p.mu.Lock()
	if ctx.Err() != nil {
		p.mu.Unlock()
		return 0, false // it was cut short, so its result says nothing
	}
	var e event
	if l.vitals.checking() {
		l.last = r
		e = p.update(l, checkText(&l.check, r), func() {
			if r.Unmade {
				return // all servers would be down for what this process lacks
			}
			if l.vitals.observe(r.Code) {
				l.failed++
			}
			if r.Code.Good() && l.halfOpen.Load() {
				l.forgive()
			}
		})
	}
	pause = l.vitals.interval(&l.check)
	p.mu.Unlock()
	p.tell([]event{e})
	return pause, true
}

// checkText says for a person how a check went.
func checkText(c *spec.Check, r check.Result) string {
	if r.Code == check.None || r.Code == check.Initializing {
		return ""
	}
	what := "connect"
	if c.Kind == spec.CheckHTTP {
		what = c.HTTP.Method + " " + c.HTTP.Path
	}
	took := r.Duration.Round(10 * time.Microsecond)
	if r.Code.Good() {
		return fmt.Sprintf("%s: good in %v", what, took)
	}
	return fmt.Sprintf("%s: %s after %v", what, r.Reason, took)
}
