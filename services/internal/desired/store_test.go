package desired_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/etcdtest"
)

const prefix = "/twotier/desired/l7-router/"

var kinds = []desired.Kind{
	{Name: "backend", New: func() proto.Message { return new(routerv1.Backend) }},
	{Name: "frontend", New: func() proto.Message { return new(routerv1.Frontend) }},
}

// world is a store that follows an etcd, as a service would have it.
type world struct {
	*desired.Store
	t    testing.TB
	stop func()
}

func follow(t testing.TB, endpoints []string, stateDir string) *world {
	t.Helper()
	store, err := desired.Open(desired.Config{
		Service: "l7-router", Kinds: kinds, Etcd: endpoints, StateDir: stateDir,
		Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	w := &world{Store: store, t: t}
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(w.stop)
	return w
}

// print is what the store says at present, for comparison.
func (w *world) print() string {
	snapshot, ok := w.Newest()
	if !ok {
		return "nothing yet"
	}
	words := []string{strings.TrimPrefix(snapshot.Origin.String(), "ORIGIN_")}
	for _, o := range snapshot.Objects {
		words = append(words, o.Kind+"/"+o.Name)
	}
	for _, v := range snapshot.Violations {
		words = append(words, "!"+v.Field)
	}
	d := w.Describe(0, nil)
	if !d.SourceAvailable {
		words = append(words, "away")
	}
	if d.HistoryAlarm != "" {
		words = append(words, "alarm")
	}
	return strings.Join(words, " ")
}

// await waits until the store says what is wanted.
func (w *world) await(want string) {
	w.t.Helper()
	limit := time.After(time.Minute)
	for w.print() != want {
		select {
		case <-w.Changed():
		case <-limit:
			w.t.Fatalf("the store says %q, want %q", w.print(), want)
		}
	}
}

// accept does what the loop does with a good snapshot.
func (w *world) accept() {
	w.t.Helper()
	snapshot, ok := w.Newest()
	if !ok {
		w.t.Fatal("nothing to accept")
	}
	if err := w.Accept(snapshot); err != nil {
		w.t.Fatal(err)
	}
}

// agree lets the etcd rule that was held off, as soon as it holds anything.
func (w *world) agree() {
	w.t.Helper()
	limit := time.After(time.Minute)
	for err := w.AcceptNewHistory(); err != nil; err = w.AcceptNewHistory() {
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			w.t.Fatal(err)
		}
	}
}

func (w *world) mustPut(name string) string {
	w.t.Helper()
	etag, err := w.Put(w.t.Context(), "backend", &routerv1.Backend{Name: name}, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return etag
}

func client(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the etcd may be gone already
	return c
}

func seed(t testing.TB, endpoints []string, names ...string) {
	t.Helper()
	c := client(t, endpoints)
	for _, name := range names {
		if _, err := c.Put(t.Context(), prefix+"backend/"+name, fmt.Sprintf(`{"name":%q}`, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func deleteAll(t testing.TB, endpoints []string) {
	t.Helper()
	if _, err := client(t, endpoints).Delete(t.Context(), prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
}

func TestWritesComeBackAsSnapshots(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	w := follow(t, e.Endpoints(), t.TempDir())
	w.await("ETCD") // an empty etcd at the first contact ever is simply empty

	first := w.mustPut("webservers")
	// Read your writes: no waiting here.
	if got := w.print(); got != "ETCD backend/webservers" {
		t.Fatalf("after Put: %s", got)
	}
	snapshot, _ := w.Newest()
	if snapshot.Objects[0].Etag != first || fmt.Sprint(snapshot.Revision) != first {
		t.Errorf("etag %s, revision %d, Put said %s", snapshot.Objects[0].Etag, snapshot.Revision, first)
	}

	ctx := t.Context()
	change := &routerv1.Backend{Name: "webservers", Balance: routerv1.Balance_BALANCE_ROUNDROBIN}
	second, err := w.Put(ctx, "backend", change, first)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		err  error
		want error
	}{
		{"put with an old etag", second3(w.Put(ctx, "backend", change, first)), desired.ErrConflict},
		{"put with nonsense as etag", second3(w.Put(ctx, "backend", change, "x")), desired.ErrConflict},
		{"put only if there is none", second3(w.Put(ctx, "backend", change, "0")), desired.ErrConflict},
		{"put of an unknown kind", second3(w.Put(ctx, "cake", change, "")), desired.ErrUnknownKind},
		{"put of too much", second3(w.Put(ctx, "frontend", &routerv1.Frontend{Name: "x", DefaultBackend: strings.Repeat("x", desired.MaxObject)}, "")), desired.ErrTooLarge},
		{"delete with an old etag", w.Delete(ctx, "backend", "webservers", first), desired.ErrConflict},
		{"delete of nothing", w.Delete(ctx, "backend", "nothing", ""), desired.ErrNotFound},
		{"delete of nothing, with etag", w.Delete(ctx, "backend", "nothing", first), desired.ErrNotFound},
		{"delete", w.Delete(ctx, "backend", "webservers", second), nil},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, test.err, test.want)
		}
	}
	if got := w.print(); got != "ETCD" {
		t.Errorf("after Delete: %s", got)
	}
}

func second3(_ string, err error) error { return err }

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	w := follow(t, e.Endpoints(), t.TempDir())
	w.await("ETCD")
	c := client(t, e.Endpoints())
	seed(t, e.Endpoints(), "good")
	for path, text := range map[string]string{
		"backend/broken":   "{",
		"backend/field":    `{"name":"field","colour":"red"}`,
		"backend/name":     `{"name":"other"}`,
		"cake/a":           `{"name":"a"}`,
		"backend/deep/key": `{"name":"deep/key"}`,
	} {
		if _, err := c.Put(t.Context(), prefix+path, text); err != nil {
			t.Fatal(err)
		}
	}
	w.await("ETCD backend/good !backend/broken !backend/deep/key !backend/field.colour !backend/name !cake/a")
	snapshot, _ := w.Newest()
	if got := snapshot.Violations[2].Description; got != `unknown field "colour"` {
		t.Errorf("description: %s", got)
	}
	// Mended one by one.
	if _, err := w.Put(t.Context(), "backend", &routerv1.Backend{Name: "broken"}, ""); err != nil {
		t.Fatal(err)
	}
	w.await("ETCD backend/broken backend/good !backend/deep/key !backend/field.colour !backend/name !cake/a")
}

func TestEtcdAwayChangesNothing(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	w := follow(t, e.Endpoints(), t.TempDir())
	w.await("ETCD")
	w.mustPut("a")
	e.Stop()
	w.await("ETCD backend/a away")
	if _, err := w.Put(t.Context(), "backend", &routerv1.Backend{Name: "b"}, ""); !errors.Is(err, desired.ErrUnavailable) {
		t.Errorf("Put: %v, want ErrUnavailable", err)
	}
	if err := w.Delete(t.Context(), "backend", "a", ""); !errors.Is(err, desired.ErrUnavailable) {
		t.Errorf("Delete: %v, want ErrUnavailable", err)
	}
	e.Start()
	w.await("ETCD backend/a")
	w.mustPut("b")
	w.await("ETCD backend/a backend/b")
}

func TestEtcdThatHangsIsNoticed(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	w := follow(t, e.Endpoints(), t.TempDir())
	w.await("ETCD")
	w.mustPut("a")
	e.Signal(syscall.SIGSTOP)
	w.await("ETCD backend/a away")
	e.Signal(syscall.SIGCONT)
	w.await("ETCD backend/a")
}

func TestDeletesInOneHistoryAreObeyed(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	door := newCut(t, e.Endpoints())
	w := follow(t, door.endpoints(), t.TempDir())
	w.await("ETCD")
	seed(t, e.Endpoints(), "a", "b")
	w.await("ETCD backend/a backend/b")
	deleteAll(t, e.Endpoints())
	w.await("ETCD")

	seed(t, e.Endpoints(), "c", "d")
	w.await("ETCD backend/c backend/d")
	door.cut()
	w.await("ETCD backend/c backend/d away")
	deleteAll(t, e.Endpoints())
	// The way back must not go through revisions that are gone.
	c := client(t, e.Endpoints())
	answer, err := c.Get(t.Context(), prefix)
	if err == nil {
		_, err = c.Compact(t.Context(), answer.Header.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	door.mend()
	w.await("ETCD")
}

func TestDeletesWhileTheServiceWasDownAreObeyed(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	dir := t.TempDir()
	w := follow(t, e.Endpoints(), dir)
	seed(t, e.Endpoints(), "a", "b")
	w.await("ETCD backend/a backend/b")
	w.accept()
	w.stop()
	deleteAll(t, e.Endpoints())
	follow(t, e.Endpoints(), dir).await("ETCD")
}

func TestWipedEtcdIsHeldOff(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		forget func(*etcdtest.Etcd)
		names  []string // what the new one holds
		after  string   // what rules once it is accepted
	}{
		{"wiped and empty, same cluster id", (*etcdtest.Etcd).Wipe, nil, "ETCD"},
		{"wiped and seeded past the old revision", (*etcdtest.Etcd).Wipe, []string{"x", "y", "z", "u", "v", "w"}, "ETCD backend/u backend/v backend/w backend/x backend/y backend/z"},
		{"another cluster", (*etcdtest.Etcd).Replace, []string{"a", "b"}, "ETCD backend/a backend/b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t)
			door := newCut(t, e.Endpoints())
			dir := t.TempDir()
			w := follow(t, door.endpoints(), dir)
			seed(t, e.Endpoints(), "a", "b")
			w.await("ETCD backend/a backend/b")
			w.accept()
			door.cut()
			e.Stop()
			test.forget(e)
			e.Start()
			seed(t, e.Endpoints(), test.names...)
			door.mend()

			w.await("ETCD backend/a backend/b alarm")
			if _, err := w.Put(t.Context(), "backend", &routerv1.Backend{Name: "c"}, ""); !errors.Is(err, desired.ErrHistory) {
				t.Errorf("Put: %v, want ErrHistory", err)
			}
			if err := w.Delete(t.Context(), "backend", "a", ""); !errors.Is(err, desired.ErrHistory) {
				t.Errorf("Delete: %v, want ErrHistory", err)
			}

			// Nor does it rule because the service is started again.
			w.stop()
			w = follow(t, door.endpoints(), dir)
			w.await("LAST_GOOD backend/a backend/b alarm")
			if snapshot := w.awaitSnapshot(); snapshot.Origin != commonv1.Origin_ORIGIN_LAST_GOOD || len(snapshot.Objects) != 2 {
				t.Errorf("the loop gets %v, want the copy", snapshot)
			}

			// What happens there while it is held off counts once it rules.
			seed(t, e.Endpoints(), "late")
			deleteLate := client(t, e.Endpoints())
			w.agree()
			w.awaitPrefix(test.after, "backend/late")
			if _, err := deleteLate.Delete(t.Context(), prefix+"backend/late"); err != nil {
				t.Fatal(err)
			}
			w.await(test.after)
			w.accept()
			w.mustPut("a")

			// From then on it is the one that is known.
			w.stop()
			w = follow(t, door.endpoints(), dir)
			for w.print() == "nothing yet" || strings.HasPrefix(w.print(), "LAST_GOOD") {
				<-w.Changed()
			}
			if d := w.Describe(0, nil); d.HistoryAlarm != "" {
				t.Errorf("alarm again: %s", d.HistoryAlarm)
			}
		})
	}
}

// awaitPrefix waits until the print has everything of want and the word more.
func (w *world) awaitPrefix(want, more string) {
	w.t.Helper()
	limit := time.After(time.Minute)
	for {
		print := w.print()
		rest := strings.Replace(print, " "+more, "", 1)
		if rest == want && rest != print {
			return
		}
		select {
		case <-w.Changed():
		case <-limit:
			w.t.Fatalf("the store says %q, want %q and %s", w.print(), want, more)
		}
	}
}

// An etcd that was restored from a backup has forgotten what came after it: that is no order to undo it.
func TestRestoredEtcdIsHeldOff(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	w := follow(t, e.Endpoints(), t.TempDir())
	seed(t, e.Endpoints(), "a", "b")
	w.await("ETCD backend/a backend/b")
	backup := e.Save()
	w.mustPut("c")
	if err := w.Delete(t.Context(), "backend", "a", ""); err != nil {
		t.Fatal(err)
	}
	w.await("ETCD backend/b backend/c")
	w.accept()

	e.Stop()
	w.await("ETCD backend/b backend/c away")
	e.Restore(backup)
	e.Start()
	w.await("ETCD backend/b backend/c alarm")
	w.agree()
	w.await("ETCD backend/a backend/b")
}

// What is in force can be written back into an etcd that came back empty; letting it rule as it is would take everything
// away, and is refused.
func TestDesiredStateIsRestored(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	dir := t.TempDir()
	one, two := follow(t, e.Endpoints(), dir), follow(t, e.Endpoints(), t.TempDir())
	seed(t, e.Endpoints(), "a", "b")
	for _, w := range []*world{one, two} {
		w.await("ETCD backend/a backend/b")
		w.accept()
	}
	e.Stop()
	e.Wipe()
	e.Start()
	for _, w := range []*world{one, two} {
		w.await("ETCD backend/a backend/b alarm")
		if err := w.AcceptNewHistory(); !errors.Is(err, desired.ErrEmptyHistory) {
			t.Errorf("accept an empty etcd: %v, want ErrEmptyHistory", err)
		}
	}
	// Also by a service that was started since, and by all of its nodes.
	one.stop()
	one = follow(t, e.Endpoints(), dir)
	one.await("LAST_GOOD backend/a backend/b alarm")
	for _, w := range []*world{one, two} {
		if err := w.RestoreDesired(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.await("ETCD backend/a backend/b")
	}
	one.mustPut("c")
	two.await("ETCD backend/a backend/b backend/c")
}

func TestNobodyAgreesInAdvance(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	w := follow(t, e.Endpoints(), t.TempDir())
	seed(t, e.Endpoints(), "a")
	w.await("ETCD backend/a")
	w.agree() // no alarm: nothing to accept
	e.Stop()
	w.await("ETCD backend/a away")
	w.agree()
	e.Wipe()
	e.Start()
	w.await("ETCD backend/a alarm")
}

func TestServiceStartsWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	dir := t.TempDir()
	w := follow(t, e.Endpoints(), dir)
	w.await("ETCD")
	w.mustPut("a")
	w.accept()
	w.mustPut("never-accepted")
	w.stop()
	e.Stop()

	w = follow(t, e.Endpoints(), dir)
	w.await("LAST_GOOD backend/a away")
	if snapshot, ok := w.Snapshot(); ok {
		t.Errorf("the loop does not wait for the source: it gets %v", snapshot)
	}
	snapshot := w.awaitSnapshot()
	if snapshot.Origin != commonv1.Origin_ORIGIN_LAST_GOOD {
		t.Errorf("the loop gets %v", snapshot)
	}
	if err := w.Accept(snapshot); err != nil {
		t.Error(err)
	}
	if d := w.Describe(snapshot.Revision, nil); d.Origin != commonv1.Origin_ORIGIN_LAST_GOOD || d.SourceAvailable {
		t.Errorf("status: %v", d)
	}
	e.Start()
	w.await("ETCD backend/a backend/never-accepted")
}

func TestServiceStartsWithNothingAtAll(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	e.Stop()
	w := follow(t, e.Endpoints(), t.TempDir())
	if snapshot, ok := w.Snapshot(); ok {
		t.Errorf("a snapshot out of nowhere: %v", snapshot)
	}
	e.Start()
	w.await("ETCD")
}

// What has been deleted while the service was down must not come back, not even for one pass.
func TestLoopNeverSeesTheCopyWhenTheSourceAnswers(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	dir := t.TempDir()
	w := follow(t, e.Endpoints(), dir)
	w.await("ETCD")
	w.mustPut("a")
	w.accept()
	w.stop()
	deleteAll(t, e.Endpoints())
	seed(t, e.Endpoints(), "b")

	w = follow(t, e.Endpoints(), dir)
	if first := w.awaitSnapshot(); first.Origin != commonv1.Origin_ORIGIN_ETCD || len(first.Objects) != 1 || first.Objects[0].Name != "b" {
		t.Errorf("the loop gets %v first, want what etcd holds", first)
	}
}

// awaitSnapshot waits, as the loop does, until there is something to go by.
func (w *world) awaitSnapshot() desired.Snapshot {
	w.t.Helper()
	limit := time.After(time.Minute)
	for {
		if snapshot, ok := w.Snapshot(); ok {
			return snapshot
		}
		select {
		case <-w.Changed():
		case <-limit:
			w.t.Fatal("no snapshot")
		}
	}
}

func TestLoopGetsTheLastGoodCopyWhenTheNewestIsWrong(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	dir := t.TempDir()
	w := follow(t, e.Endpoints(), dir)
	w.await("ETCD")
	w.mustPut("a")
	w.accept()
	w.stop()
	// While the service is down, somebody breaks the desired state by hand.
	if _, err := client(t, e.Endpoints()).Put(t.Context(), prefix+"backend/a", "{"); err != nil {
		t.Fatal(err)
	}
	w = follow(t, e.Endpoints(), dir)
	w.await("ETCD !backend/a")
	newest := w.awaitSnapshot()
	if len(newest.Violations) != 1 {
		t.Fatalf("first: %v, want what is wrong now", newest)
	}
	w.Describe(0, newest.Violations) // the loop reports
	<-w.Changed()
	good := w.awaitSnapshot()
	if len(good.Objects) != 1 || len(good.Violations) != 0 {
		t.Fatalf("then: %v; want the copy with backend/a", good)
	}
	<-w.Changed() // tells the loop that there is more
	if newest, _ = w.Snapshot(); len(newest.Violations) != 1 {
		t.Errorf("at last: %v, want what is wrong now", newest)
	}
	if d := w.Describe(good.Revision, newest.Violations); d.Origin != commonv1.Origin_ORIGIN_LAST_GOOD || d.SeenRevision <= d.Revision || !d.SourceAvailable {
		t.Errorf("status: %v", d)
	}
	if again, _ := w.Snapshot(); len(again.Violations) != 1 {
		t.Errorf("after that: %v, want no copy any more", again)
	}
}

func TestCopyOnDisk(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	dir := filepath.Join(t.TempDir(), "state")
	w := follow(t, e.Endpoints(), dir)
	w.await("ETCD")
	w.mustPut("a")
	w.accept()
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, "l7-router-desired.json"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", filepath.Base(path), info.Mode(), want)
		}
	}
	w.stop()
	// One that cannot be used does not keep the service from starting.
	if err := os.WriteFile(filepath.Join(dir, "l7-router-desired.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet, err := desired.Open(desired.Config{Service: "l7-router", Kinds: kinds, Etcd: e.Endpoints(), StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := quiet.Snapshot(); ok {
		t.Error("a snapshot out of a broken copy")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := quiet.Run(ctx); err != nil {
		t.Error(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(files) > 0 {
		t.Errorf("left over: %v %v", files, err)
	}
}
