package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/status"
)

const good = `kind: pair
name: web
source: { node: server2, path: /data }
target: { node: server1, path: /web, address: "172.16.0.88:8730", allow: ["172.16.0.99/32"] }
`

// elsewhere is a pair of other nodes.
var elsewhere = strings.Replace(good, "server1", "server3", 1)

// fakeSides are sides that are only noted.
type fakeSides struct {
	mu     sync.Mutex
	states []plan.State
	done   []string
	fail   error
}

func (f *fakeSides) States() []plan.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]plan.State(nil), f.states...)
}

func (f *fakeSides) Start(_ context.Context, side plan.Side) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.states = append(f.states, plan.State{Side: side})
	f.done = append(f.done, fmt.Sprintf("start %v %s", side.Role, side.Pair.Name))
	return nil
}

func (f *fakeSides) Stop(_ context.Context, side plan.Side) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, st := range f.states {
		if st.Side.Is(side) {
			f.states = append(f.states[:i], f.states[i+1:]...)
			break
		}
	}
	f.done = append(f.done, fmt.Sprintf("stop %v %s", side.Role, side.Pair.Name))
	return nil
}

func (f *fakeSides) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, "release")
}

func (f *fakeSides) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeSides) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.done, "; ")
}

type bench struct {
	t      *testing.T
	file   string
	store  *desired.Store
	status *status.Reporter
	sides  *fakeSides
	loop   *Loop
}

// newBench has a loop on server1 that runs with this desired state.
func newBench(t *testing.T, desiredState string) *bench {
	t.Helper()
	log := zaptest.NewLogger(t)
	b := &bench{t: t, file: filepath.Join(t.TempDir(), "desired.yaml"), sides: &fakeSides{}}
	b.write(desiredState)
	kinds := []desired.Kind{{Name: KindPair, New: func() proto.Message { return new(filesyncv1.Pair) }}}
	var err error
	if b.store, err = desired.Open(desired.Config{Service: "file-sync", Kinds: kinds, Path: b.file, StateDir: t.TempDir(), Log: log}); err != nil {
		t.Fatal(err)
	}
	if b.status, err = status.Open(status.Config{Service: "file-sync", Node: "server1", Log: log}); err != nil {
		t.Fatal(err)
	}
	b.loop = New(Config{Node: "server1", Store: b.store, Status: b.status, Sides: b.sides, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.store.Run(ctx) })
	wg.Go(func() { _ = b.loop.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return b
}

func (b *bench) write(text string) {
	b.t.Helper()
	temp := b.file + ".new"
	if err := errors.Join(os.WriteFile(temp, []byte(text), 0o600), os.Rename(temp, b.file)); err != nil {
		b.t.Fatal(err)
	}
}

// await waits for a status.
func (b *bench) await(what string, is func(*commonv1.Status) bool) *commonv1.Status {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	for s := range b.status.Subscribe(ctx) {
		if is(s) {
			return s
		}
	}
	b.t.Fatalf("waited in vain for %s; last %v", what, b.status.Latest())
	return nil
}

func outcome(want commonv1.Outcome) func(*commonv1.Status) bool {
	return func(s *commonv1.Status) bool { return s.GetOutcome() == want }
}

func TestLoop(t *testing.T) {
	t.Parallel()
	b := newBench(t, good)
	<-b.loop.First()
	s := b.await("the first pass", outcome(commonv1.Outcome_OUTCOME_DONE))
	if len(s.GetLastChanges()) != 1 || s.GetDesired().GetRevision() == 0 {
		t.Errorf("status %v", s)
	}

	// A wrong desired state changes nothing; what is in force stays.
	b.write(strings.Replace(good, "/web,", "web,", 1))
	s = b.await("the refusal", outcome(commonv1.Outcome_OUTCOME_INVALID))
	if v := s.GetDesired().GetViolations(); len(v) != 1 || v[0].GetField() != "pair/web.target.path" {
		t.Errorf("violations %v", v)
	}
	// Also when a side has ended meanwhile: it is started again as it was.
	b.sides.set(func() { b.sides.states = nil })
	if r, err := b.loop.Reconcile(t.Context()); err != nil || r.Outcome != commonv1.Outcome_OUTCOME_INVALID || len(r.Changes) != 1 {
		t.Errorf("reconcile: %+v, %v", r, err)
	}

	b.write(strings.Replace(good, "/web,", "/srv,", 1))
	b.await("the change", outcome(commonv1.Outcome_OUTCOME_DONE))
	if got, want := b.sides.String(), "start target web; release; start target web; stop target web; start target web"; got != want {
		t.Errorf("done:\n got  %s\n want %s", got, want)
	}
}

func TestTroubleIsReported(t *testing.T) {
	t.Parallel()
	b := newBench(t, good)
	b.await("the first pass", outcome(commonv1.Outcome_OUTCOME_DONE))
	b.sides.set(func() {
		b.sides.states[0].Error, b.sides.states[0].Held = "held: too much", true
		b.sides.states[0].Unowned = 3
	})
	if _, err := b.loop.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := b.await("the trouble", outcome(commonv1.Outcome_OUTCOME_RETRY))
	if !strings.Contains(s.GetError(), "target of pair web: held: too much") || !strings.Contains(strings.Join(s.GetNotes(), "\n"), "owners are not kept") {
		t.Errorf("status %v", s)
	}
}

func TestStartThatFailsIsRetried(t *testing.T) {
	t.Parallel()
	b := newBench(t, elsewhere)
	b.await("the first pass", outcome(commonv1.Outcome_OUTCOME_DONE))
	b.sides.set(func() { b.sides.fail = errors.New("address in use") })
	b.write(good)
	b.await("the failure", func(s *commonv1.Status) bool { return strings.Contains(s.GetError(), "address in use") })
	b.sides.set(func() { b.sides.fail = nil })
	b.await("success", outcome(commonv1.Outcome_OUTCOME_DONE))
}

func TestPreview(t *testing.T) {
	t.Parallel()
	b := newBench(t, elsewhere)
	b.await("the first pass", outcome(commonv1.Outcome_OUTCOME_DONE))
	now, _ := b.store.Newest()
	wanted := &filesyncv1.Pair{
		Name: "web", Source: &filesyncv1.Source{Node: "server2", Path: "/data"},
		Target: &filesyncv1.Target{Node: "server1", Path: "/web", Address: "172.16.0.88:8730", Allow: []string{"172.16.0.99"}},
	}
	changes, violations, err := b.loop.Preview(now.With(KindPair, wanted))
	if err != nil || len(violations) > 0 || len(changes) != 1 || !strings.HasPrefix(changes[0], "start target of pair web") {
		t.Errorf("preview: %q, %v, %v", changes, violations, err)
	}
	if b.sides.String() != "" {
		t.Errorf("a preview did: %s", b.sides)
	}
	wanted.Target.Path = ""
	if _, violations, _ := b.loop.Preview(now.With(KindPair, wanted)); len(violations) == 0 {
		t.Error("a wrong pair is not refused")
	}
}
