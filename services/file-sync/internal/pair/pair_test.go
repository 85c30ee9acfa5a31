package pair

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
)

// fakeRunner is a side that waits.
type fakeRunner struct {
	state    plan.State
	panics   bool
	released bool
	ended    chan struct{}
}

func (f *fakeRunner) Run(ctx context.Context) error {
	defer close(f.ended)
	if f.panics {
		panic("a fault")
	}
	<-ctx.Done()
	return ctx.Err()
}
func (f *fakeRunner) State() plan.State { return f.state }
func (f *fakeRunner) Release()          { f.released = true }

func side(name string, role plan.Role) plan.Side {
	return plan.Side{Role: role, Pair: spec.Pair{Name: name}}
}

func TestSet(t *testing.T) {
	t.Parallel()
	made := make(map[string]*fakeRunner)
	s := New(Config{Log: zaptest.NewLogger(t), Make: func(_ context.Context, side plan.Side, _ func()) (Runner, error) {
		if side.Pair.Name == "impossible" {
			return nil, errors.New("address in use")
		}
		r := &fakeRunner{state: plan.State{Side: side, Held: side.Pair.Name == "held"}, panics: side.Pair.Name == "faulty", ended: make(chan struct{})}
		made[fmt.Sprint(side.Pair.Name, side.Role)] = r
		return r, nil
	}})
	running := func() string {
		var all []string
		for _, side := range s.Observe() {
			all = append(all, fmt.Sprint(side.Pair.Name, " ", side.Role))
		}
		return strings.Join(all, ", ")
	}
	for _, side := range []plan.Side{side("web", plan.Source), side("web", plan.Target), side("held", plan.Target)} {
		if err := s.Start(t.Context(), side); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start(t.Context(), side("impossible", plan.Target)); err == nil || !strings.Contains(err.Error(), "address in use") {
		t.Errorf("start: %v", err)
	}
	if got, want := running(), "held target, web target, web source"; got != want {
		t.Errorf("running %q, want %q", got, want)
	}

	s.Release()
	if !made["heldtarget"].released || made["webtarget"].released {
		t.Error("released is not what was held")
	}

	if err := s.Stop(t.Context(), side("web", plan.Source)); err != nil {
		t.Fatal(err)
	}
	<-made["websource"].ended
	if got, want := running(), "held target, web target"; got != want {
		t.Errorf("running %q, want %q", got, want)
	}
	if err := s.Stop(t.Context(), side("web", plan.Source)); err != nil {
		t.Errorf("stop of what does not run: %v", err)
	}

	// A side with a fault is gone, and says so; the others go on.
	select { // what has been said so far
	case <-s.Changed():
	default:
	}
	if err := s.Start(t.Context(), side("faulty", plan.Target)); err != nil {
		t.Fatal(err)
	}
	<-s.Changed()
	if got, want := running(), "held target, web target"; got != want {
		t.Errorf("running %q, want %q", got, want)
	}

	if err := s.Close(t.Context()); err != nil || running() != "" {
		t.Errorf("close: %v, running %q", err, running())
	}
}
