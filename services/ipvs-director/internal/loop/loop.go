// Package loop answers: is the kernel as wanted, and if not, what is done about it? A pass looks at the newest desired
// state, at the data plane and at the node's addresses, and mends what differs. It also chooses the data plane.
package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/reconcile"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

const (
	// Resync is how often the kernel is looked at although nobody asked: what somebody else changes there is mended
	// within this time. Neither plane can tell of changes by itself.
	Resync = time.Second
	// PassTimeout bounds one pass.
	PassTimeout = 30 * time.Second
)

// Plane is a data plane; see package dataplane for the contract.
type Plane interface {
	Observe(ctx context.Context) (plan.Have, error)
	Apply(ctx context.Context, changes []plan.Change) ([]plan.Change, error)
	// Remove takes away everything that a director has made with this plane.
	Remove(ctx context.Context) error
	Close() error
}

// Counter is a plane that counts open connections when asked, because Observe does not tell them. Such a plane gets no thresholds: the
// loop keeps them by counting, and by counting it moves the slots by which the plane deals lc and wlc.
type Counter interface {
	CountOpen(ctx context.Context, keys []steer.Key) (map[steer.Key]uint64, error)
}

// Resetter is a plane that can end the connections of a real server that it does not have any more.
type Resetter interface {
	Reset(ctx context.Context, keys []steer.Key) error
}

// Health checks real servers.
type Health interface {
	// Set says which, and how.
	Set(map[steer.Key]spec.Check)
	// State tells what is known of one, and the result of its last check, for people.
	State(steer.Key) (health steer.Health, last string)
}

// Recall keeps what has to outlast a restart.
type Recall interface {
	Load() (steer.Memory, error)
	Save(steer.Memory) error
}

// Loaded tells others whether this kernel has the rules, also when the director does not run.
type Loaded interface {
	Set(loaded bool) error
}

// Candidate is a data plane that may be chosen.
type Candidate struct {
	Name  string
	Probe func() dataplane.Report
	Open  func() Plane
	// Find tells which real server a connection has, in the namespace of the calling thread; false: the kernel does not know
	// it. Any goroutine may call it.
	Find func(ctx context.Context, client netip.AddrPort, vip spec.VIP) (real netip.AddrPort, found bool, err error)
	// Kept makes what the plane has for connections whose slot has moved. nil: it deals by no table.
	Kept func() Keeper
	// Remembered tells which real server a client is to stay with by persistence, as Find does; nil: the plane does not tell.
	Remembered func(ctx context.Context, client netip.Addr, vip spec.VIP, prefix int) (real netip.AddrPort, kept bool, err error)
}

