package writer

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// open makes a target beside a folder that must never change.
func open(t *testing.T, cfg Config) (w *Writer, dir, outside string) {
	t.Helper()
	base := t.TempDir()
	dir, outside = filepath.Join(base, "srv", "web"), filepath.Join(base, "outside")
	w, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range []string{outside, filepath.Join(outside, "sub")} {
		must(t, os.Mkdir(sub, 0o750))
	}
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("untouched"), 0o640))
	must(t, os.Chtimes(filepath.Join(outside, "f"), time.Unix(1, 0), time.Unix(1, 0)))
	return w, dir, outside
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(w *Writer, e tree.Entry, content string) error {
	e.Size = int64(len(content))
	f, err := w.Create(e)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte(content)); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit(sha256.Sum256([]byte(content)))
}

func file(path string) tree.Entry {
	return tree.Entry{Path: path, Type: tree.File, Mode: 0o644, Mtime: 1234567890}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		all = append(all, strings.TrimPrefix(path, filepath.Dir(dir)))
		return err
	}))
	return all
}

// Whatever is asked for beneath a symlink is refused or done to the symlink, and what it points to stays as it is.
func TestNothingOutsideChanges(t *testing.T) {
	t.Parallel()
	dirEntry := func(path string) tree.Entry { return tree.Entry{Path: path, Type: tree.Dir, Mode: 0o777} }
	for name, c := range map[string]struct {
		do     func(w *Writer) error
		refuse bool
	}{
		"file beneath":         {func(w *Writer) error { return put(w, file("way/f"), "x") }, true},
		"new file beneath":     {func(w *Writer) error { return put(w, file("way/new"), "x") }, true},
		"file deeper beneath":  {func(w *Writer) error { return put(w, file("way/sub/new"), "x") }, true},
		"directory beneath":    {func(w *Writer) error { return w.Dir(dirEntry("way/new"), true) }, true},
		"mode beneath":         {func(w *Writer) error { return w.Dir(dirEntry("way/sub"), true) }, true},
		"symlink beneath":      {func(w *Writer) error { return w.Symlink(tree.Entry{Path: "way/l", Type: tree.Symlink, Target: "x"}) }, true},
		"time beneath":         {func(w *Writer) error { return w.Meta(file("way/f")) }, true},
		"remove beneath":       {func(w *Writer) error { return w.Remove("way/f") }, false},
		"remove dir beneath":   {func(w *Writer) error { return w.Remove("way/sub") }, false},
		"remove the symlink":   {func(w *Writer) error { return w.Remove("way") }, false},
		"remove above it":      {func(w *Writer) error { return w.Remove("d") }, false},
		"file in its place":    {func(w *Writer) error { return put(w, file("way"), "x") }, false},
		"directory instead":    {func(w *Writer) error { return w.Dir(dirEntry("way"), true) }, false},
		"meta of a file on it": {func(w *Writer) error { return w.Meta(file("filelink")) }, true},
		"meta of a dir on it":  {func(w *Writer) error { return w.Meta(dirEntry("way")) }, true},
		"climbing":             {func(w *Writer) error { return put(w, file("../outside/f"), "x") }, true},
		"absolute":             {func(w *Writer) error { return put(w, file("/proc/twotier-test"), "x") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, dir, outside := open(t, Config{Owners: MayChown()})
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			for link, to := range map[string]string{"way": outside, "d/way": outside, "filelink": filepath.Join(outside, "f")} {
				must(t, os.Symlink(to, filepath.Join(dir, link)))
			}
			look := func() string {
				var s strings.Builder
				for _, path := range names(t, outside) {
					var st unix.Stat_t
					must(t, unix.Lstat(filepath.Join(filepath.Dir(outside), path), &st))
					s.WriteString(path + " ")
					for _, v := range []int64{int64(st.Mode), st.Size, st.Mtim.Nano(), int64(st.Uid), st.Ctim.Nano()} {
						s.WriteString(time.Duration(v).String() + " ")
					}
				}
				return s.String()
			}
			before := look()
			if err := c.do(w); (err != nil) != c.refuse {
				t.Errorf("error %v, want one: %v", err, c.refuse)
			}
			if after := look(); after != before {
				t.Errorf("outside:\n before %s\n after  %s", before, after)
			}
			if got, _ := os.ReadFile(filepath.Join(outside, "f")); string(got) != "untouched" {
				t.Errorf("content outside: %q", got)
			}
		})
	}
}

