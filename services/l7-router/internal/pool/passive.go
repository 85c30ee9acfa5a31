package pool

import (
	"math"
	"slices"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

const (
	// maxJudged is how many servers may wait to be judged. Who does not fit is judged at its next error.
	maxJudged = 256
	// tryEvery is how often a server that is out may be tried once its time is over.
	tryEvery = time.Second
)

// succeeded notes that a request to the server has gone well.
func (s *Server) succeeded() {
	if s.errors.Load() != 0 {
		s.errors.Store(0)
	}
	if s.halfOpen.Load() {
		select {
		case s.pool.good <- s.live:
		default: // the next one will do
		}
	}
}

// Responded notes with which status a request has been answered.
func (s *Server) Responded(status int) {
	if b := s.passive.Load(); b != nil && b.Layer7 && status >= 500 && status != 501 && status != 505 {
		s.erred(b)
		return
	}
	s.succeeded()
}

// Failed notes a request to which the server has given no good answer.
func (s *Server) Failed() {
	if b := s.passive.Load(); b != nil && b.Layer7 {
		s.erred(b)
	}
}

// erred counts an error, and has the server judged when they are too many, or when it was out already.
func (l *live) erred(b *spec.Passive) {
	if l.errors.Add(1) < int64(b.Limit) && !l.halfOpen.Load() {
		return
	}
	l.errors.Store(0)
	select {
	case l.pool.bad <- l:
	default: // at its next errors
	}
}

// tries reports whether the server is out, and this request may try it: one in a while.
func (s *Server) tries() bool {
	if !s.halfOpen.Load() {
		return false
	}
	at, last := now(), s.trial.Load()
	return at-last >= int64(tryEvery) && s.trial.CompareAndSwap(last, at)
}

// trial returns a server that is out because of its errors, and whose time has come to be tried, or nil. It is for requests
// that can be sent to another server when it fails.
func (b *Backend) trial() *Server {
	for _, s := range b.servers {
		if !s.Full() && !(s.Spec.Backup && b.needsNoBackup()) && s.tries() {
			return s
		}
	}
	return nil
}

// needsNoBackup reports whether a server that is no backup takes requests.
func (b *Backend) needsNoBackup() bool {
	return slices.ContainsFunc(b.servers, func(s *Server) bool { return !s.Spec.Backup && s.balanced.Load() && s.weight.Load() > 0 })
}

// judge does what is to be done about a server that has made too many errors.
func (p *Pool) judge(l *live) {
	p.mu.Lock()
	if l.retired.Load() || l.vitals.admin == spec.AdminMaint {
		p.mu.Unlock()
		return
	}
	b := &l.backend.Spec.Passive
	var e event
	switch {
	case b.Limit == 0:
	case b.OnError == spec.OnErrorEject:
		e = p.eject(l, b)
	case l.vitals.checking():
		e = p.update(l, "too many errors of requests", func() {
			switch b.OnError {
			case spec.OnErrorFailCheck:
				l.vitals.observe(check.Layer7Status)
			case spec.OnErrorSuddenDeath:
				if l.vitals.points > l.vitals.rise {
					l.vitals.points = l.vitals.rise
				}
			case spec.OnErrorMarkDown:
				l.vitals.force(Down)
			}
		})
		l.look()
	}
	p.mu.Unlock()
	p.tell([]event{e})
}

// eject takes a server out for a while, unless too many are out already or nobody else is left. The caller holds p.mu.
func (p *Pool) eject(l *live, b *spec.Passive) event {
	out, others := 0, 0
	for _, s := range l.backend.servers {
		switch {
		case s.live == l:
		case s.vitals.ejected:
			out++
		case s.balanced.Load():
			others++
		}
	}
	again := l.vitals.ejected
	if !again && (!l.vitals.balanced() || others == 0 || out > 0 && (out+1)*100 > b.MaxEjected*len(l.backend.servers)) {
		return event{}
	}
	if again && !l.halfOpen.Load() {
		return event{} // an error from before
	}
	if !again && time.Since(l.forgiven) > l.lastOut {
		l.ejections = 0 // it has behaved for as long as it was out
	}
	wait := b.Ejection
	for i := 0; i < l.ejections && wait < b.MaxEjection; i++ {
		wait *= 2 // both are days at most
	}
	wait = min(wait, b.MaxEjection)
	l.ejections++
	l.lastOut = wait
	l.endEjection()
	l.out = time.AfterFunc(wait, func() { p.halfOpen(l) })
	return p.update(l, "too many errors of requests; out for "+wait.String(), func() { l.vitals.ejected = true })
}

// halfOpen lets a server be tried whose time out is over.
func (p *Pool) halfOpen(l *live) {
	p.mu.Lock()
	var e event
	if l.vitals.ejected && !l.retired.Load() {
		e = p.update(l, "its time out is over", func() {
			l.trial.Store(math.MinInt64 / 2)
			l.halfOpen.Store(true)
			l.backend.countTrials()
		})
		l.look()
	}
	p.mu.Unlock()
	p.tell([]event{e})
}

// untried reports whether a server may be tried that takes no requests without a cookie even when it is well: by the
// operator's will, which a try would go against. The caller holds Pool.mu.
func (l *live) untried() bool {
	return l.vitals.ejected && l.halfOpen.Load() && (l.vitals.admin != spec.AdminReady || l.override.weightOf(&l.server.Spec) == 0)
}

// countTrials counts the servers that may be tried. The caller holds Pool.mu.
func (b *Backend) countTrials() {
	n := 0
	for _, s := range b.servers {
		if s.halfOpen.Load() {
			n++
		}
	}
	b.group.trials.Store(int64(n))
}

// comeBack ends the ejection of a server that may be tried.
func (p *Pool) comeBack(l *live, why string) {
	p.mu.Lock()
	var e event
	if l.halfOpen.Load() && l.vitals.ejected && !l.retired.Load() {
		e = p.update(l, why, l.forgive)
	}
	p.mu.Unlock()
	p.tell([]event{e})
}

// forgive ends the ejection of a server. The caller holds Pool.mu, within update.
func (l *live) forgive() {
	l.vitals.ejected = false
	l.forgiven = time.Now()
	l.errors.Store(0)
	l.endEjection()
}

// endEjection ends what waits for the end of an ejection. The caller holds Pool.mu.
func (l *live) endEjection() {
	if l.out != nil {
		l.out.Stop()
		l.out = nil
	}
	if l.halfOpen.Swap(false) && l.backend != nil {
		l.backend.countTrials()
	}
}

// judgedBy sets how a server is judged. The caller holds Pool.mu, within update.
func (l *live) judgedBy(b *spec.Passive) {
	if b.Limit == 0 {
		l.passive.Store(nil)
	} else {
		l.passive.Store(b)
	}
	if l.vitals.ejected && (b.Limit == 0 || b.OnError != spec.OnErrorEject) {
		l.forgive()
	}
}
