package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/file-sync/internal/folder"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

func encode(events ...event) []byte {
	var b []byte
	for _, e := range events {
		name := e.name
		if name != "" {
			name += "\x00\x00\x00"
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(e.wd))
		b = binary.NativeEndian.AppendUint32(b, e.mask)
		b = binary.NativeEndian.AppendUint32(b, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
		b = append(b, name...)
	}
	return b
}

func TestParse(t *testing.T) {
	t.Parallel()
	events := []event{{1, unix.IN_CREATE, "a"}, {2, unix.IN_ATTRIB, ""}, {-1, unix.IN_Q_OVERFLOW, ""}, {3, unix.IN_MODIFY, "\xff\n"}}
	b := encode(events...)
	if got := parse(b); !reflect.DeepEqual(got, events) {
		t.Errorf("got %v, want %v", got, events)
	}
	if got := parse(b[:len(b)-1]); !reflect.DeepEqual(got, events[:3]) {
		t.Errorf("cut off: got %v, want %v", got, events[:3])
	}
}

func FuzzParse(f *testing.F) {
	f.Add(encode(event{1, unix.IN_CREATE, "a"}, event{2, unix.IN_ATTRIB, ""}))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parse(b)); n > len(b)/unix.SizeofInotifyEvent {
			t.Errorf("%d events in %d bytes", n, len(b))
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	q := queue{limit: 2, wake: make(chan struct{}, 1)}
	q.put([]event{{wd: 1}, {wd: 2}})
	if events, lost := q.take(); len(events) != 2 || lost {
		t.Errorf("take = %v, %v", events, lost)
	}
	q.put([]event{{wd: 1}})
	q.put([]event{{wd: 2}, {wd: 3}})
	if events, lost := q.take(); len(events) != 0 || !lost {
		t.Errorf("beyond the limit: %v, lost %v", events, lost)
	}
	if _, lost := q.take(); lost {
		t.Error("lost twice")
	}
}

// watched is a folder under watch.
type watched struct {
	*Watch
	t   *testing.T
	dir string
	end chan error
}

func start(t *testing.T) *watched {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := Open(dir, Config{Settle: tree.Settle{Quiet: time.Hour, Limit: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		end <- w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	x := &watched{w, t, dir, end}
	if _, _, err := w.Scan(ctx); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *watched) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *watched) in(path string) string { return filepath.Join(x.dir, path) }

// reports collects what is due until all of want was reported, and returns everything.
func (x *watched) reports(want ...string) []string {
	x.t.Helper()
	var got []string
	deadline := time.After(20 * time.Second)
	for {
		due, _, compare := x.Take(1000)
		if compare {
			x.t.Fatal("the whole folder is to be compared")
		}
		for _, c := range due {
			if !slices.Contains(got, c.Path) {
				got = append(got, c.Path)
			}
		}
		missing := slices.DeleteFunc(slices.Clone(want), func(p string) bool { return slices.Contains(got, p) })
		if len(missing) == 0 {
			slices.Sort(got)
			return got
		}
		select {
		case <-x.Changed():
		case <-deadline:
			x.t.Fatalf("reported %q, missing %q", got, missing)
		}
	}
}

func TestReports(t *testing.T) {
	t.Parallel()
	x := start(t)
	x.must(os.MkdirAll(x.in("a/b/c"), 0o755))
	x.must(os.WriteFile(x.in("a/b/c/f"), []byte("x"), 0o644))
	x.reports("a", "a/b", "a/b/c", "a/b/c/f")

	// A moved directory is watched at its new place, and no longer at its old.
	x.must(os.Rename(x.in("a/b"), x.in("z")))
	x.reports("a/b", "z", "z/c", "z/c/f")
	x.must(os.WriteFile(x.in("z/c/g"), nil, 0o644))
	if got := x.reports("z/c/g"); slices.ContainsFunc(got, func(p string) bool { return p == "a/b/c/g" }) {
		t.Errorf("reported at the old place: %q", got)
	}

	// What was moved away is watched no longer.
	outside := filepath.Join(t.TempDir(), "z")
	x.must(os.Rename(x.in("z"), outside))
	x.reports("z")
	x.must(os.WriteFile(filepath.Join(outside, "c", "h"), nil, 0o644))
	x.must(os.Symlink("x", x.in("last")))
	if got := x.reports("last"); !reflect.DeepEqual(got, []string{"last"}) {
		t.Errorf("reported %q, want only last", got)
	}
}

// A file that is being written waits for its writer; the pause is an hour here.
func TestOpenFileWaits(t *testing.T) {
	t.Parallel()
	x := start(t)
	f, err := os.Create(x.in("open"))
	x.must(err)
	_, err = f.WriteString("half")
	x.must(err)
	x.must(os.WriteFile(x.in("closed"), []byte("x"), 0o644))
	if got := x.reports("closed"); slices.Contains(got, "open") {
		t.Errorf("reported while it is written: %q", got)
	}
	x.must(f.Close())
	x.reports("open")
}

func TestNamesOfOursAreNotReported(t *testing.T) {
	t.Parallel()
	x := start(t)
	x.must(os.WriteFile(x.in(tree.TempPrefix+"x"), nil, 0o644))
	x.must(os.WriteFile(x.in("other"), nil, 0o644))
	if got := x.reports("other"); len(got) != 1 {
		t.Errorf("reported %q", got)
	}
}

func TestFolderIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(dir string) error{
		"renamed": func(dir string) error { return os.Rename(dir, dir+".away") },
		"removed": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := start(t)
			x.must(lose(x.dir))
			if err := <-x.end; !errors.Is(err, folder.ErrReplaced) {
				t.Errorf("the watch ends with %v, want %v", err, folder.ErrReplaced)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent"), Config{}); err == nil {
		t.Error("an absent folder can be watched")
	}
}

// A scan lists what is there and leaves every directory watched.
func TestScanAgain(t *testing.T) {
	t.Parallel()
	x := start(t)
	for i := range 50 {
		x.must(os.MkdirAll(x.in(fmt.Sprintf("d%d/sub", i)), 0o755))
	}
	for i := range 25 {
		x.must(os.RemoveAll(x.in(fmt.Sprintf("d%d", i))))
	}
	members, _, err := x.Scan(t.Context())
	x.must(err)
	if len(members) != 1+50 || !members.Sorted() {
		t.Errorf("%d members, sorted %v; want 51", len(members), members.Sorted())
	}
	x.must(os.WriteFile(x.in("d30/sub/f"), nil, 0o644))
	x.reports("d30/sub/f")
}