func TestTypeFlips(t *testing.T) {
	t.Parallel()
	w, dir, _ := open(t, Config{Owners: MayChown()})
	entries := map[string]func() error{
		"file": func() error { return put(w, file("x"), "content") },
		"dir": func() error {
			return errors.Join(w.Dir(tree.Entry{Path: "x", Type: tree.Dir, Mode: 0o711}, true), put(w, file("x/inside"), ""))
		},
		"symlink": func() error { return w.Symlink(tree.Entry{Path: "x", Type: tree.Symlink, Target: "y", Mtime: 5}) },
		"nothing": func() error { return w.Remove("x") },
	}
	want := map[string]tree.Type{"file": tree.File, "dir": tree.Dir, "symlink": tree.Symlink, "nothing": tree.None}
	for from, before := range entries {
		for to, after := range entries {
			must(t, before())
			must(t, after())
			got, err := w.root.Lstat("x")
			if err != nil || got.Type != want[to] {
				t.Errorf("%s to %s: %+v, %v", from, to, got, err)
			}
		}
	}
	for _, name := range names(t, dir) {
		if strings.Contains(name, tree.TempPrefix) {
			t.Errorf("left behind: %s", name)
		}
	}
}

func TestModesAndTimes(t *testing.T) {
	t.Parallel()
	w, dir, _ := open(t, Config{Owners: MayChown()})
	e := file("suid")
	e.Mode = 0o6755
	must(t, put(w, e, "x"))
	got, err := w.root.Lstat("suid")
	if err != nil || got.Mode != 0o755 || got.Mtime != e.Mtime || got.Size != 1 {
		t.Errorf("file: %+v, %v", got, err)
	}
	must(t, os.Chmod(filepath.Join(dir, "suid"), 0o755|fs.ModeSetuid))
	e.Size = 1
	must(t, w.Meta(e))
	if got, _ := w.root.Lstat("suid"); got.Mode != 0o755 {
		t.Errorf("setuid set at the target stays: %o", got.Mode)
	}
	e.Mtime++
	if err := w.Meta(e); !errors.Is(err, tree.ErrStale) {
		t.Errorf("meta of another time: %v, want stale", err)
	}
	if err := w.Meta(file("absent")); !errors.Is(err, tree.ErrStale) {
		t.Errorf("meta of nothing: %v, want stale", err)
	}
	must(t, w.Dir(tree.Entry{Path: "d", Type: tree.Dir, Mode: 0o3777, Mtime: 77}, true))
	if got, _ := w.root.Lstat("d"); got.Mode != 0o1777 || got.Mtime != 77 {
		t.Errorf("directory: %+v, want 1777 and time 77", got)
	}
	must(t, w.Dir(tree.Entry{Path: tree.Root, Type: tree.Dir, Mode: 0o750, Mtime: 99}, true))
	if got, _ := w.root.Lstat(tree.Root); got.Mode != 0o750 || got.Mtime != 99 {
		t.Errorf("the folder itself: %+v", got)
	}
}

func TestDamagedContentIsThrownAway(t *testing.T) {
	t.Parallel()
	w, dir, _ := open(t, Config{})
	must(t, put(w, file("f"), "old"))
	e := file("f")
	e.Size = 3
	for name, commit := range map[string]func(f *Temp) error{
		"wrong sum": func(f *Temp) error {
			_, err := f.Write([]byte("new"))
			must(t, err)
			return f.Commit(sha256.Sum256([]byte("nev")))
		},
		"too short": func(f *Temp) error { return f.Commit(sha256.Sum256(nil)) },
	} {
		f, err := w.Create(e)
		must(t, err)
		if commit(f) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "f")); string(got) != "old" {
		t.Errorf("content %q, %v; want the old", got, err)
	}
	if got, want := names(t, dir), []string{"/web", "/web/f"}; !slices.Equal(got, want) {
		t.Errorf("in the target: %q, want %q", got, want)
	}
}

