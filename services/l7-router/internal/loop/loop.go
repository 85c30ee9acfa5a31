// Package loop makes what is what is wanted: one pass compares the two and makes the changes between them.
package loop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/reconcile"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Kinds are the kinds of desired object of this service.
func Kinds() []desired.Kind {
	return []desired.Kind{
		{Name: "frontend", New: func() proto.Message { return new(routerv1.Frontend) }},
		{Name: "backend", New: func() proto.Message { return new(routerv1.Backend) }},
	}
}

// Plane is the world that is changed.
type Plane interface {
	// Observe tells what is in force. Any goroutine may call it.
	Observe() plan.Have
	// Do makes one change; doing it twice does no harm.
	Do(context.Context, plan.Change) error
}

// Config is what a loop needs; all of it is required.
type Config struct {
	Store  *desired.Store
	Status *status.Reporter
	Plane  Plane
	// Serving is told after each pass whether every wanted address is listened on.
	Serving func(bool)
	Log     *zap.Logger
}

// Loop owns what is wanted.
type Loop struct {
	cfg  Config
	pump *reconcile.Pump

	// The goroutine of Run owns these.
	want     spec.State
	revision int64
	good     bool // want has been set
	last     []string
}

// New makes a loop.
func New(cfg Config) *Loop {
	cfg.Log = cfg.Log.Named("loop")
	l := &Loop{cfg: cfg}
	l.pump = reconcile.NewPump(reconcile.Config{Log: cfg.Log}, l.pass)
	return l
}

// Run makes passes until ctx ends: at the start, at each kick, and from time to time.
func (l *Loop) Run(ctx context.Context, kicks ...<-chan struct{}) error {
	defer l.cfg.Serving(false)
	return l.pump.Run(ctx, append(kicks, l.cfg.Store.Changed())...)
}

// Reconcile makes a pass now.
func (l *Loop) Reconcile(ctx context.Context) (reconcile.Result, error) { return l.pump.Now(ctx) }

// Preview tells what would be done about a snapshot. Any goroutine may call it.
func (l *Loop) Preview(snapshot desired.Snapshot) ([]string, []*commonv1.Violation, error) {
	want, violations := Parse(snapshot)
	if len(violations) > 0 {
		return nil, violations, nil
	}
	return lines(plan.Diff(want, l.cfg.Plane.Observe())), nil, nil
}

// pass makes what is what is wanted.
func (l *Loop) pass(ctx context.Context) reconcile.Result {
	begin := time.Now()
	snapshot, ok := l.cfg.Store.Snapshot()
	if !ok {
		return l.report(reconcile.Without(nil))
	}
	want, violations := Parse(snapshot)
	if len(violations) == 0 {
		l.want, l.revision, l.good = want, snapshot.Revision, true
	}

	result := reconcile.Result{Violations: violations}
	if l.good {
		result.Changes, result.Err = l.apply(ctx, plan.Diff(l.want, l.cfg.Plane.Observe()))
	}
	switch {
	case result.Err != nil:
		result.Outcome = commonv1.Outcome_OUTCOME_RETRY
	case len(violations) > 0:
		result.Outcome = commonv1.Outcome_OUTCOME_INVALID
		result.Err = fmt.Errorf("%s: %s", violations[0].GetField(), violations[0].GetDescription())
	default:
		result.Outcome = commonv1.Outcome_OUTCOME_DONE
		if err := l.cfg.Store.Accept(snapshot); err != nil {
			// What is wanted is in force; only a restart without etcd would not know it.
			l.cfg.Log.Warn("desired state is not kept for a restart", zap.Error(err))
		}
	}
	if len(result.Changes) > 0 {
		l.cfg.Log.Info("changed", logging.Revision(snapshot.Revision), logging.Changes(result.Changes), logging.Duration(time.Since(begin)))
	}
	return l.report(result)
}

// apply makes the changes in order. One that cannot be made, such as an address that is taken or a certificate that is
// broken, does not keep the others back, but for those that build on it: no address is bound or given up for a frontend
// that could not be changed, and nothing is removed.
func (l *Loop) apply(ctx context.Context, changes []plan.Change) (done []string, err error) {
	failed := map[string]bool{} // frontends
	for _, change := range changes {
		switch change.Action {
		case plan.Close, plan.Listen:
			if failed[change.Name] {
				continue
			}
		case plan.RemoveFrontend, plan.RemoveBackend:
			if err != nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return done, errors.Join(err, ctx.Err())
		}
		if failure := l.cfg.Plane.Do(ctx, change); failure != nil {
			failed[change.Name] = failed[change.Name] || change.Action == plan.SetFrontend
			err = errors.Join(err, failure)
			continue
		}
		done = append(done, change.String())
	}
	return done, err
}

// report tells the status and the health how the pass has ended.
func (l *Loop) report(result reconcile.Result) reconcile.Result {
	l.cfg.Serving(l.good && l.bound())
	if len(result.Changes) > 0 {
		l.last = result.Changes
	}
	s := &commonv1.Status{
		Desired:     l.cfg.Store.Describe(l.revision, result.Violations),
		Outcome:     result.Outcome,
		LastChanges: l.last,
	}
	if result.Err != nil {
		s.Error = result.Err.Error()
	}
	l.cfg.Status.Report(s)
	return result
}

// bound reports whether every wanted address is listened on.
func (l *Loop) bound() bool {
	have := l.cfg.Plane.Observe().Listeners
	for _, f := range l.want.Frontends {
		streams := f.NeedsStreams(l.want.Backends)
		for i, address := range f.Addresses() {
			if !slices.Contains(have, plan.Listener{Address: address, Frontend: f.Name, TLS: i >= len(f.Bind), Streams: streams}) {
				return false
			}
		}
	}
	return true
}

// Parse reads a snapshot; what could not even be read is a violation too.
func Parse(snapshot desired.Snapshot) (spec.State, []*commonv1.Violation) {
	var frontends []*routerv1.Frontend
	var backends []*routerv1.Backend
	for _, object := range snapshot.Objects {
		switch message := object.Message.(type) {
		case *routerv1.Frontend:
			frontends = append(frontends, message)
		case *routerv1.Backend:
			backends = append(backends, message)
		}
	}
	want, violations := spec.Parse(frontends, backends)
	return want, slices.Concat(snapshot.Violations, violations)
}

func lines(changes []plan.Change) []string {
	all := make([]string, 0, len(changes))
	for _, change := range changes {
		all = append(all, change.String())
	}
	return all
}
