package pool

import (
	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// tooFew reports whether so few servers are usable that requests go to all. The caller holds Pool.mu.
func (b *Backend) tooFew() bool {
	all, usable := b.standingCounts()
	return usable*100 < b.Spec.Panic*all
}

// standingCounts counts the servers that are to take requests, backups apart, and those of them that do. The caller holds Pool.mu.
func (b *Backend) standingCounts() (all, usable int) {
	for _, s := range b.servers {
		if !s.Spec.Backup && s.vitals.admin == spec.AdminReady {
			all++
			if s.balanced.Load() {
				usable++
			}
		}
	}
	return all, usable
}

// Panics reports whether too few servers are usable, so that requests go to all of them.
func (b *Backend) Panics() bool { return b.group.panics.Load() }

// tellPanics logs which backends have begun or ceased to panic.
func (p *Pool) tellPanics() {
	type news struct {
		name        string
		panics      bool
		all, usable int
	}
	var all []news
	p.mu.Lock()
	for name, b := range p.backends {
		if now := b.group.panics.Load(); now != b.group.told {
			b.group.told = now
			n := news{name: name, panics: now}
			n.all, n.usable = b.standingCounts()
			all = append(all, n)
		}
	}
	p.mu.Unlock()
	for _, n := range all {
		p.log.Warn("backend changed", logging.Backend(n.name), zap.Bool("panic", n.panics), zap.Int("usable", n.usable), logging.Count(n.all))
	}
}
