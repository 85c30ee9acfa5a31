package pool

import (
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// rateInterval is the second over which rates are taken.
const rateInterval = time.Second

// Frontend returns what is counted of a frontend, which begins with the first call.
func (p *Pool) Frontend(name string) *stats.Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.frontends[name]
	if set == nil {
		set = stats.NewSet()
		p.frontends[name] = set
	}
	return set
}

// ForgetFrontend ends the counting of a frontend that is wanted no more.
func (p *Pool) ForgetFrontend(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.frontends, name)
}

// Backend returns a backend as it was last set, nil when there is none.
func (p *Pool) Backend(name string) *Backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.backends[name]
}

// standing is how a backend as a whole has fared, seen once a second. Guarded by Pool.mu.
type standing struct {
	up      bool
	changed time.Time
	down    time.Duration // before changed
	times   uint64
}

func (s *standing) look(up bool, now time.Time) {
	if up == s.up {
		return
	}
	if up {
		s.down += now.Sub(s.changed)
	} else {
		s.times++
	}
	s.up, s.changed = up, now
}

// usable reports whether a server takes new requests.
func (b *Backend) usable() bool {
	for _, s := range b.servers {
		if s.balanced.Load() && (s.weight.Load() > 0 || s.Spec.Backup) {
			return true
		}
	}
	return false
}

// Standing tells how often a backend has been without a server for new requests, when that last changed, and how long it has
// been so, all told up to now.
func (p *Pool) Standing(b *Backend, now time.Time) (times uint64, changed time.Time, downtime time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := *b.standing
	if !s.up {
		s.down += now.Sub(s.changed)
	}
	return s.times, s.changed, s.down
}

// tick takes the rates of everything.
func (p *Pool) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, set := range p.frontends {
		set.Tick(now)
	}
	for _, b := range p.backends {
		b.Seen.Tick(now)
		b.standing.look(b.usable(), now)
		for _, s := range b.servers {
			s.Seen.Tick(now)
		}
	}
}

// KnowsCookie reports whether a server, usable or not, has this cookie value.
func (b *Backend) KnowsCookie(value []byte) bool {
	for _, s := range b.servers {
		if s.Spec.Cookie != "" && s.Spec.Cookie == string(value) {
			return true
		}
	}
	return false
}
