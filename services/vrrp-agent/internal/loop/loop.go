// Package loop answers: does this node run the instances that are wanted, and if not, what is done about it?
//
// A pass looks at the newest desired state, at the world, and mends what differs.
package loop

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/reconcile"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// World is what runs on this node.
type World interface {
	// Observe reads what there is.
	Observe(context.Context) (plan.Have, error)
	// Apply makes one change. Doing it twice does no harm.
	Apply(context.Context, plan.Change) error
}

// Store is the desired state.
type Store interface {
	Snapshot() (desired.Snapshot, bool)
	Accept(desired.Snapshot) error
	Describe(inForce int64, violations []*commonv1.Violation) *commonv1.DesiredState
}

// Status takes the report of each pass.
type Status interface {
	Report(*commonv1.Status)
}

// Config of a loop. All fields are required.
type Config struct {
	// Node is this node's name in the desired state.
	Node string
	// Store, Status and World as above.
	Store  Store
	Status Status
	World  World
	// Log gets the changes.
	Log *zap.Logger
	// Ready is called once, after the first pass that had a desired state.
	Ready func()
}

// Loop keeps the world as wanted.
type Loop struct {
	cfg  Config
	log  *zap.Logger
	pump *reconcile.Pump

	// Owned by the goroutine of Run.
	want        []spec.Instance
	revision    int64 // of want; 0: there is none yet
	ready       bool
	lastChanges []string
}

// New makes a loop; Run runs it.
func New(cfg Config) *Loop {
	l := &Loop{cfg: cfg, log: cfg.Log.Named("loop")}
	l.pump = reconcile.NewPump(reconcile.Config{Log: l.log}, l.pass)
	return l
}

// Run makes passes until ctx ends: at once, at each kick, and now and then.
func (l *Loop) Run(ctx context.Context, kicks ...<-chan struct{}) error {
	return l.pump.Run(ctx, kicks...)
}

// Reconcile makes a pass now and waits for its result. Any goroutine may call.
func (l *Loop) Reconcile(ctx context.Context) (reconcile.Result, error) { return l.pump.Now(ctx) }

// Preview is the plan of that snapshot against the world, or why the snapshot is not valid. Any goroutine may call.
func (l *Loop) Preview(snapshot desired.Snapshot) ([]string, []*commonv1.Violation, error) {
	want, violations := parse(snapshot)
	if len(violations) > 0 {
		return nil, violations, nil
	}
	have, err := l.cfg.World.Observe(context.Background()) // bounded by the timeout of netlink
	if err != nil {
		return nil, nil, err
	}
	return lines(plan.Diff(spec.On(l.cfg.Node, want), have)), nil, nil
}

// pass is one look at everything. The first good desired state is awaited; after it a wrong one leaves the last good one
// in force.
func (l *Loop) pass(ctx context.Context) reconcile.Result {
	snapshot, ok := l.cfg.Store.Snapshot()
	var want []spec.Instance
	var violations []*commonv1.Violation
	if ok {
		want, violations = parse(snapshot)
	}
	good := ok && len(violations) == 0
	if good {
		l.want, l.revision = want, snapshot.Revision
	}
	if l.revision == 0 && !good {
		return l.report(reconcile.Without(violations), plan.Have{})
	}

	have, err := l.cfg.World.Observe(ctx)
	if err != nil {
		return l.report(reconcile.Result{Outcome: commonv1.Outcome_OUTCOME_UNKNOWN, Err: err, Violations: violations}, have)
	}
	done, err := l.apply(ctx, plan.Diff(spec.On(l.cfg.Node, l.want), have))
	if err == nil && good {
		err = l.cfg.Store.Accept(snapshot)
	}
	result := reconcile.Result{Outcome: commonv1.Outcome_OUTCOME_DONE, Changes: done, Err: err, Violations: violations}
	switch {
	case err != nil:
		result.Outcome = commonv1.Outcome_OUTCOME_RETRY
	case len(violations) > 0:
		result.Outcome = commonv1.Outcome_OUTCOME_INVALID
		result.Err = errors.New("the newest desired state is wrong; the last good one stays in force")
	}
	if len(done) > 0 {
		l.lastChanges = done
		if after, err := l.cfg.World.Observe(ctx); err == nil {
			have = after // for the report only
		}
	}
	return l.report(result, have)
}

// parse turns a snapshot into instances.
func parse(snapshot desired.Snapshot) ([]spec.Instance, []*commonv1.Violation) {
	if len(snapshot.Violations) > 0 {
		return nil, snapshot.Violations
	}
	var messages []*vrrpv1.Instance
	for _, o := range snapshot.Objects {
		if m, ok := o.Message.(*vrrpv1.Instance); ok {
			messages = append(messages, m)
		}
	}
	return spec.Parse(messages)
}

// apply makes the changes in their order and stops at the first error. It returns what was done.
func (l *Loop) apply(ctx context.Context, changes []plan.Change) ([]string, error) {
	var done []string
	for _, c := range changes {
		if err := l.cfg.World.Apply(ctx, c); err != nil {
			return done, fmt.Errorf("%v: %w", c, err)
		}
		l.log.Info("changed", logging.Change(c.String()))
		done = append(done, c.String())
	}
	return done, nil
}

// report tells how the pass ended.
func (l *Loop) report(r reconcile.Result, have plan.Have) reconcile.Result {
	s := &commonv1.Status{
		Desired:     l.cfg.Store.Describe(l.revision, r.Violations),
		Outcome:     r.Outcome,
		LastChanges: l.lastChanges,
	}
	if r.Err != nil {
		s.Error = r.Err.Error()
	}
	for _, i := range have.Running {
		s.Notes = append(s.Notes, fmt.Sprintf("instance %s: %v, priority %d, holds %v: %s",
			i.Local.Name, i.State, i.Priority, i.Held, i.Reason))
	}
	l.cfg.Status.Report(s)
	if !l.ready && l.revision != 0 {
		l.ready = true
		l.cfg.Ready()
	}
	return r
}

func lines(changes []plan.Change) []string {
	var all []string
	for _, c := range changes {
		all = append(all, c.String())
	}
	return all
}
