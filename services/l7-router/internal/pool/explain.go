package pool

import (
	"reflect"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Takes reports whether a server takes requests that name no server, and requests whose cookie names it.
func (l *live) Takes() (balanced, named bool) { return l.balanced.Load(), l.named.Load() }

// Shadow makes a pool of backends as they are wanted, in which servers are checked by nobody and feel as those do that serve
// them now: of the same backend, address and, where there are several, name. One that is not there now is up. It is for
// asking what would be; nothing that is done to it matters to p.
func (p *Pool) Shadow(backends []spec.Backend) *Pool {
	shadow := New(zap.NewNop())
	shadow.stopped = true
	for _, want := range backends {
		b := shadow.Set(want)
		p.mu.Lock()
		old := p.backends[want.Name]
		var left []*live
		if old != nil {
			for _, s := range old.servers {
				left = append(left, s.live)
			}
		}
		type feeling struct {
			vitals   vitals
			override override
		}
		feelings := make([]*feeling, len(b.servers))
		for i, l := range match(want.Servers, left) {
			if l != nil {
				feelings[i] = &feeling{l.vitals, l.override}
			}
		}
		p.mu.Unlock()
		shadow.mu.Lock()
		for i, s := range b.servers {
			if f := feelings[i]; f != nil {
				shadow.update(s.live, "shadow", func() {
					s.vitals, s.override = f.vitals, f.override
					s.override.under(&s.Spec)
					s.vitals.admin = s.override.adminOf(&s.Spec)
					if check := want.CheckOf(&s.Spec); old == nil || !reflect.DeepEqual(check, old.Spec.CheckOf(&s.Spec)) {
						s.vitals.use(&s.check)
					}
				})
			}
		}
		b.refresh()
		shadow.mu.Unlock()
	}
	return shadow
}
