// Package loop answers: does what runs on this node agree with what is wanted? Its pass is the one place where the two are
// brought together.
package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/reconcile"
	"github.com/twotier/twotier/services/internal/status"
)

// KindPair is the kind of object that this service knows.
const KindPair = "pair"

// stopTimeout is how long a side may take to end.
const stopTimeout = 5 * time.Second

// Sides runs sides of pairs.
type Sides interface {
	States() []plan.State
	Start(ctx context.Context, side plan.Side) error
	Stop(ctx context.Context, side plan.Side) error
	Release()
}

// Config is what a loop needs.
type Config struct {
	Node   string
	Store  *desired.Store
	Status *status.Reporter
	Sides  Sides
	Log    *zap.Logger
}

// Loop runs the passes.
type Loop struct {
	cfg  Config
	pump *reconcile.Pump
	// first is closed after the first pass.
	first chan struct{}

	// Only the goroutine of Run touches these.
	passed  bool
	want    []spec.Pair // the last good
	inForce int64       // revision of the snapshot that it is from
	changes []string    // of the last pass that changed anything
}

// New makes a loop.
func New(cfg Config) *Loop {
	cfg.Log = cfg.Log.Named("loop")
	l := &Loop{cfg: cfg, first: make(chan struct{})}
	l.pump = reconcile.NewPump(reconcile.Config{Log: cfg.Log}, l.pass)
	return l
}

// Run makes passes until ctx ends. Kicks ask for one.
func (l *Loop) Run(ctx context.Context, kicks ...<-chan struct{}) error {
	return l.pump.Run(ctx, append(kicks, l.cfg.Store.Changed())...)
}

// First is closed when the first pass that had a desired state has ended.
func (l *Loop) First() <-chan struct{} { return l.first }

// States is how the sides on this node stand.
func (l *Loop) States() []plan.State { return l.cfg.Sides.States() }

// Reconcile releases what waits for a person and makes a pass.
func (l *Loop) Reconcile(ctx context.Context) (reconcile.Result, error) {
	l.cfg.Sides.Release()
	return l.pump.Now(ctx)
}

// Preview tells what a desired state would change, and what is wrong with it.
func (l *Loop) Preview(s desired.Snapshot) ([]string, []*commonv1.Violation, error) {
	want, violations := parse(s)
	if len(violations) > 0 {
		return nil, violations, nil
	}
	return lines(plan.Diff(plan.Sides(l.cfg.Node, want), l.observe())), nil, nil
}

// parse reads the pairs of a snapshot.
func parse(s desired.Snapshot) ([]spec.Pair, []*commonv1.Violation) {
	var messages []*filesyncv1.Pair
	for _, o := range s.Objects {
		if m, ok := o.Message.(*filesyncv1.Pair); ok {
			messages = append(messages, m)
		}
	}
	pairs, violations := spec.Parse(messages)
	return pairs, append(s.Violations[:len(s.Violations):len(s.Violations)], violations...)
}

func (l *Loop) observe() []plan.Side {
	var have []plan.Side
	for _, st := range l.cfg.Sides.States() {
		have = append(have, st.Side)
	}
	return have
}

// pass brings what runs to what is wanted, and reports.
func (l *Loop) pass(ctx context.Context) reconcile.Result {
	snapshot, ok := l.cfg.Store.Snapshot()
	if !ok {
		return l.report(reconcile.Without(nil))
	}
	result := l.bring(ctx, snapshot)
	if !l.passed {
		l.passed = true
		close(l.first)
	}
	return l.report(result)
}

func (l *Loop) bring(ctx context.Context, snapshot desired.Snapshot) reconcile.Result {
	want, violations := parse(snapshot)
	if len(violations) == 0 {
		l.want = want
	}
	done, err := l.apply(ctx, plan.Diff(plan.Sides(l.cfg.Node, l.want), l.observe()))
	if err == nil && len(violations) == 0 {
		l.inForce = snapshot.Revision
		err = l.cfg.Store.Accept(snapshot)
	}
	trouble := l.trouble()
	if err == nil {
		err = trouble
	}
	result := reconcile.Result{Outcome: commonv1.Outcome_OUTCOME_DONE, Changes: done, Err: err, Violations: violations}
	switch {
	case len(violations) > 0:
		result.Outcome = commonv1.Outcome_OUTCOME_INVALID
		result.Err = fmt.Errorf("%s: %s", violations[0].GetField(), violations[0].GetDescription())
	case err != nil:
		result.Outcome = commonv1.Outcome_OUTCOME_RETRY
	}
	return result
}

// apply carries out the changes and stops at the first that cannot be.
func (l *Loop) apply(ctx context.Context, changes []plan.Change) (done []string, err error) {
	for _, c := range changes {
		switch c.Action {
		case plan.Stop:
			stop, cancel := context.WithTimeout(ctx, stopTimeout)
			err = l.cfg.Sides.Stop(stop, c.Side)
			cancel()
		case plan.Start:
			err = l.cfg.Sides.Start(ctx, c.Side)
		}
		if err != nil {
			return done, err
		}
		l.cfg.Log.Info("side changed", logging.Pair(c.Side.Pair.Name), logging.Change(c.String()))
		done = append(done, c.String())
	}
	return done, nil
}

// trouble is what the sides say is wrong. They try again by themselves.
func (l *Loop) trouble() error {
	var errs []error
	for _, st := range l.cfg.Sides.States() {
		side := fmt.Sprintf("%v of pair %s", st.Side.Role, st.Side.Pair.Name)
		if st.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", side, st.Error))
		}
	}
	return errors.Join(errs...)
}

// report makes the status of a pass.
func (l *Loop) report(result reconcile.Result) reconcile.Result {
	if len(result.Changes) > 0 {
		l.changes = result.Changes
	}
	s := &commonv1.Status{
		Desired:     l.cfg.Store.Describe(l.inForce, result.Violations),
		Outcome:     result.Outcome,
		LastChanges: l.changes,
	}
	if result.Err != nil {
		s.Error = result.Err.Error()
	}
	for _, st := range l.cfg.Sides.States() {
		s.Notes = append(s.Notes, notes(st)...)
	}
	l.cfg.Status.Report(s)
	return result
}

// notes are the facts of a side for a person.
func notes(st plan.State) []string {
	how := "not connected"
	switch {
	case st.Held:
		how = "held, waits for Reconcile on " + st.Side.Pair.Target.Node
	case st.InSync:
		how = "in sync"
	case st.Connected:
		how = "connected, carrying over"
	}
	lines := []string{fmt.Sprintf("pair %s, %v: %s", st.Side.Pair.Name, st.Side.Role, how)}
	if st.Skipped > 0 {
		lines = append(lines, fmt.Sprintf("pair %s: %d devices, sockets, pipes or reserved names are not copied", st.Side.Pair.Name, st.Skipped))
	}
	if st.Unowned > 0 {
		lines = append(lines, fmt.Sprintf("pair %s: owners are not kept: this process may not change them (CAP_CHOWN)", st.Side.Pair.Name))
	}
	return lines
}

func lines(changes []plan.Change) []string {
	var all []string
	for _, c := range changes {
		all = append(all, c.String())
	}
	return all
}
