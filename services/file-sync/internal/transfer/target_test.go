package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// fakeFolder is a target folder that notes what is done to it.
type fakeFolder struct {
	members tree.Snapshot
	full    bool // every write fails

	mu   sync.Mutex
	done []string
}

var errFull = errors.New("no space left on device")

func (f *fakeFolder) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, fmt.Sprintf(format, args...))
	return nil
}

func (f *fakeFolder) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.done, "; ")
}

func (f *fakeFolder) Scan(context.Context) (tree.Snapshot, error) { return f.members, nil }
func (f *fakeFolder) Rules() tree.Rules                           { return tree.Rules{} }
func (f *fakeFolder) Remove(path string) error                    { return f.note("remove %s", path) }
func (f *fakeFolder) Dir(e tree.Entry, final bool) error          { return f.note("dir %s %v", e.Path, final) }
func (f *fakeFolder) Symlink(e tree.Entry) error                  { return f.note("symlink %s", e.Path) }
func (f *fakeFolder) Check() error                                { return nil }
func (f *fakeFolder) Unowned() uint64                             { return 0 }
func (f *fakeFolder) Close() error                                { return nil }
func (f *fakeFolder) Meta(e tree.Entry) error {
	if e.Path == "stale" {
		return tree.ErrStale
	}
	return f.note("meta %s", e.Path)
}
func (f *fakeFolder) Create(e tree.Entry) (Incoming, error) { return &fakeFile{f, e.Path}, nil }

type fakeFile struct {
	f    *fakeFolder
	path string
}

func (t *fakeFile) Write(p []byte) (int, error) {
	if t.f.full {
		return 0, errFull
	}
	return len(p), t.f.note("write %s %q", t.path, p)
}
func (t *fakeFile) Commit([32]byte) error { return t.f.note("commit %s", t.path) }
func (t *fakeFile) Abort() error          { return t.f.note("abort %s", t.path) }

// serveFake runs a target with a fake folder and returns a connection on which a greeting was exchanged.
func serveFake(t *testing.T, f *fakeFolder) (*Target, *conn) {
	t.Helper()
	tgt, err := NewTarget(t.Context(), TargetConfig{
		Pair: spec.Pair{
			Name: "web", Source: spec.End{Node: "server2"}, Target: spec.End{Node: "server1"},
			Address: netip.MustParseAddrPort("127.0.0.1:0"),
		},
		Open:    func(string) (Folder, error) { return f, nil },
		Brake:   tree.Brake{MinEntries: 4},
		Changed: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tgt.Run(ctx) // the end of the context
	}()
	t.Cleanup(func() { cancel(); <-done })
	return tgt, greeted(t, tgt)
}

func dialTarget(t *testing.T, tgt *Target) *conn {
	t.Helper()
	c, err := net.Dial("tcp", tgt.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return newConn(c)
}

func greeted(t *testing.T, tgt *Target) *conn {
	t.Helper()
	c := dialTarget(t, tgt)
	exchange(t, c, hello{Version, "web", "server2"}, welcome{})
	return c
}

// exchange sends a message and wants an answer; beats in between do not count.
func exchange(t *testing.T, c *conn, m, want message) {
	t.Helper()
	if err := c.send(m); err != nil {
		t.Fatal(err)
	}
	expect(t, c, want)
}

func expect(t *testing.T, c *conn, want message) {
	t.Helper()
	for {
		got, err := c.read(ioTimeout)
		if err != nil {
			t.Fatalf("got %v, want %#v", err, want)
		}
		if _, ok := got.(pong); ok {
			continue
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Fatalf("got %#v, want %#v", got, want)
		}
		return
	}
}

var (
	aRoot = tree.Entry{Path: tree.Root, Type: tree.Dir}
	aDir  = tree.Entry{Path: "d", Type: tree.Dir}
	aFile = tree.Entry{Path: "d/f", Type: tree.File, Size: 3}
)

func TestTargetCompares(t *testing.T) {
	t.Parallel()
	f := &fakeFolder{members: tree.Snapshot{aRoot, {Path: "old", Type: tree.File}}}
	_, c := serveFake(t, f)
	if err := c.write(entries{[]tree.Entry{aRoot, aDir, aFile}}); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, listed{}, need{[]string{"d/f"}})
	expect(t, c, compared{1})
	for _, m := range []message{fileBegin{1, aFile}, content{[]byte("ab")}, content{[]byte("c")}} {
		if err := c.write(m); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, c, fileEnd{good: true}, ack{seq: 1})
	exchange(t, c, finish{2}, ack{seq: 2})
	exchange(t, c, put{seq: 3, entry: tree.Entry{Path: "stale", Type: tree.File}}, ack{seq: 3, result: resultStale})
	if err := c.write(fileBegin{4, aFile}); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, fileEnd{}, ack{seq: 4})
	want := `remove old; dir d false; write d/f "ab"; write d/f "c"; commit d/f; dir d true; dir . true; abort d/f`
	if f.String() != want {
		t.Errorf("done:\n got  %s\n want %s", f, want)
	}
}

func TestTargetWithoutRoom(t *testing.T) {
	t.Parallel()
	f := &fakeFolder{members: tree.Snapshot{aRoot}, full: true}
	_, c := serveFake(t, f)
	for _, m := range []message{fileBegin{1, aFile}, content{[]byte("ab")}, content{[]byte("c")}} {
		if err := c.write(m); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, c, fileEnd{good: true}, ack{seq: 1, result: resultError, text: errFull.Error()})
	if f.String() != "abort d/f" {
		t.Errorf("done: %s", f)
	}
}

