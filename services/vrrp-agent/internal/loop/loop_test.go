package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
)

// world keeps what was applied.
type world struct {
	have   plan.Have
	fail   error // of Apply
	blind  error // of Observe
	called []string
}

func (w *world) Observe(context.Context) (plan.Have, error) { return w.have, w.blind }

func (w *world) Apply(_ context.Context, c plan.Change) error {
	if w.fail != nil {
		return w.fail
	}
	w.called = append(w.called, c.String())
	switch c.Kind {
	case plan.Start:
		w.have.Running = append(w.have.Running, plan.Instance{Local: c.Local, Priority: c.Local.Priority})
	case plan.Stop:
		w.have.Running = nil
	case plan.Clean:
		w.have.Single = nil
	}
	return nil
}

// store hands out one snapshot.
type store struct {
	snapshot desired.Snapshot
	ok       bool
	accepted []int64
}

func (s *store) Snapshot() (desired.Snapshot, bool) { return s.snapshot, s.ok }

func (s *store) Accept(x desired.Snapshot) error {
	s.accepted = append(s.accepted, x.Revision)
	return nil
}

func (s *store) Describe(revision int64, v []*commonv1.Violation) *commonv1.DesiredState {
	return &commonv1.DesiredState{Revision: revision, SeenRevision: s.snapshot.Revision, Violations: v}
}

// status keeps the last report.
type status struct{ last *commonv1.Status }

func (s *status) Report(x *commonv1.Status) { s.last = x }

func snapshot(revision int64, priority uint32) desired.Snapshot {
	m := &vrrpv1.Instance{
		Name: "VI_1", VirtualRouterId: 53, VirtualAddresses: []string{"192.168.60.78"},
		Members: []*vrrpv1.Member{{Node: "haproxy", Priority: priority}, {Node: "haproxy2", Priority: 99}},
	}
	return desired.Snapshot{Revision: revision, Objects: []desired.Object{{Kind: "instance", Name: "VI_1", Message: proto.Message(m)}}}
}

func TestPass(t *testing.T) {
	t.Parallel()
	w, s, r, ready := &world{}, &store{}, &status{}, 0
	w.have.Single = []netip.Addr{netip.MustParseAddr("192.168.60.78")}
	l := New(Config{Node: "haproxy", Store: s, Status: r, World: w, Log: zaptest.NewLogger(t), Ready: func() { ready++ }})
	pass := func(name string, outcome commonv1.Outcome, changes string, revision int64, readies int) {
		t.Helper()
		got := l.pass(t.Context())
		if got.Outcome != outcome || strings.Join(got.Changes, "\n") != changes || r.last.GetDesired().GetRevision() != revision ||
			ready != readies || r.last.GetOutcome() != outcome {
			t.Errorf("%s: got %+v, ready %d, status %v; want %v, revision %d, ready %d and\n%s",
				name, got, ready, r.last, outcome, revision, readies, changes)
		}
	}

	pass("before the first state", commonv1.Outcome_OUTCOME_UNKNOWN, "", 0, 0)
	s.ok, s.snapshot = true, snapshot(1, 0)
	pass("the first state is wrong", commonv1.Outcome_OUTCOME_INVALID, "", 0, 0)
	s.snapshot, w.blind = snapshot(2, 105), errors.New("netlink does not answer")
	pass("the world cannot be seen", commonv1.Outcome_OUTCOME_UNKNOWN, "", 2, 1)
	w.blind, w.fail = nil, errors.New("no password")
	pass("a change fails", commonv1.Outcome_OUTCOME_RETRY, "", 2, 1)
	if want := "remove 192.168.60.78 of instance VI_1, left by an earlier run: no password"; r.last.GetError() != want {
		t.Errorf("got error %q, want %q", r.last.GetError(), want)
	}
	if len(s.accepted) > 0 {
		t.Errorf("accepted %v although a change failed", s.accepted)
	}
	w.fail = nil
	start := "remove 192.168.60.78 of instance VI_1, left by an earlier run\n" +
		"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]"
	pass("start", commonv1.Outcome_OUTCOME_DONE, start, 2, 1)
	pass("nothing to do", commonv1.Outcome_OUTCOME_DONE, "", 2, 1)
	if got := strings.Join(r.last.GetLastChanges(), "\n"); got != start {
		t.Errorf("last changes\n%s", got)
	}
	if got, want := fmt.Sprint(r.last.GetNotes()), "[instance VI_1: initialize, priority 105, holds []: ]"; got != want {
		t.Errorf("notes %s, want %s", got, want)
	}
	s.snapshot = snapshot(3, 300)
	pass("a wrong state leaves the last good one", commonv1.Outcome_OUTCOME_INVALID, "", 2, 1)
	if len(r.last.GetDesired().GetViolations()) != 1 {
		t.Errorf("violations %v", r.last.GetDesired().GetViolations())
	}
	w.have.Running = nil
	pass("which goes on being mended", commonv1.Outcome_OUTCOME_INVALID,
		"start instance VI_1: virtual router 53, priority 105, [192.168.60.78]", 2, 1)
	s.snapshot = desired.Snapshot{Revision: 4, Violations: []*commonv1.Violation{{Field: "instance/VI_1", Description: "not JSON"}}}
	pass("unreadable", commonv1.Outcome_OUTCOME_INVALID, "", 2, 1)
	s.snapshot = desired.Snapshot{Revision: 5}
	pass("deleted", commonv1.Outcome_OUTCOME_DONE, "stop instance VI_1: no longer wanted on this node", 5, 1)
	if got := fmt.Sprint(s.accepted); got != "[2 2 5]" {
		t.Errorf("accepted %s", got)
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	w := &world{}
	l := New(Config{Node: "haproxy2", Store: &store{}, Status: &status{}, World: w, Log: zaptest.NewLogger(t), Ready: func() {}})
	got, violations, err := l.Preview(snapshot(1, 105))
	if want := "[start instance VI_1: virtual router 53, priority 99, [192.168.60.78]]"; err != nil || violations != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v %v %v, want %s", got, violations, err, want)
	}
	if _, violations, _ := l.Preview(snapshot(1, 99)); len(violations) != 1 {
		t.Errorf("violations %v", violations)
	}
	if w.called != nil {
		t.Errorf("a preview has changed the world: %v", w.called)
	}
	w.blind = errors.New("netlink does not answer")
	if _, _, err := l.Preview(snapshot(1, 105)); !errors.Is(err, w.blind) {
		t.Errorf("got %v", err)
	}
}
