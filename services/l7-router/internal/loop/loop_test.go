package loop_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/l7-router/internal/loop"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// fakePlane does what it is told, unless a change's line starts with refuse.
type fakePlane struct {
	mu     sync.Mutex
	have   plan.Have
	refuse string
}

func (f *fakePlane) Observe() plan.Have {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have
}

func (f *fakePlane) Do(_ context.Context, c plan.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != "" && strings.HasPrefix(c.String(), f.refuse) {
		return errors.New("refused: " + c.String())
	}
	switch c.Action {
	case plan.SetBackend:
		f.have.Backends = []spec.Backend{c.Backend}
	case plan.SetFrontend:
		f.have.Frontends = []spec.Frontend{c.Frontend}
	case plan.Listen:
		f.have.Listeners = append(f.have.Listeners, plan.Listener{Address: c.Address, Frontend: c.Name, TLS: c.TLS, Streams: c.Streams})
	}
	return nil
}

func (f *fakePlane) setRefuse(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = line
}

type stage struct {
	t       *testing.T
	file    string
	plane   *fakePlane
	loop    *loop.Loop
	status  *status.Reporter
	store   *desired.Store
	logs    *observer.ObservedLogs
	mu      sync.Mutex
	serving bool
}

const good = `
kind: backend
name: web
servers: [{name: s1, address: "192.0.2.1:80"}]
---
kind: frontend
name: main
bind: ["*:80"]
default_backend: web
`

func newStage(t *testing.T, content string) *stage {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	s := &stage{t: t, file: filepath.Join(t.TempDir(), "desired.yaml"), plane: &fakePlane{}, logs: logs}
	s.write(content)
	var err error
	s.store, err = desired.Open(desired.Config{Service: "l7-router", Kinds: loop.Kinds(), Path: s.file, StateDir: t.TempDir(), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s.status, err = status.Open(status.Config{Service: "l7-router", Node: "here", Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s.loop = loop.New(loop.Config{Store: s.store, Status: s.status, Plane: s.plane, Log: zap.New(core), Serving: func(ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.serving = ok
	}})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = s.store.Run(ctx) })
	group.Go(func() { _ = s.loop.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
		if s.isServing() {
			t.Error("still serving after the end")
		}
	})
	return s
}

// write replaces the file in one step, as an editor does.
func (s *stage) write(content string) {
	s.t.Helper()
	if err := os.WriteFile(s.file+".new", []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.file+".new", s.file); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) isServing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serving
}

// await waits for a status that fits.
func (s *stage) await(what string, fits func(*commonv1.Status) bool) *commonv1.Status {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var last *commonv1.Status
	for latest := range s.status.Subscribe(ctx) {
		last = latest
		if fits(latest) {
			return latest
		}
	}
	s.t.Fatalf("%s: not reached, last status %v", what, last)
	return nil
}

func outcome(want commonv1.Outcome) func(*commonv1.Status) bool {
	return func(s *commonv1.Status) bool { return s.GetOutcome() == want }
}

func TestLastGoodStaysInForce(t *testing.T) {
	t.Parallel()
	s := newStage(t, good)
	done := s.await("first state", outcome(commonv1.Outcome_OUTCOME_DONE))
	want := []string{"add backend web with s1 192.0.2.1:80", "add frontend main", "listen on *:80 for main"}
	if fmt.Sprint(done.GetLastChanges()) != fmt.Sprint(want) || !s.isServing() {
		t.Errorf("changes %q serving %t, want %q and serving", done.GetLastChanges(), s.isServing(), want)
	}

	s.write(strings.Replace(good, "default_backend: web", "default_backend: nobody", 1))
	bad := s.await("wrong state", outcome(commonv1.Outcome_OUTCOME_INVALID))
	violations := bad.GetDesired().GetViolations()
	if len(violations) != 1 || violations[0].GetField() != "frontend/main.default_backend" {
		t.Errorf("violations %v, want one at frontend/main.default_backend", violations)
	}
	if warned := s.logs.FilterMessage("pass did not end well").All(); len(warned) == 0 || !strings.Contains(fmt.Sprint(warned[0].ContextMap()["error"]), "frontend/main.default_backend") {
		t.Errorf("warned of %v, want of frontend/main.default_backend", warned)
	}
	if have := s.plane.Observe(); have.Frontends[0].DefaultBackend != "web" || !s.isServing() {
		t.Errorf("in force: %+v serving %t, want the state before", have.Frontends, s.isServing())
	}

	s.write(strings.Replace(good, "192.0.2.1", "192.0.2.2", 1))
	mended := s.await("mended state", outcome(commonv1.Outcome_OUTCOME_DONE))
	if got := fmt.Sprint(mended.GetLastChanges()); got != "[change backend web: change server s1]" {
		t.Errorf("changes %s", got)
	}
}

func TestAddressThatCannotBeBound(t *testing.T) {
	t.Parallel()
	s := newStage(t, good)
	s.await("first state", outcome(commonv1.Outcome_OUTCOME_DONE))
	s.plane.setRefuse("listen on *:81")
	s.write(strings.Replace(good, `"*:80"`, `"*:80", "*:81"`, 1))
	failed := s.await("an address in use", outcome(commonv1.Outcome_OUTCOME_RETRY))
	if s.isServing() || !strings.Contains(failed.GetError(), "listen on *:81") {
		t.Errorf("serving %t error %q, want not serving and the address", s.isServing(), failed.GetError())
	}
	s.plane.setRefuse("")
	s.await("free again", outcome(commonv1.Outcome_OUTCOME_DONE)) // by itself: it is tried again
	if !s.isServing() {
		t.Error("not serving although everything is bound")
	}
}

// TestServing holds that whatever is spoken at an address counts as served.
func TestServing(t *testing.T) {
	for name, content := range map[string]string{
		"HTTP/1.1":           good,
		"TLS":                good + "bind_tls: [\"*:443\"]\ntls: { certificates: [{ cert_file: /c, key_file: /k }] }\n",
		"HTTP/2":             good + "http2: { cleartext: true }\n",
		"HTTP/2 and TLS":     good + "bind_tls: [\"*:443\"]\ntls: { certificates: [{ cert_file: /c, key_file: /k }] }\nhttp2: { cleartext: true }\n",
		"HTTP/2 to a server": strings.Replace(good, "servers:", "protocol: PROTOCOL_H2C\nservers:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, content)
			s.await("the pass", outcome(commonv1.Outcome_OUTCOME_DONE))
			if !s.isServing() {
				t.Error("not serving")
			}
		})
	}
}

func TestPreviewChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, good)
	s.await("first state", outcome(commonv1.Outcome_OUTCOME_DONE))
	snapshot, _ := s.store.Newest()
	backend := &routerv1.Backend{Name: "more", Servers: []*routerv1.Server{{Name: "s", Address: "192.0.2.9:80"}}}
	changes, violations, err := s.loop.Preview(snapshot.With("backend", proto.Message(backend)))
	if fmt.Sprint(changes) != "[add backend more with s 192.0.2.9:80]" || len(violations) > 0 || err != nil {
		t.Errorf("got %v %v %v", changes, violations, err)
	}
	_, violations, _ = s.loop.Preview(snapshot.Without("backend", "web"))
	if len(violations) != 1 || violations[0].GetField() != "frontend/main.default_backend" {
		t.Errorf("without the backend: %v, want one violation", violations)
	}
	if have := s.plane.Observe(); len(have.Backends) != 1 || have.Backends[0].Name != "web" {
		t.Errorf("preview changed the world: %+v", have.Backends)
	}
}
