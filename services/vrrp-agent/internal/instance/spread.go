package instance

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/placement"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
)

const (
	// spreadLook is the pause between two looks at who holds how many.
	spreadLook = time.Second
	// spreadLooks is how often in a row the same move must seem right before it is made: a node that comes and goes moves
	// nothing.
	spreadLooks = 5
	// spreadMost bounds a move; the instance has a shorter limit of its own.
	spreadMost = 5 * time.Second
)

// spread moves the instances that are to be spread, one after the other, until ctx ends. Only who holds an instance moves it.
func (s *Set) spread(ctx context.Context) {
	ticker := time.NewTicker(spreadLook)
	defer ticker.Stop()
	var last placement.Move
	seen := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		instances, node := placements(s.Instances(), time.Now())
		m, ok := placement.Next(instances)
		if !ok || m != last {
			last, seen = m, 0
		}
		if seen++; !ok || seen < spreadLooks || m.From != node {
			continue
		}
		seen = 0
		moving, cancel := context.WithTimeout(ctx, spreadMost)
		to, err := s.Handover(moving, m.Instance, m.To, false)
		cancel()
		s.log.Info("moved an instance to where fewer are held", logging.Instance(m.Instance), zap.String("to", to), zap.Error(err))
	}
}

// placements are the instances that are to be spread and whose owner is known, and this node. With one whose owner is not,
// there are none: something is under way.
func placements(all []plan.Instance, now time.Time) (instances []placement.Instance, node string) {
	for _, i := range all {
		if !i.Local.Spread {
			continue
		}
		node = i.Local.Node
		p := placement.Instance{Name: i.Local.Name}
		switch {
		case i.State == fsm.Master:
			p.Owner = node
		case i.State == fsm.Backup && !i.Drained:
			p.Ready = append(p.Ready, node)
		}
		for _, a := range i.Agents {
			switch {
			case now.Sub(a.Seen) > agentMemory:
			case a.Owner && p.Owner != "":
				return nil, node // two
			case a.Owner:
				p.Owner = a.Node
			case a.Ready:
				p.Ready = append(p.Ready, a.Node)
			}
		}
		if p.Owner == "" {
			return nil, node
		}
		instances = append(instances, p)
	}
	return instances, node
}
