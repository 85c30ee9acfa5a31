package pool

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Why a server cannot be set.
var (
	// ErrUnknown: there is no such server.
	ErrUnknown = errors.New("no such server is in force")
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrNoCheck: it has no check to switch on or off.
	ErrNoCheck = errors.New("the server has no check")
)

// Change is what is asked of a server at run time. The zero value asks for nothing; everything that is set is done.
type Change struct {
	// Admin is what is wanted of it; nil: as it is. Ready ends both draining and maintenance.
	Admin *spec.Admin
	// Weight in place of the desired one, 0 to 256; nil: as it is.
	Weight *int
	// ResetWeight makes the weight the desired one again.
	ResetWeight bool
	// Health is how it feels from now on, until its next checks say otherwise.
	Health Health
	// Checks switches its checks on or off; nil: as it is. While they are off its health stays.
	Checks *bool
	// ShutdownSessions cuts what is under way with it, as a reset by the server would.
	ShutdownSessions bool
}

// String names what is asked for. Example: admin drain, weight 5
func (c Change) String() string {
	text := ""
	add := func(format string, args ...any) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf(format, args...)
	}
	if c.Admin != nil {
		add("admin %v", *c.Admin)
	}
	if c.Weight != nil {
		add("weight %d", *c.Weight)
	}
	if c.ResetWeight {
		add("desired weight")
	}
	if c.Health != 0 {
		add("health %v", c.Health)
	}
	if c.Checks != nil {
		add("checks %s", map[bool]string{true: "on", false: "off"}[*c.Checks])
	}
	if c.ShutdownSessions {
		add("shutdown sessions")
	}
	return text
}

// SetServer does at once what is asked of a server, all of it or nothing, and tells how the server stands then. by is who
// asks, for the log. The errors are ErrUnknown, ErrInvalid and ErrNoCheck, with what is wrong.
//
// It outlasts new desired states, and the process when the pool has a file. Desired state has the last word: when it
// changes the weight or the admin state of the server, what was asked for here is over.
func (p *Pool) SetServer(backend, server string, c Change, by string) (State, error) {
	p.mu.Lock()
	l := p.find(backend, server)
	if err := c.refuse(l); err != nil {
		p.mu.Unlock()
		return State{}, fmt.Errorf("server %s/%s: %w", backend, server, err)
	}
	s := &l.server.Spec
	e := p.update(l, c.String()+", asked for by "+by, func() {
		if c.Weight != nil {
			l.override.setWeight(*c.Weight, s)
		}
		if c.ResetWeight {
			l.override.setWeight(s.Weight, s)
		}
		if c.Checks != nil { // before what asks whether it is checked
			l.vitals.checksOff = !*c.Checks
			l.look()
		}
		if c.Admin != nil && *c.Admin != l.vitals.admin {
			if l.vitals.admin == spec.AdminMaint {
				l.vitals.start() // nobody has looked at it meanwhile
			}
			l.override.setAdmin(*c.Admin, s)
			l.vitals.admin = *c.Admin
			l.look()
		}
		if c.Health != 0 {
			l.vitals.force(c.Health)
			if l.vitals.ejected {
				l.forgive()
			}
		}
	})
	p.save()
	id, end, state := l.id, p.end, l.state()
	p.mu.Unlock()
	p.log.Info("server set", logging.Subject(by), logging.Backend(backend), logging.Server(server), zap.String("asked", c.String()),
		logging.To(state.Status))
	p.tell([]event{e})
	if c.ShutdownSessions {
		end(id)
	}
	return state, nil
}

// refuse tells why c cannot be asked of l.
func (c *Change) refuse(l *live) error {
	switch {
	case l == nil:
		return ErrUnknown
	case c.Weight != nil && (*c.Weight < 0 || *c.Weight > spec.MaxWeight):
		return fmt.Errorf("%w: weight: want 0 to %d, got %d", ErrInvalid, spec.MaxWeight, *c.Weight)
	case c.Weight != nil && c.ResetWeight:
		return fmt.Errorf("%w: weight: want either a weight or the desired one", ErrInvalid)
	case c.Admin != nil && *c.Admin > spec.AdminMaint:
		return fmt.Errorf("%w: admin: want ready, drain or maint", ErrInvalid)
	case c.Health > Down:
		return fmt.Errorf("%w: health: want up, stopping or down", ErrInvalid)
	case c.Checks != nil && !l.vitals.checked:
		return ErrNoCheck
	}
	return nil
}

// find returns a server, nil when there is none. The caller holds p.mu.
func (p *Pool) find(backend, server string) *live {
	if b := p.backends[backend]; b != nil {
		for _, s := range b.servers {
			if s.Spec.Name == server {
				return s.live
			}
		}
	}
	return nil
}

// OnShutdown tells who ends the requests under way with a server, by its ID: the connection driver. Call it before any
// server is set. end must not block.
func (p *Pool) OnShutdown(end func(id uint64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = end
}

// override is what was asked of a server at run time, and what desired state said then. Once that says something else, it
// has the last word.
type override struct {
	weight, weightOver int
	weightSet          bool
	wanted, wantedOver spec.Admin
	wantedSet          bool
}

// under drops what desired state has changed since.
func (o *override) under(s *spec.Server) {
	o.weightSet = o.weightSet && o.weightOver == s.Weight
	o.wantedSet = o.wantedSet && o.wantedOver == s.Admin
}

func (o *override) setWeight(weight int, s *spec.Server) {
	o.weight, o.weightOver, o.weightSet = weight, s.Weight, weight != s.Weight
}

func (o *override) setAdmin(a spec.Admin, s *spec.Server) {
	o.wanted, o.wantedOver, o.wantedSet = a, s.Admin, a != s.Admin
}

func (o *override) weightOf(s *spec.Server) int {
	if o.weightSet {
		return o.weight
	}
	return s.Weight
}

func (o *override) adminOf(s *spec.Server) spec.Admin {
	if o.wantedSet {
		return o.wanted
	}
	return s.Admin
}
