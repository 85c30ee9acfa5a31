package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
)

// GroupTimeout is how long the members of a group may take to end when it stops.
const GroupTimeout = 10 * time.Second

// Group runs the long-lived parts of a service together: they start together, and when one ends all end.
type Group struct {
	log     *zap.Logger
	members []member
}

type member struct {
	name string
	run  func(context.Context) error
}

// NewGroup makes an empty group.
func NewGroup(log *zap.Logger) *Group {
	return &Group{log: log.Named("daemon")}
}

// Add adds a member, before Run. run must return soon after its context has ended.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.members = append(g.members, member{name, run})
}

// Run starts all members, ends them when ctx ends or one of them returns, and waits for them, for GroupTimeout at most.
// It returns the first real error; the end of the context is none.
func (g *Group) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		name string
		err  error
	}
	ends := make(chan end, len(g.members)) // room for all, so that a late one does not hang
	var running []string
	for _, m := range g.members {
		running = append(running, m.name)
		go func() { ends <- end{m.name, m.run(ctx)} }()
	}

	var first error
	var late <-chan time.Time
	stopping := ctx.Done()
	for len(running) > 0 {
		select {
		case <-stopping:
			stopping = nil
			timer := time.NewTimer(GroupTimeout)
			defer timer.Stop()
			late = timer.C
		case e := <-ends:
			running = slices.DeleteFunc(running, func(name string) bool { return name == e.name })
			ended := ctx.Err() != nil && errors.Is(e.err, ctx.Err())
			real := e.err != nil && !ended && !errors.Is(e.err, context.Canceled)
			if ctx.Err() == nil {
				g.log.Warn("a part of the service has ended; the others are stopped", zap.String("part", e.name), zap.Error(e.err))
				cancel()
			}
			if real && first == nil {
				first = fmt.Errorf("%s: %w", e.name, e.err)
			}
		case <-late:
			g.log.Error("parts of the service did not end in time", zap.Strings("parts", running), logging.Duration(GroupTimeout))
			return errors.Join(first, fmt.Errorf("did not end within %v: %v", GroupTimeout, running))
		}
	}
	return first
}
