// Package loop is the reconcile pass: it makes this server what the desired state wants it to be.
package loop

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.uber.org/zap"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/plan"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/reconcile"
	"github.com/twotier/twotier/services/internal/status"
)

// World is what runs on this server. The loop is the only one who changes it.
type World interface {
	Observe(ctx context.Context, want spec.Want) (plan.Have, error)
	Apply(context.Context, plan.Change) error
}

// Config is what a loop works with.
type Config struct {
	Node   string
	Store  *desired.Store
	Status *status.Reporter
	World  World
	Facts  func(context.Context) plan.Facts
	Log    *zap.Logger
}

// Loop reconciles.
type Loop struct {
	cfg         Config
	log         *zap.Logger
	pump        *reconcile.Pump
	have        atomic.Pointer[plan.Have] // as the last pass left it, for Preview
	want        *spec.Want                // the last good one; nil before there was one
	revision    int64                     // of it
	lastChanges []string                  // of the last pass that changed anything
}

// New makes a loop; Run runs it.
func New(cfg Config) *Loop {
	l := &Loop{cfg: cfg, log: cfg.Log.Named("loop")}
	l.pump = reconcile.NewPump(reconcile.Config{Log: l.log}, l.pass)
	return l
}

// Run makes passes until ctx ends.
func (l *Loop) Run(ctx context.Context) error { return l.pump.Run(ctx, l.cfg.Store.Changed()) }

// Reconcile makes a pass now and answers its result.
func (l *Loop) Reconcile(ctx context.Context) (reconcile.Result, error) { return l.pump.Now(ctx) }

// Facts are how this server stands.
func (l *Loop) Facts(ctx context.Context) plan.Facts { return l.cfg.Facts(ctx) }

var errNotLooked = errors.New("this server has not looked at itself yet")

// Preview answers what a pass with this snapshot would do, by what the last pass saw. It changes nothing.
func (l *Loop) Preview(s desired.Snapshot) ([]string, []*commonv1.Violation, error) {
	want, violations := parse(l.cfg.Node, s)
	if len(violations) > 0 {
		return nil, violations, nil
	}
	have := l.have.Load()
	if have == nil {
		return nil, nil, errNotLooked
	}
	return lines(plan.Diff(want, *have)), nil, nil
}

func parse(node string, s desired.Snapshot) (spec.Want, []*commonv1.Violation) {
	var sites []*forumv1.Site
	for _, o := range s.Objects {
		if m, ok := o.Message.(*forumv1.Site); ok {
			sites = append(sites, m)
		}
	}
	want, violations := spec.Parse(node, sites)
	return want, append(s.Violations[:len(s.Violations):len(s.Violations)], violations...)
}

func (l *Loop) pass(ctx context.Context) reconcile.Result {
	snapshot, ok := l.cfg.Store.Snapshot()
	if !ok {
		return l.report(reconcile.Without(nil))
	}
	want, violations := parse(l.cfg.Node, snapshot)
	if len(violations) == 0 {
		l.want, l.revision = &want, snapshot.Revision
	}
	var result reconcile.Result
	if l.want != nil { // the last good one stays in force, and is kept so
		var settled bool
		result, settled = l.carryOut(ctx, *l.want)
		if settled && len(violations) == 0 {
			if err := l.cfg.Store.Accept(snapshot); err != nil {
				l.log.Warn("last good copy not kept", zap.Error(err))
			}
		}
	}
	if len(violations) > 0 {
		result.Outcome = commonv1.Outcome_OUTCOME_INVALID
		result.Err = errors.Join(errors.New("the desired state is wrong: see the violations"), result.Err)
	}
	result.Violations = violations
	return l.report(result)
}

// carryOut brings the world to want. settled: what is still missing waits for something outside of this machine, the
// database above all, and not for a better desired state.
func (l *Loop) carryOut(ctx context.Context, want spec.Want) (result reconcile.Result, settled bool) {
	have, err := l.cfg.World.Observe(ctx, want)
	if err != nil {
		return reconcile.Result{Outcome: commonv1.Outcome_OUTCOME_UNKNOWN, Err: err}, false
	}
	l.have.Store(&have)
	for _, c := range plan.Diff(want, have) {
		if err := l.cfg.World.Apply(ctx, c); err != nil {
			result.Outcome, result.Err = commonv1.Outcome_OUTCOME_RETRY, fmt.Errorf("%s: %w", c, err)
			return result, c.Kind > plan.Serve
		}
		result.Changes = append(result.Changes, c.String())
		l.log.Info("changed", logging.Change(c.String()))
	}
	if len(result.Changes) > 0 {
		if have, err := l.cfg.World.Observe(ctx, want); err == nil {
			l.have.Store(&have)
		}
	}
	result.Outcome = commonv1.Outcome_OUTCOME_DONE
	return result, true
}

func (l *Loop) report(result reconcile.Result) reconcile.Result {
	if len(result.Changes) > 0 {
		l.lastChanges = result.Changes
	}
	s := &commonv1.Status{
		Desired:     l.cfg.Store.Describe(l.revision, result.Violations),
		Outcome:     result.Outcome,
		LastChanges: l.lastChanges,
	}
	if result.Err != nil {
		s.Error = result.Err.Error()
	}
	if have := l.have.Load(); have != nil && have.Serving != "" {
		s.Notes = append(s.Notes, "serving on "+have.Serving)
		if !have.Installed {
			s.Notes = append(s.Notes, "not installed, or the database does not answer")
		}
	}
	l.cfg.Status.Report(s)
	return result
}

func lines(changes []plan.Change) []string {
	var ls []string
	for _, c := range changes {
		ls = append(ls, c.String())
	}
	return ls
}
