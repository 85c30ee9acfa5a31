// Package pair answers: which sides of pairs run on this node, and how do they stand? It keeps one goroutine for each
// side, and knows of a side only that it can be made, run and asked.
package pair

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/internal/logging"
)

// Runner is one side of a pair.
type Runner interface {
	// Run carries over, or takes, until ctx ends.
	Run(ctx context.Context) error
	// State is how the side stands. Any goroutine may call it.
	State() plan.State
	// Release lets a comparison go on that waits for a person.
	Release()
}

// Config is what a set needs.
type Config struct {
	// Make makes a side, a target's with its listener open. changed is to be called when its state changes; it does
	// not block.
	Make func(ctx context.Context, side plan.Side, changed func()) (Runner, error)
	Log  *zap.Logger
}

// Set is the sides that run on this node. Start and Stop are called by one goroutine, the others by any.
type Set struct {
	cfg  Config
	bell *bell

	mu      sync.Mutex // guards running
	running []*running
}

type running struct {
	side   plan.Side
	runner Runner
	cancel context.CancelFunc
	done   chan struct{}
}

// New makes an empty set.
func New(cfg Config) *Set {
	cfg.Log = cfg.Log.Named("pair")
	return &Set{cfg: cfg, bell: newBell()}
}

// Changed has a token after a side has begun to stand differently, at most one a second. One goroutine may wait on it.
func (s *Set) Changed() <-chan struct{} { return s.bell.rings }

// Observe is the sides that run.
func (s *Set) Observe() []plan.Side {
	var sides []plan.Side
	for _, st := range s.States() {
		sides = append(sides, st.Side)
	}
	return sides
}

// States is how the sides stand, in the order of names.
func (s *Set) States() []plan.State {
	s.mu.Lock()
	all := slices.Clone(s.running)
	s.mu.Unlock()
	states := make([]plan.State, len(all))
	for i, r := range all {
		states[i] = r.runner.State()
	}
	plan.Sort(states)
	return states
}

// Release lets every comparison go on that waits for a person.
func (s *Set) Release() {
	s.mu.Lock()
	all := slices.Clone(s.running)
	s.mu.Unlock()
	for _, r := range all {
		if r.runner.State().Held {
			s.cfg.Log.Warn("held deletes are released", logging.Pair(r.side.Pair.Name))
			r.runner.Release()
		}
	}
}

// Start starts a side. Its life ends with Stop or Close, not with ctx.
func (s *Set) Start(ctx context.Context, side plan.Side) error {
	runner, err := s.cfg.Make(ctx, side, s.bell.push)
	if err != nil {
		return fmt.Errorf("start %v: %w", side, err)
	}
	life, cancel := context.WithCancel(context.Background())
	r := &running{side, runner, cancel, make(chan struct{})}
	s.mu.Lock()
	s.running = append(s.running, r)
	s.mu.Unlock()
	go func() { // ends with life; Stop and Close wait for it
		defer close(r.done)
		defer s.bell.push()
		s.run(life, r)
	}()
	return nil
}

// run keeps a fault of one side away from the others: the side is gone then, and the loop starts it anew.
func (s *Set) run(ctx context.Context, r *running) {
	defer func() {
		if cause := recover(); cause != nil {
			s.cfg.Log.Error("side panicked", logging.Pair(r.side.Pair.Name), zap.Any("panic", cause), logging.Stack(debug.Stack()))
		}
		s.mu.Lock()
		s.running = slices.DeleteFunc(s.running, func(o *running) bool { return o == r })
		s.mu.Unlock()
	}()
	if err := r.runner.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		s.cfg.Log.Error("side ended", logging.Pair(r.side.Pair.Name), zap.Error(err))
	}
}

// Stop stops a side and waits for its end, at most for ctx.
func (s *Set) Stop(ctx context.Context, side plan.Side) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.running, func(r *running) bool { return r.side.Is(side) })
	var r *running
	if i >= 0 {
		r = s.running[i]
	}
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %v: %w", side, ctx.Err())
	}
}

// Close stops all sides and waits for their end, at most for ctx.
func (s *Set) Close(ctx context.Context) error {
	defer s.bell.close()
	var errs []error
	for _, side := range s.Observe() {
		errs = append(errs, s.Stop(ctx, side))
	}
	return errors.Join(errs...)
}
