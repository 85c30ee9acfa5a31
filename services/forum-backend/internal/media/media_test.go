package media_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/media"
	"github.com/twotier/twotier/services/internal/testreq"
)

// files lists what is under a folder, folders not.
func files(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	if err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, strings.TrimPrefix(p, root+"/"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	return all
}

func open(t *testing.T, root string, writing bool) *media.Folder {
	t.Helper()
	f, err := media.Open(root, writing)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ways are how a file may arrive: without a name, and on file systems that cannot do so.
var ways = map[string]func(*media.Folder, context.Context, io.Reader, int64, func(forum.File) error) (forum.File, error){
	"as the file system can": (*media.Folder).Save,
	"named":                  (*media.Folder).SaveNamed,
}

func TestSaveAndOpen(t *testing.T) {
	t.Parallel()
	png := append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{7}, 2000)...)
	for name, c := range map[string]struct {
		content   []byte
		wantType  string
		extension string
	}{
		"png":                     {png, "image/png", ".png"},
		"jpeg":                    {[]byte("\xff\xd8\xff\xe0 jfif"), "image/jpeg", ".jpg"},
		"html":                    {[]byte("<!DOCTYPE html><script>alert(1)</script>"), forum.OctetStream, ".attach"},
		"svg":                     {[]byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`), forum.OctetStream, ".attach"},
		"empty":                   {nil, forum.OctetStream, ".attach"},
		"text as large as it may": {bytes.Repeat([]byte("衡"), 1000), forum.OctetStream, ".attach"},
	} {
		for way, save := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				root := t.TempDir()
				f := open(t, root, true)
				got, err := save(f, t.Context(), bytes.NewReader(c.content), 3000, nil)
				if err != nil {
					t.Fatal(err)
				}
				want := forum.File{Path: got.Path, Size: int64(len(c.content)), SHA256: sha256.Sum256(c.content), Type: c.wantType}
				if got != want || !forum.CheckFilePath(got.Path) || filepath.Ext(got.Path) != c.extension {
					t.Errorf("got %+v, want %+v with %s", got, want, c.extension)
				}
				if all := files(t, root); len(all) != 1 || all[0] != got.Path {
					t.Errorf("files: got %v, want only %s", all, got.Path)
				}
				if i, err := os.Stat(filepath.Join(root, got.Path)); err != nil || i.Mode() != 0o644 {
					t.Errorf("mode: got %v %v, want -rw-r--r--", i, err)
				}
				r, err := open(t, root, false).Open(got.Path)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, c.content) {
					t.Errorf("read back %d bytes, %v, want %d", len(b), err, len(c.content))
				}
				if err := f.Remove(got.Path); err != nil || len(files(t, root)) != 0 {
					t.Errorf("remove: %v, left %v", err, files(t, root))
				}
			})
		}
	}
}

func content(n int) func() io.Reader {
	return func() io.Reader { return strings.NewReader(strings.Repeat("x", n)) }
}

func TestSaveLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		from   func() io.Reader
		commit func(forum.File) error
		want   error
	}{
		"too large":     {t.Context(), content(1001), nil, forum.ErrTooLarge},
		"broken at 0":   {t.Context(), func() io.Reader { return iotest.ErrReader(broken) }, nil, broken},
		"broken at 700": {t.Context(), func() io.Reader { return io.MultiReader(content(700)(), iotest.ErrReader(broken)) }, nil, broken},
		"not committed": {t.Context(), content(1), func(forum.File) error { return broken }, broken},
		"over":          {over, content(1), nil, context.Canceled},
	} {
		for way, save := range ways {
			root := t.TempDir()
			got, err := save(open(t, root, true), c.ctx, c.from(), 1000, c.commit)
			if !errors.Is(err, c.want) || got != (forum.File{}) {
				t.Errorf("%s, %s: got %+v %v, want %v", name, way, got, err, c.want)
			}
			if all := files(t, root); len(all) != 0 {
				t.Errorf("%s, %s: left behind %v", name, way, all)
			}
		}
	}
}

// looker looks at the folder before each byte that it gives.
type looker struct {
	io.Reader
	look func()
}

func (l looker) Read(p []byte) (int, error) {
	l.look()
	return l.Reader.Read(p)
}

// Whoever watches the folder sees a file when it is whole, and nothing of it before.
func TestHalfOfAFileIsNotSeen(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if fd, err := unix.Open(root, unix.O_TMPFILE|unix.O_WRONLY, 0o600); err != nil {
		testreq.Missing(t, "a file system with O_TMPFILE under "+root+": "+err.Error())
	} else if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	f := open(t, root, true)
	before := everything(t, root)
	looked := 0
	look := func() {
		looked++
		if now := everything(t, root); !slices.Equal(now, before) {
			t.Errorf("while the file arrives: got %q, want %q", now, before)
		}
	}
	notify, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(notify)
	got, err := f.Save(t.Context(), looker{iotest.OneByteReader(strings.NewReader("some words")), look}, 1000, func(file forum.File) error {
		look()
		day := filepath.Join(root, filepath.Dir(file.Path))
		if err := os.MkdirAll(day, 0o755); err != nil {
			return err
		}
		_, err := unix.InotifyAddWatch(notify, day, unix.IN_CLOSE_WRITE)
		return err
	})
	if err != nil || looked < len("some words") {
		t.Fatalf("looked %d times, error %v", looked, err)
	}
	// The event by which a watcher knows that a new file is whole.
	events := make([]byte, 4096)
	if n, err := unix.Read(notify, events); err != nil || !bytes.Contains(events[:n], []byte(filepath.Base(got.Path))) {
		t.Errorf("closed under its name: got %q %v", events[:max(n, 0)], err)
	}
}

// everything lists what is under a folder, folders too.
func everything(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	if err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFolderOfTheDayCannotBeMade(t *testing.T) {
	t.Parallel()
	for way, save := range ways {
		root := t.TempDir()
		f := open(t, root, true)
		_, err := save(f, t.Context(), strings.NewReader("x"), 1000, func(file forum.File) error {
			// A file where the folder of the month has to be.
			month := filepath.Join(root, filepath.Dir(filepath.Dir(file.Path)))
			return os.WriteFile(month, nil, 0o644)
		})
		if err == nil {
			t.Errorf("%s: saved", way)
		}
		if all := files(t, root); len(all) != 1 {
			t.Errorf("%s: left behind %v", way, all)
		}
	}
}

func TestReplicaNeverWrites(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	f := open(t, root, false)
	if _, err := f.Save(t.Context(), strings.NewReader("x"), 1000, nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("save: got %v, want ErrPermission", err)
	}
	if err := f.Remove("attachment/forum/202601/02/0304050123456789abcdef.png"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("remove: got %v, want ErrPermission", err)
	}
	if err := f.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("got %v %v, want an empty folder", entries, err)
	}
}

func TestNothingOutsideIsReached(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	const name = "attachment/forum/202601/02/0304050123456789abcdef.png"
	if err := os.WriteFile(filepath.Join(outside, filepath.Base(name)), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "attachment/forum/202601"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "attachment/forum/202601/02")); err != nil {
		t.Fatal(err)
	}
	f := open(t, root, true)
	for _, p := range []string{"../etc/passwd", "/etc/passwd", "attachment/forum/202601/02/../../../../etc/passwd", name, ""} {
		if r, err := f.Open(p); err == nil {
			_ = r.Close()
			t.Errorf("open %q: it was opened", p)
		}
		if err := f.Remove(p); err == nil {
			t.Errorf("remove %q: want an error", p)
		}
	}
}

func TestOldLeftoversAreRemoved(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	open(t, root, true)
	incoming := filepath.Join(root, "attachment/forum/.incoming")
	if err := os.Mkdir(incoming, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "new": time.Minute} {
		p := filepath.Join(incoming, name)
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	open(t, root, true)
	if all := files(t, root); len(all) != 1 || filepath.Base(all[0]) != "new" {
		t.Errorf("got %v, want only the new one", all)
	}
	if err := os.Remove(filepath.Join(incoming, "new")); err != nil {
		t.Fatal(err)
	}
	open(t, root, true)
	if _, err := os.Stat(incoming); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty folder of unfinished uploads: got %v, want it removed", err)
	}
}

func TestFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := media.Open(filepath.Join(t.TempDir(), "absent"), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist: an absent folder may be a disk that is not mounted", err)
	}
}