func TestScanRemovesWhatIsHalfWritten(t *testing.T) {
	t.Parallel()
	w, dir, _ := open(t, Config{})
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	for _, name := range []string{tree.TempPrefix + "1", "a/b/" + tree.TempPrefix + "2", "a/keep"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	s, err := w.Scan(t.Context())
	must(t, err)
	var paths []string
	for _, e := range s {
		paths = append(paths, e.Path)
	}
	if want := []string{".", "a", "a/b", "a/keep"}; !slices.Equal(paths, want) {
		t.Errorf("scan: %q, want %q", paths, want)
	}
	if got, want := names(t, dir), []string{"/web", "/web/a", "/web/a/b", "/web/a/keep", "/web/pipe"}; !slices.Equal(got, want) {
		t.Errorf("in the target: %q, want %q", got, want)
	}
}

// A directory of a mode that keeps its owner out must not end all comparisons.
func TestScanGetsIntoOwnDirectories(t *testing.T) {
	t.Parallel()
	w, dir, _ := open(t, Config{})
	w.bound = true // as for an ordinary user, also when root runs the test
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a", "b", "f"), nil, 0o400))
	must(t, os.Chmod(filepath.Join(dir, "a", "b"), 0o055))
	must(t, os.Chmod(filepath.Join(dir, "a"), 0o055))
	must(t, os.Chmod(dir, 0o555))
	s, err := w.Scan(t.Context())
	must(t, err)
	got := make(map[string]uint32)
	for _, e := range s {
		got[e.Path] = e.Mode
		i, err := os.Stat(filepath.Join(dir, e.Path))
		must(t, err)
		if uint32(i.Mode().Perm()) != e.Mode {
			t.Errorf("%s has mode %v, listed with %o", e.Path, i.Mode(), e.Mode)
		}
	}
	if want := map[string]uint32{".": 0o755, "a": 0o755, "a/b": 0o755, "a/b/f": 0o400}; !maps.Equal(got, want) {
		t.Errorf("modes %v, want %v", got, want)
	}
	w.bound = false
	must(t, os.Chmod(filepath.Join(dir, "a"), 0o555))
	if s, err = w.Scan(t.Context()); err != nil || s[1].Mode != 0o555 {
		t.Errorf("who is not bound by modes changes one: %o %v", s[1].Mode, err)
	}
	must(t, os.Chmod(filepath.Join(dir, "a"), 0o755)) // for the end of the test
}

// Without the right to give files away they arrive all the same, and it is counted.
func TestOwnersNotKept(t *testing.T) {
	t.Parallel()
	w, _, _ := open(t, Config{Owners: false})
	e := file("f")
	e.UID, e.GID = uint32(os.Geteuid())+1, uint32(os.Getegid())
	must(t, put(w, e, "x"))
	got, err := w.root.Lstat("f")
	if err != nil || got.UID != uint32(os.Geteuid()) || w.Unowned() != 1 {
		t.Errorf("owner %d, counted %d, %v", got.UID, w.Unowned(), err)
	}
	e.UID--
	must(t, put(w, e, "x"))
	if w.Unowned() != 1 {
		t.Errorf("an own file counts: %d", w.Unowned())
	}
}

func TestReplacedFolderIsNoticed(t *testing.T) {
	t.Parallel()
	w, dir, _ := open(t, Config{})
	must(t, w.Check())
	must(t, os.Rename(dir, dir+".away"))
	if w.Check() == nil {
		t.Error("a folder that is gone passes")
	}
	must(t, os.Mkdir(dir, 0o755))
	if w.Check() == nil {
		t.Error("another folder at the path passes")
	}
}