func TestTargetHolds(t *testing.T) {
	t.Parallel()
	f := &fakeFolder{members: tree.Snapshot{aRoot}}
	for i := range 5 {
		f.members = append(f.members, tree.Entry{Path: fmt.Sprint(i), Type: tree.File})
	}
	tgt, c := serveFake(t, f)
	list := func(members ...tree.Entry) {
		t.Helper()
		if err := c.send(entries{members}); err != nil {
			t.Fatal(err)
		}
	}
	list(aRoot, f.members[1])
	exchange(t, c, listed{}, held{4, 5})
	if st := tgt.State(); !st.Held || !strings.Contains(st.Error, "delete 4 of 5") {
		t.Errorf("state %+v", st)
	}
	tgt.Release()
	expect(t, c, released{})
	// Released were 4. The source has lost another meanwhile: that takes another agreement.
	list(aRoot)
	exchange(t, c, listed{}, held{5, 5})
	tgt.Release()
	expect(t, c, released{})
	list(aRoot)
	exchange(t, c, listed{}, compared{5})
	if st := tgt.State(); st.Held || st.Error != "" || st.Deletes != 5 {
		t.Errorf("state %+v", st)
	}
	// The agreement is used up; but what the source has watched being deleted needs none.
	list(aRoot)
	exchange(t, c, listed{}, held{5, 5})
	list(aRoot)
	exchange(t, c, listed{watched: true}, compared{5})
}

func TestTargetHangsUpOn(t *testing.T) {
	t.Parallel()
	for name, messages := range map[string][]message{
		"a target's message":            {compared{1}},
		"content outside a file":        {content{[]byte("x")}},
		"more content than announced":   {fileBegin{1, aFile}, content{[]byte("abcd")}},
		"a list inside a file":          {fileBegin{1, aFile}, entries{[]tree.Entry{aRoot}}},
		"a list without the root":       {entries{[]tree.Entry{aDir}}, listed{}},
		"an empty list":                 {listed{}},
		"a list out of order":           {entries{[]tree.Entry{aRoot, aFile, aDir}}, listed{}},
		"a list with a path twice":      {entries{[]tree.Entry{aRoot, aDir, aDir}}, listed{}},
		"a list with what is not there": {entries{[]tree.Entry{aRoot, tree.Gone("x")}}, listed{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeFolder{members: tree.Snapshot{aRoot, {Path: "keep", Type: tree.File}}}
			_, c := serveFake(t, f)
			for _, m := range messages {
				if err := c.send(m); err != nil {
					break // hung up already
				}
			}
			for {
				m, err := c.read(ioTimeout)
				if err != nil {
					break
				}
				if _, ok := m.(pong); !ok {
					t.Fatalf("got %#v, want the end", m)
				}
			}
			if done := f.String(); strings.Contains(done, "remove") || strings.Contains(done, "commit") {
				t.Errorf("done: %s", done)
			}
		})
	}
}

func TestTargetRefusesGreeting(t *testing.T) {
	t.Parallel()
	tgt, _ := serveFake(t, &fakeFolder{members: tree.Snapshot{aRoot}})
	for _, m := range []message{
		hello{Version + 1, "web", "server2"},
		hello{Version, "other", "server2"},
		hello{Version, "web", "haproxy"},
		ping{},
	} {
		c := dialTarget(t, tgt)
		if err := c.send(m); err != nil {
			t.Fatal(err)
		}
		if got, err := c.read(ioTimeout); err != nil || got.kind() != kindRefuse {
			t.Errorf("%#v: got %#v, %v; want to be refused", m, got, err)
		}
	}
}

// A connection that hangs does not lock its source out: the newest lives.
func TestNewestConnectionLives(t *testing.T) {
	t.Parallel()
	tgt, old := serveFake(t, &fakeFolder{members: tree.Snapshot{aRoot}})
	c := greeted(t, tgt)
	exchange(t, c, put{seq: 1, entry: aDir}, ack{seq: 1})
	for {
		if _, err := old.read(time.Minute); err != nil {
			break // hung up on
		}
	}
	if !tgt.State().Connected {
		t.Error("the end of the old connection counts for the new one")
	}
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	tgt, _ := serveFake(t, &fakeFolder{members: tree.Snapshot{aRoot}})
	first := dialTarget(t, tgt)
	for range maxPeers + 1 {
		dialTarget(t, tgt) // says nothing either
	}
	greeted(t, tgt) // the source is not kept out
	if m, err := first.read(time.Minute); err == nil {
		t.Errorf("got %#v, want the end", m)
	}
	if got := tgt.State().Refused; got != 3 {
		t.Errorf("%d were refused, want 3", got)
	}
}

// A source has only sent what it has been asked for or has announced: a target cannot fetch more.
func TestSourceHangsUpOn(t *testing.T) {
	t.Parallel()
	s := newSession(&Source{board: board{changed: func() {}, state: plan.State{}}}, nil, nil, new(bool), new(backoff))
	s.announced = 1
	if err := s.take(need{[]string{"a"}}); err != nil {
		t.Errorf("an announced file: %v", err)
	}
	for name, m := range map[string]message{
		"more files than announced":     need{[]string{"b"}},
		"an acknowledgement of nothing": ack{seq: 1},
		"a source's message":            put{seq: 1, entry: aDir},
		"a greeting after the greeting": welcome{},
	} {
		if err := s.take(m); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

func TestPanicEndsOnlyItsConnection(t *testing.T) {
	t.Parallel()
	err := guarded(t.Context(), func(context.Context) error { panic("a fault") })
	if err == nil || !strings.Contains(err.Error(), "a fault") {
		t.Errorf("got %v, want the panic as an error", err)
	}
}
