package verbs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/etcdtest"
	"github.com/twotier/twotier/services/internal/reconcile"
	reporter "github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/internal/verbs"
)

// loop wants every frontend's default backend to be there, and no backend called "bad".
type loop struct {
	err error // of the world
}

func (l *loop) Preview(s desired.Snapshot) (changes []string, violations []*commonv1.Violation, err error) {
	for _, o := range s.Objects {
		switch m := o.Message.(type) {
		case *routerv1.Backend:
			if strings.HasPrefix(m.Name, "bad") {
				violations = append(violations, &commonv1.Violation{Field: "backend/" + m.Name, Description: "bad"})
			}
		case *routerv1.Frontend:
			if !slices.ContainsFunc(s.Objects, func(o desired.Object) bool { return o.Kind == "backend" && o.Name == m.DefaultBackend }) {
				violations = append(violations, &commonv1.Violation{Field: "frontend/" + m.Name + ".default_backend", Description: "no backend " + m.DefaultBackend})
			}
		}
		changes = append(changes, "want "+o.Kind+" "+o.Name)
	}
	if len(violations) > 0 {
		return nil, violations, l.err
	}
	return changes, nil, l.err
}

func (l *loop) Reconcile(context.Context) (reconcile.Result, error) {
	return reconcile.Result{Outcome: commonv1.Outcome_OUTCOME_RETRY, Changes: []string{"a"}, Err: errors.New("in the way")}, nil
}

