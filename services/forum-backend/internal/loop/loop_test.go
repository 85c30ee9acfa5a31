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

	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/loop"
	"github.com/twotier/twotier/services/forum-backend/internal/plan"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/status"
)

// world does what it is told and remembers it.
type world struct {
	mu       sync.Mutex // over all below
	have     plan.Have
	database bool  // answers
	unseen   error // of Observe
	done     []string
}

func (w *world) Observe(context.Context, spec.Want) (plan.Have, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.have
	have.LatestSchema = 1
	if !w.database {
		have.Schema, have.Installed = 0, false
	}
	return have, w.unseen
}

func (w *world) Apply(_ context.Context, c plan.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := c.Site
	switch c.Kind {
	case plan.StopServing:
		w.have.Serving = ""
	case plan.UseKey:
		w.have.KeyFile, w.have.Lifetime = s.KeyFile, s.Lifetime
	case plan.UseDatabase:
		w.have.Database = s.Database
	case plan.UseSettings:
		w.have.Title, w.have.MaxUploadBytes = s.Title, s.MaxUploadBytes
	case plan.Serve:
		w.have.Serving = s.Self.Address
	case plan.UseFiles:
		w.have.FilesPath, w.have.Origin, w.have.IsOrigin = s.Self.FilesPath, s.Origin, s.IsOrigin()
	case plan.EnsureTables:
		if !w.database {
			return errors.New("the database is away")
		}
		w.have.Schema = 1
	}
	w.done = append(w.done, c.String())
	return nil
}

// change changes the world, and prints and forgets what was done before.
func (w *world) change(how func()) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := strings.Join(w.done, "\n")
	w.done = nil
	how()
	return done
}

const site = `kind: site
name: forum
title: %s
database: {address: "db:3306", name: discuz, user: discuz, password_file: /db}
session: {key_file: /key}
servers: [{node: server2, address: "127.0.0.1:80", files_path: /data, upload_origin: true}]
`

func TestPass(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "site.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf(site, "One"))
	log := zaptest.NewLogger(t)
	store, err := desired.Open(desired.Config{
		Service: "forum-backend", Path: file, StateDir: t.TempDir(), Log: log,
		Kinds: []desired.Kind{{Name: "site", New: func() proto.Message { return new(forumv1.Site) }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	reporter, err := status.Open(status.Config{Service: "forum-backend", Node: "server2", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{}
	l := loop.New(loop.Config{Node: "server2", Store: store, Status: reporter, World: w, Log: log})

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- store.Run(ctx) }()
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("ended with %v", err)
			}
		}
	})
	statuses := reporter.Subscribe(ctx)
	await := func(what string, good func(*commonv1.Status) bool) *commonv1.Status {
		t.Helper()
		for s := range statuses {
			if good(s) {
				return s
			}
		}
		t.Fatalf("never: %s", what)
		return nil
	}

	is := func(o commonv1.Outcome, title string) func(*commonv1.Status) bool {
		return func(s *commonv1.Status) bool {
			return s.GetOutcome() == o && strings.Contains(strings.Join(s.GetLastChanges(), " "), title)
		}
	}

	// The database is away: pages are served all the same, and the pass is tried again.
	s := await("RETRY", is(commonv1.Outcome_OUTCOME_RETRY, "One"))
	if !strings.Contains(s.GetError(), "the database is away") || s.GetDesired().GetRevision() == 0 {
		t.Errorf("database away: got %v", s)
	}
	done := w.change(func() { w.database = true })
	if want := `take the session key from /key, logins last 720h0m0s
use database discuz at db:3306 as discuz
set title "One", uploads to 16777216 bytes
serve on 127.0.0.1:80
keep files under /data as the upload origin`; done != want {
		t.Errorf("got\n%s\nwant\n%s", done, want)
	}
	await("DONE", is(commonv1.Outcome_OUTCOME_DONE, "ensure tables"))

	// A wrong state is reported; the last good one stays in force, and is kept so.
	done = w.change(func() { w.have.Title = "changed behind our back" })
	if want := "ensure tables of version 1 in database discuz"; done != want {
		t.Errorf("got %q, want %q", done, want)
	}
	write(fmt.Sprintf(site, strings.Repeat("x", 81)))
	s = await("INVALID", is(commonv1.Outcome_OUTCOME_INVALID, "One"))
	if v := s.GetDesired().GetViolations(); len(v) != 1 || v[0].GetField() != "site/forum.title" {
		t.Errorf("violations: got %v", v)
	}

	write(fmt.Sprintf(site, "Two"))
	await("DONE with Two", is(commonv1.Outcome_OUTCOME_DONE, "Two"))
	w.change(func() { w.unseen = errors.New("the key cannot be read") })
	result, err := l.Reconcile(ctx)
	if err != nil || result.Outcome != commonv1.Outcome_OUTCOME_UNKNOWN || len(result.Changes) != 0 {
		t.Errorf("world that cannot be seen: got %+v %v, want UNKNOWN", result, err)
	}
	w.change(func() { w.unseen = nil })

	// Preview changes nothing.
	now, _ := store.Newest()
	next := proto.CloneOf(now.Objects[0].Message.(*forumv1.Site))
	next.Title = "Three"
	changes, violations, err := l.Preview(now.With("site", next))
	if got := strings.Join(changes, "\n"); err != nil || violations != nil || got != `set title "Three", uploads to 16777216 bytes` {
		t.Errorf("preview: got %q %v %v", got, violations, err)
	}
	next.Title = strings.Repeat("x", 81)
	if _, violations, err := l.Preview(now.With("site", next)); err != nil || len(violations) != 1 {
		t.Errorf("preview of a wrong state: got %v %v", violations, err)
	}
	if done := w.change(func() {}); done != "" && done != `set title "Two", uploads to 16777216 bytes` {
		t.Errorf("preview changed the world: %s", done)
	}
}