// Host is the node's own network stack.
type Host interface {
	Observe(ctx context.Context) (plan.Host, error)
	Apply(ctx context.Context, change plan.Change) error
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

// Config of a loop. All fields but Board are required.
type Config struct {
	// Node is this node's name in the desired state.
	Node   string
	Store  Store
	Status Status
	Host   Host
	Health Health
	Recall Recall
	// Board is where other directors are told of connections whose slot has moved. nil: there are none.
	Board Board
	// Wanted is the name of the plane, or dataplane.Auto for the first usable of Candidates.
	Wanted     string
	Candidates []Candidate
	// Log gets the changes.
	Log *zap.Logger
	// Ready is called once, after the first pass that left the kernel as wanted, with a service at least, and knew the health of every real
	// server: from then on this director may be given addresses.
	Ready func()
	// Loaded gets true after each such pass, and false after one that found nothing of ours in the kernel. A director that has just been
	// started leaves it as it is until then: the rules are those of its former life.
	Loaded Loaded
}

// View is what a pass saw. It is never changed after it was published.
type View struct {
	// Chosen is the name of the plane in use; empty when none can be used, and then Unusable is why.
	Chosen   string
	Unusable error
	// Wanted is what was asked for.
	Wanted  string
	Reports []dataplane.Report
	// Have is what was there at the end of the pass.
	Have plan.Have
	// Observed: Have was read from the kernel.
	Observed bool
	// Course is what the pass found to be right for the kernel.
	Course steer.Course
	// Memory is what was remembered before.
	Memory steer.Memory
	Rates  map[steer.Key]Rates
	// Kept are the real servers of connections whose slot has moved, of which other directors have told: the kernel sends the middle of
	// them there.
	Kept map[kept.Ends]netip.AddrPort
}

// Why tells why the plane in use is that one, for people.
func (v View) Why() string {
	if v.Unusable != nil {
		return v.Unusable.Error()
	}
	words := []string{"asked for: " + v.Wanted}
	for _, r := range v.Reports {
		switch {
		case r.Name == v.Chosen:
			words = append(words, r.Name+": "+r.Reason)
		case !r.Usable:
			words = append(words, r.Name+" cannot be used: "+r.Reason)
		}
	}
	return strings.Join(words, "; ")
}

// Loop keeps the kernel as wanted.
type Loop struct {
	cfg    Config
	log    *zap.Logger
	pump   *reconcile.Pump
	view   atomic.Pointer[View]
	newsMu sync.Mutex
	news   chan struct{} // closed at the end of the next pass
	// chosen is the report of the plane in use; nil: not chosen yet.
	chosen atomic.Pointer[dataplane.Report]
	// ceilings: the plane counts when asked, which is how its real servers are kept from having too many connections.
	ceilings atomic.Bool

	// Owned by the goroutine of Run.
	plane       Plane       // nil: not chosen yet
	others      []Candidate // usable planes that are not used and may hold what an earlier director made
	choice      View        // Chosen, Unusable and Reports only
	want        spec.Want
	revision    int64 // of want; 0: there is none yet
	memory      steer.Memory
	recalled    bool // memory was loaded
	unsaved     bool // memory is another than what is kept
	course      steer.Course
	rates       rates
	open        map[steer.Key]uint64 // connections of those that leave, may be full or have slots, on a plane that has to be asked
	counted     time.Time
	fresh       bool      // they were counted in this pass, and it is time for a step
	levelled    time.Time // when it last was
	levelPause  time.Duration
	stepped     map[spec.VIP]bool  // services that let others go first
	countErr    error              // of the last time
	resets      map[steer.Key]bool // those whose connections are to be ended once they are out of the kernel
	kept        keeping
	lastChanges []string
	ready       bool
}

// New makes a loop; Run runs it.
func New(cfg Config) *Loop {
	l := &Loop{cfg: cfg, log: cfg.Log.Named("loop"), resets: map[steer.Key]bool{}, stepped: map[spec.VIP]bool{}, news: make(chan struct{})}
	l.kept.absent = map[spec.VIP]absence{}
	l.pump = reconcile.NewPump(reconcile.Config{Resync: Resync, Log: l.log}, l.pass)
	l.view.Store(&View{Unusable: fmt.Errorf("%w: not looked for yet", dataplane.ErrUnusable)})
	return l
}

// Run makes passes until ctx ends, then lets go of the plane. The kernel keeps everything: a director that is down
// stops no packet.
func (l *Loop) Run(ctx context.Context, kicks ...<-chan struct{}) error {
	err := l.pump.Run(ctx, kicks...)
	if l.plane != nil {
		err = errors.Join(err, l.plane.Close())
	}
	return err
}

// View is what the last pass saw. Any goroutine may call.
func (l *Loop) View() View { return *l.view.Load() }

// News is closed when the next pass has ended and View is that of it. Any goroutine may call.
func (l *Loop) News() <-chan struct{} {
	l.newsMu.Lock()
	defer l.newsMu.Unlock()
	return l.news
}

// publish makes a view the one to be seen.
func (l *Loop) publish(view *View) {
	l.view.Store(view)
	l.newsMu.Lock()
	defer l.newsMu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
}

// Reconcile makes a pass now and waits for its result. Any goroutine may call.
func (l *Loop) Reconcile(ctx context.Context) (reconcile.Result, error) { return l.pump.Now(ctx) }

// Preview is the plan of that snapshot against what the last pass saw, or why the snapshot is not valid. Any goroutine
// may call.
func (l *Loop) Preview(snapshot desired.Snapshot) ([]string, []*commonv1.Violation, error) {
	want, violations := l.parse(snapshot)
	if len(violations) > 0 {
		return nil, violations, nil
	}
	view := l.View()
	switch {
	case view.Unusable != nil:
		return nil, nil, view.Unusable
	case !view.Observed:
		return nil, nil, errors.New("the kernel could not be read")
	}
	return lines(changes(l.steer(want, view.Have, view.Memory, nil, l.still()), want.Addresses, view.Have)), nil, nil
}

// Would tells which services the kernel would have if a valid snapshot were in force. Any goroutine may call.
func (l *Loop) Would(snapshot desired.Snapshot) []spec.Service {
	want, _ := l.parse(snapshot)
	view := l.View()
	return l.steer(want, view.Have, view.Memory, nil, l.still()).Services
}

// Find tells which real server a connection has. Any goroutine may call.
func (l *Loop) Find(ctx context.Context, client netip.AddrPort, vip spec.VIP) (netip.AddrPort, bool, error) {
	chosen := l.View().Chosen
	for _, c := range l.cfg.Candidates {
		if c.Name == chosen && c.Find != nil {
			return c.Find(ctx, client, vip)
		}
	}
	return netip.AddrPort{}, false, nil
}

// Remembered tells which real server a client of a service with persistence is to stay with. Any goroutine may call.
func (l *Loop) Remembered(ctx context.Context, client netip.Addr, vip spec.VIP, prefix int) (netip.AddrPort, bool, error) {
	chosen := l.View().Chosen
	for _, c := range l.cfg.Candidates {
		if c.Name == chosen && c.Remembered != nil {
			return c.Remembered(ctx, client, vip, prefix)
		}
	}
	return netip.AddrPort{}, false, nil
}

// pass is one look at everything.
func (l *Loop) pass(ctx context.Context) reconcile.Result {
	ctx, cancel := context.WithTimeout(ctx, PassTimeout)
	defer cancel()
	unusable := l.choose() // first: what is wanted is looked at with what the plane can do in mind
	snapshot, violations, good := l.look()
	if unusable != nil {
		return l.report(commonv1.Outcome_OUTCOME_RETRY, nil, unusable, violations, plan.Have{}, false)
	}
	have, err := l.observe(ctx)
	if err != nil {
		return l.report(commonv1.Outcome_OUTCOME_UNKNOWN, nil, err, violations, have, false)
	}
	if l.revision == 0 {
		without := reconcile.Without(violations)
		if err := l.vouch(false, have); err != nil {
			without.Err = errors.Join(without.Err, err)
		}
		return l.report(without.Outcome, nil, without.Err, violations, have, true)
	}

	l.recall()
	l.check(l.want)
	countErr := l.count(ctx, have) // no reason to leave anything undone
	course := l.steer(l.want, have, l.memory, l.open, l.lending(have))
	l.toReset(course.Reset, have)
	l.took(course)
	course.Memory.Held = l.holding(have)
	saveErr := l.remember(course) // neither is this
	done, err := l.apply(ctx, changes(course, l.want.Addresses, have))
	if len(done) > 0 {
		// What the kernel says counts, not what it answered.
		after, readErr := l.observe(ctx)
		if readErr != nil {
			return l.report(commonv1.Outcome_OUTCOME_UNKNOWN, done, errors.Join(err, readErr), violations, have, false)
		}
		have = after
		if left := changes(course, l.want.Addresses, have); err == nil && len(left) > 0 {
			err = fmt.Errorf("the kernel accepted the changes and is not as wanted; left to do: %s", strings.Join(lines(left), "; "))
		}
	}
	if err == nil && len(l.want.Services) > 0 && !have.Host.Forwarding {
		err = errors.New("net.ipv4.ip_forward is 0: this node passes no packets on; set it to 1")
	}
	if refused := plan.Refused(l.want.Services, have); err == nil && len(refused) > 0 {
		err = fmt.Errorf("somebody else has made %v in this kernel, which is refused (foreign): take it away there, or say adopt or ignore", refused)
	}
	if err == nil {
		err = l.removeOthers(ctx)
	}
	settled := err == nil && len(violations) == 0 // a full disk is no reason not to serve
	if err == nil && good {
		err = l.cfg.Store.Accept(snapshot)
	}
	vouchErr := l.vouch(settled, have)
	if settled {
		defer l.settle()
	}
	keepErr := l.keep(ctx, course, have)
	if keepErr == nil && l.kept.failed == nil {
		l.kept.lentFailed = l.tellLent(ctx, have)
	}
	err = errors.Join(err, vouchErr, countErr, saveErr, l.reset(ctx, have), keepErr, l.forget(ctx))
	switch {
	case err != nil:
		return l.report(commonv1.Outcome_OUTCOME_RETRY, done, err, violations, have, true)
	case len(violations) > 0:
		err = errors.New("the newest desired state is wrong; the last good one stays in force")
		return l.report(commonv1.Outcome_OUTCOME_INVALID, done, err, violations, have, true)
	}
	return l.report(commonv1.Outcome_OUTCOME_DONE, done, nil, nil, have, true)
}

// look takes the newest desired state in force when it is good.
func (l *Loop) look() (snapshot desired.Snapshot, violations []*commonv1.Violation, good bool) {
	snapshot, loaded := l.cfg.Store.Snapshot()
	if !loaded {
		return snapshot, nil, false
	}
	want, violations := l.parse(snapshot)
	if len(violations) > 0 {
		return snapshot, violations, false
	}
	l.want, l.revision = want, snapshot.Revision
	return snapshot, nil, true
}

func (l *Loop) parse(snapshot desired.Snapshot) (spec.Want, []*commonv1.Violation) {
	if len(snapshot.Violations) > 0 {
		return spec.Want{}, snapshot.Violations
	}
	var messages []proto.Message
	for _, o := range snapshot.Objects {
		messages = append(messages, o.Message)
	}
	want, violations := spec.Parse(messages, l.cfg.Node)
	if chosen := l.chosen.Load(); chosen != nil && len(violations) == 0 {
		violations = spec.Refuse(want.Needs, chosen.Name, chosen.Lacks)
	}
	return want, violations
}

// choose probes the planes and opens one, once; until one can be used, each pass tries again.
func (l *Loop) choose() error {
	if l.plane != nil {
		return nil
	}
	var reports []dataplane.Report
	for _, c := range l.cfg.Candidates {
		reports = append(reports, c.Probe())
	}
	chosen, err := dataplane.Choose(l.cfg.Wanted, reports)
	l.choice = View{Wanted: l.cfg.Wanted, Chosen: chosen, Unusable: err, Reports: reports}
	if err != nil {
		return err
	}
	for i, c := range l.cfg.Candidates {
		switch {
		case c.Name == chosen:
			l.plane = c.Open()
			if c.Kept != nil && l.cfg.Board != nil {
				l.kept.keeper = c.Kept()
			}
			l.chosen.Store(&reports[i])
			_, counts := l.plane.(Counter)
			l.ceilings.Store(counts)
			l.log.Info("data plane chosen", logging.Name(chosen), logging.Reason(reports[i].Reason))
		case reports[i].Usable:
			l.others = append(l.others, c)
		}
	}
	return nil
}

// removeOthers takes away what an earlier director made with another plane, once the chosen one is as wanted.
func (l *Loop) removeOthers(ctx context.Context) error {
	for len(l.others) > 0 {
		other := l.others[0].Open()
		if err := errors.Join(other.Remove(ctx), other.Close()); err != nil {
			return fmt.Errorf("remove what was made with the data plane %s: %w", l.others[0].Name, err)
		}
		l.others = l.others[1:]
	}
	return nil
}

func (l *Loop) observe(ctx context.Context) (plan.Have, error) {
	have, err := l.plane.Observe(ctx)
	if err != nil {
		return have, err
	}
	have.Host, err = l.cfg.Host.Observe(ctx)
	return have, err
}

// apply makes the changes in their order. An error of the plane ends it, because addresses must not come before their
// rules; an address that cannot be put anywhere holds up nothing else.
func (l *Loop) apply(ctx context.Context, changes []plan.Change) (done []string, err error) {
	note := func(c plan.Change) {
		l.log.Info("changed", logging.Change(c.String()))
		done = append(done, c.String())
	}
	var failed error
	for len(changes) > 0 {
		run := 1
		for run < len(changes) && changes[run].OnHost() == changes[0].OnHost() {
			run++
		}
		now := changes[:run]
		changes = changes[run:]
		if now[0].OnHost() {
			for _, c := range now {
				if err := l.cfg.Host.Apply(ctx, c); err != nil {
					failed = errors.Join(failed, err)
				} else {
					note(c)
				}
			}
			continue
		}
		made, err := l.plane.Apply(ctx, now)
		for _, c := range made {
			note(c)
		}
		if err != nil {
			return done, errors.Join(failed, err)
		}
	}
	return done, failed
}

// report publishes what the pass saw and tells how it ended.
func (l *Loop) report(outcome commonv1.Outcome, done []string, err error, violations []*commonv1.Violation, have plan.Have, observed bool) reconcile.Result {
	view := l.choice
	if observed {
		l.rates.count(have, time.Now())
	}
	view.Have, view.Observed, view.Course, view.Memory, view.Rates, view.Kept = have, observed, l.course, l.memory, l.rates.perSecond, l.kept.known
	l.publish(&view)
	if len(done) > 0 {
		l.lastChanges = done
	}
	s := &commonv1.Status{
		Desired:     l.cfg.Store.Describe(l.revision, violations),
		Outcome:     outcome,
		LastChanges: l.lastChanges,
		Notes:       append(notes(l.cfg.Wanted, view, l.want), l.kept.notes()...),
	}
	if err != nil {
		s.Error = err.Error()
	}
	l.cfg.Status.Report(s)
	return reconcile.Result{Outcome: outcome, Changes: done, Err: err, Violations: violations}
}

// fit tells whether this director may be given addresses after a pass that has settled: the rules are there, and who lives is known.
func (l *Loop) fit() bool { return len(l.want.Services) > 0 && len(l.course.Pending) == 0 }

// vouch tells others whether the kernel has the rules. Between the two, as when a health is not known again, it is left as it is.
func (l *Loop) vouch(settled bool, have plan.Have) error {
	switch {
	case settled && l.fit():
		return l.cfg.Loaded.Set(true)
	case !slices.ContainsFunc(have.Services, func(s plan.Service) bool { return !s.Foreign }):
		return l.cfg.Loaded.Set(false)
	}
	return nil
}

// settle tells, once, that the kernel is as wanted and the health of every real server known. A director of which nothing is wanted has
// not so much as a guard in the kernel: an address that came here would answer every connection with a reset.
func (l *Loop) settle() {
	if l.fit() && !l.ready {
		l.ready = true
		l.cfg.Ready()
	}
}

func lines(changes []plan.Change) []string {
	all := make([]string, 0, len(changes))
	for _, c := range changes {
		all = append(all, c.String())
	}
	return all
}