func open(t *testing.T, cfg desired.Config) *verbs.Verbs {
	t.Helper()
	cfg.Service = "l7-router"
	cfg.Kinds = []desired.Kind{
		{Name: "backend", New: func() proto.Message { return new(routerv1.Backend) }},
		{Name: "frontend", New: func() proto.Message { return new(routerv1.Frontend) }},
	}
	store, err := desired.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	status, err := reporter.Open(reporter.Config{Service: "l7-router", Node: "haproxy"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	limit := time.After(time.Minute)
	for {
		if _, read := store.Newest(); read && store.Describe(0, nil).SourceAvailable {
			break
		}
		select {
		case <-store.Changed():
		case <-limit:
			t.Fatal("the store did not start")
		}
	}
	return &verbs.Verbs{Store: store, Status: status, Loop: &loop{}}
}

func backend(name string) *routerv1.Object {
	return &routerv1.Object{Kind: &routerv1.Object_Backend{Backend: &routerv1.Backend{Name: name}}}
}

func frontend(name, to string) *routerv1.Object {
	return &routerv1.Object{Kind: &routerv1.Object_Frontend{Frontend: &routerv1.Frontend{Name: name, DefaultBackend: to}}}
}

func wantCode(t *testing.T, what string, err error, want codes.Code, words string) {
	t.Helper()
	if status.Code(err) != want || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("%s: %v, want %v with %q", what, err, want, words)
	}
}

func TestObjectsFromApplyToDelete(t *testing.T) {
	t.Parallel()
	v := open(t, desired.Config{Etcd: etcdtest.Start(t).Endpoints()})
	ctx := t.Context()

	for what, object := range map[string]*routerv1.Object{"nil": nil, "no kind": {}, "no name": backend(""), "slash": backend("a/b"), "umlaut": backend("ä")} {
		_, err := v.ApplyObject(ctx, object, "", false)
		wantCode(t, what, err, codes.InvalidArgument, "want")
	}
	_, err := v.ApplyObject(ctx, frontend("main", "web"), "", false)
	wantCode(t, "reference to nothing", err, codes.InvalidArgument, "frontend/main.default_backend: no backend web")
	if details := status.Convert(err).Details(); len(details) != 1 || details[0].(*errdetails.BadRequest).FieldViolations[0].Field != "frontend/main.default_backend" {
		t.Errorf("details: %v", details)
	}

	dry, err := v.ApplyObject(ctx, backend("web"), "", true)
	if err != nil || dry.Etag != "" || !slices.Equal(dry.Changes, []string{"want backend web"}) {
		t.Errorf("validate_only: %v %v", dry, err)
	}
	first, err := v.ApplyObject(ctx, backend("web"), "", false)
	if err != nil || first.Etag == "" {
		t.Fatalf("apply: %v %v", first, err)
	}
	// The second is judged together with the first, although nobody waited.
	if _, err := v.ApplyObject(ctx, frontend("main", "web"), "", false); err != nil {
		t.Fatal(err)
	}
	_, err = v.ApplyObject(ctx, backend("web"), "1", false)
	wantCode(t, "old etag", err, codes.Aborted, "etag")

	_, err = v.Delete(ctx, &commonv1.DeleteRequest{Kind: "backend", Name: "web"})
	wantCode(t, "delete what is needed", err, codes.InvalidArgument, "no backend web")
	_, err = v.Delete(ctx, &commonv1.DeleteRequest{Kind: "backend", Name: "other"})
	wantCode(t, "delete nothing", err, codes.NotFound, "")
	_, err = v.Delete(ctx, &commonv1.DeleteRequest{Kind: "backend", Name: "other", ValidateOnly: true})
	wantCode(t, "ask to delete nothing", err, codes.NotFound, "")
	_, err = v.Delete(ctx, &commonv1.DeleteRequest{Kind: "cake", Name: "a"})
	wantCode(t, "delete a cake", err, codes.InvalidArgument, "kind")
	gone, err := v.Delete(ctx, &commonv1.DeleteRequest{Kind: "frontend", Name: "main"})
	if err != nil || !slices.Equal(gone.Changes, []string{"want backend web"}) {
		t.Errorf("delete: %v %v", gone, err)
	}

	// When the world cannot be read, what is wanted can still be changed.
	v.Loop = &loop{err: errors.New("no kernel")}
	blind, err := v.ApplyObject(ctx, backend("b"), "", false)
	if err != nil || !slices.Equal(blind.Changes, []string{"not known yet: no kernel"}) {
		t.Errorf("blind: %v %v", blind, err)
	}
	_, err = v.PreviewObject(ctx, nil)
	wantCode(t, "preview blind", err, codes.Unavailable, "no kernel")
}

func TestBrokenStateCanBeMendedOneByOne(t *testing.T) {
	t.Parallel()
	v := open(t, desired.Config{Etcd: etcdtest.Start(t).Endpoints()})
	ctx := t.Context()
	for _, name := range []string{"bad1", "bad2"} { // past the verbs
		if _, err := v.Store.Put(ctx, "backend", &routerv1.Backend{Name: name}, ""); err != nil {
			t.Fatal(err)
		}
	}
	_, err := v.PreviewObject(ctx, nil)
	wantCode(t, "preview", err, codes.InvalidArgument, "backend/bad1")
	_, err = v.ApplyObject(ctx, backend("bad1"), "", false)
	wantCode(t, "the same again", err, codes.InvalidArgument, "backend/bad1")
	if _, err := v.ApplyObject(ctx, backend("good"), "", false); err != nil {
		t.Errorf("a good one beside: %v", err)
	}
	for _, name := range []string{"bad1", "bad2"} {
		if _, err := v.Delete(ctx, &commonv1.DeleteRequest{Kind: "backend", Name: name}); err != nil {
			t.Errorf("mend %s: %v", name, err)
		}
	}
	if _, err := v.PreviewObject(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestHistoryAlarmAtTheDoor(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	v := open(t, desired.Config{Etcd: e.Endpoints()})
	if _, err := v.ApplyObject(t.Context(), backend("a"), "", false); err != nil {
		t.Fatal(err)
	}
	e.Stop()
	for v.Store.Describe(0, nil).SourceAvailable {
		<-v.Store.Changed()
	}
	_, err := v.ApplyObject(t.Context(), backend("b"), "", false)
	wantCode(t, "apply while etcd is away", err, codes.Unavailable, "etcd")
	e.Wipe()
	e.Start()
	for v.Store.Describe(0, nil).HistoryAlarm == "" {
		<-v.Store.Changed()
	}
	_, err = v.ApplyObject(t.Context(), backend("b"), "", false)
	wantCode(t, "apply", err, codes.FailedPrecondition, "accept_new_history")
	_, err = v.Reconcile(t.Context(), &commonv1.ReconcileRequest{AcceptNewHistory: true})
	wantCode(t, "accept an empty etcd", err, codes.FailedPrecondition, "restore_desired")
	answer, err := v.Reconcile(t.Context(), &commonv1.ReconcileRequest{RestoreDesired: true})
	if err != nil || answer.Outcome != commonv1.Outcome_OUTCOME_RETRY || answer.Error != "in the way" || len(answer.Changes) != 1 {
		t.Errorf("reconcile: %v %v", answer, err)
	}
	if s, _ := v.Store.Newest(); len(s.Objects) != 1 || s.Objects[0].Name != "a" {
		t.Errorf("what was in force is not what rules: %v", s.Objects)
	}
	if alarm := v.Store.Describe(0, nil).HistoryAlarm; alarm != "" {
		t.Errorf("alarm: %s", alarm)
	}
}

func TestFilesAreReadOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.yaml")
	if err := os.WriteFile(path, []byte("kind: backend\nname: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := open(t, desired.Config{Path: path})
	_, err := v.ApplyObject(t.Context(), backend("b"), "", false)
	wantCode(t, "apply", err, codes.FailedPrecondition, path)
	if details := status.Convert(err).Details(); len(details) != 1 || details[0].(*errdetails.PreconditionFailure).Violations[0].Subject != path {
		t.Errorf("details: %v", details)
	}
	_, err = v.Delete(t.Context(), &commonv1.DeleteRequest{Kind: "backend", Name: "a"})
	wantCode(t, "delete", err, codes.FailedPrecondition, path)
	answer, err := v.PreviewObject(t.Context(), backend("b"))
	if err != nil || len(answer.Changes) != 2 {
		t.Errorf("preview: %v %v", answer, err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.yaml")
	text := "kind: frontend\nname: z\n---\nkind: backend\nname: c\n---\nkind: backend\nname: a\n---\nkind: backend\nname: b\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	v := open(t, desired.Config{Path: path})
	var pages []string
	for token, more := "", true; more; more = token != "" {
		var names []string
		var err error
		token, err = v.ListObjects(t.Context(), &commonv1.PageRequest{PageSize: 3, PageToken: token}, func(object func(proto.Message), _ string) {
			o := &routerv1.Object{}
			object(o)
			names = append(names, o.GetBackend().GetName()+o.GetFrontend().GetName())
		})
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, strings.Join(names, " "))
	}
	if !slices.Equal(pages, []string{"a b c", "z"}) {
		t.Errorf("pages: %q", pages)
	}
	for _, page := range []*commonv1.PageRequest{{PageSize: -1}, {PageSize: 501}, {PageToken: "!"}} {
		_, err := v.ListObjects(t.Context(), page, nil)
		wantCode(t, page.String(), err, codes.InvalidArgument, "page_")
	}
}
