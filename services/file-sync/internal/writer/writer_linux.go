// Package writer answers: how does the target folder become what the source says? It is the only code that changes a
// target. Everything is done relative to a directory that is held open, with paths on which no symlink is followed:
// whatever a source sends, and whatever somebody puts into the target meanwhile, nothing outside the folder changes.
package writer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/file-sync/internal/folder"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// Config says how a target is written.
type Config struct {
	Owners bool // set owner and group; see MayChown
}

// Writer writes into one target folder. One goroutine at a time may use it.
type Writer struct {
	cfg     Config
	root    *folder.Folder
	bound   bool // by permissions: this process has no CAP_DAC_OVERRIDE
	unowned atomic.Uint64
}

// Open opens the target folder at path and makes it, with its parents, when it is absent.
func Open(path string, cfg Config) (*Writer, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make the target folder: %w", err)
	}
	root, err := folder.Open(path)
	if err != nil {
		return nil, err
	}
	return &Writer{cfg: cfg, root: root, bound: !capable(unix.CAP_DAC_OVERRIDE)}, nil
}

// MayChown reports whether this process may give files away (CAP_CHOWN in its effective set). Without it a target
// keeps the owner that it runs as.
func MayChown() bool { return capable(unix.CAP_CHOWN) }

// capable reports whether a capability is in the effective set of this process.
func capable(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// Close lets go of the folder.
func (w *Writer) Close() error { return w.root.Close() }

// Check returns an error when the folder's path leads elsewhere by now.
func (w *Writer) Check() error { return w.root.Check() }

// Rules are what counts as a difference for this target.
func (w *Writer) Rules() tree.Rules { return tree.Rules{Owners: w.cfg.Owners} }

// Scan lists the folder and removes what an earlier run left half-written. It must not be called while a file is
// being written.
func (w *Writer) Scan(ctx context.Context) (tree.Snapshot, error) {
	top, err := w.root.Lstat(tree.Root)
	if err != nil {
		return nil, err
	}
	if top, err = w.unlock(top); err != nil {
		return nil, err
	}
	s := tree.Snapshot{top}
	err = w.root.Walk(ctx, tree.Root, folder.Visitor{
		Entry: func(e tree.Entry) error {
			e, err := w.unlock(e)
			s = append(s, e)
			return err
		},
		Skip: func(dir int, name string) error {
			if !strings.HasPrefix(name, tree.TempPrefix) {
				return nil // a device, socket or pipe that somebody put here; not ours, not in the way
			}
			return removeAt(dir, name)
		},
	})
	if err != nil {
		return nil, err
	}
	s.Sort()
	return s, nil
}

// unlock lets this process into a directory of its own that has a mode which keeps its owner out, as the source's has: it
// could not be read, and no comparison would come to an end. The comparison sees the mode and puts it back last.
func (w *Writer) unlock(e tree.Entry) (tree.Entry, error) {
	const owner = 0o700
	if !w.bound || e.Type != tree.Dir || e.Mode&owner == owner || int(e.UID) != os.Geteuid() {
		return e, nil
	}
	fd, err := w.root.At(e.Path, unix.O_PATH|unix.O_DIRECTORY)
	if folder.Gone(err) {
		return e, nil // since it was listed
	}
	if err != nil {
		return e, wrap("open", e.Path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a handle without data
	e.Mode |= owner
	return e, wrap("set mode of", e.Path, chmod(fd, e.Mode))
}

// within runs do with the directory that holds path.
func (w *Writer) within(path string, do func(dir int, name string) error) error {
	dir, err := w.root.At(tree.Parent(path), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open the directory of %q: %w", path, err)
	}
	defer unix.Close(dir) //nolint:errcheck // a handle without data
	return do(dir, path[strings.LastIndexByte(path, '/')+1:])
}

// Remove removes path with all beneath it. That nothing is there is fine.
func (w *Writer) Remove(path string) error {
	err := w.within(path, removeAt)
	if folder.Gone(err) {
		return nil
	}
	return wrap("remove", path, err)
}

// Dir makes path a directory. With final, it gets the mode, owner and time of the entry; without, only what is needed
// to write into it: the rest follows when its members are there, because each of them changes its time.
func (w *Writer) Dir(e tree.Entry, final bool) error {
	if e.Path != tree.Root {
		err := w.within(e.Path, func(dir int, name string) error {
			err := unix.Mkdirat(dir, name, 0o700)
			if err != unix.EEXIST {
				return err
			}
			if is, err := typeAt(dir, name); err != nil || is == unix.S_IFDIR {
				return err
			}
			if err := removeAt(dir, name); err != nil {
				return err
			}
			return unix.Mkdirat(dir, name, 0o700)
		})
		if err != nil {
			return wrap("make directory", e.Path, err)
		}
	}
	if !final {
		return nil
	}
	return w.Meta(e)
}

// Symlink makes path a symlink. What it points to is text; it is never followed.
func (w *Writer) Symlink(e tree.Entry) error {
	return wrap("make symlink", e.Path, w.within(e.Path, func(dir int, name string) error {
		temp := tempName()
		if err := unix.Symlinkat(e.Target, dir, temp); err != nil {
			return err
		}
		err := setTime(dir, temp, e)
		if err == nil {
			err = w.own(dir, temp, e)
		}
		if err == nil {
			err = replace(dir, temp, name)
		}
		if err != nil {
			return errors.Join(err, unix.Unlinkat(dir, temp, 0))
		}
		return nil
	}))
}

// Meta sets mode, owner and time of what is at path already. A regular file must have the size and time of the
// entry; otherwise it returns tree.ErrStale and changes nothing.
func (w *Writer) Meta(e tree.Entry) error {
	if e.Type == tree.Symlink {
		return w.Symlink(e)
	}
	fd, err := w.root.At(e.Path, unix.O_PATH)
	if err != nil {
		if folder.Gone(err) && e.Type == tree.File {
			return tree.ErrStale
		}
		return wrap("open", e.Path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a handle without data
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return wrap("look at", e.Path, err)
	}
	switch is := st.Mode & unix.S_IFMT; {
	case e.Type == tree.File && (is != unix.S_IFREG || st.Size != e.Size || st.Mtim.Nano() != e.Mtime):
		return tree.ErrStale
	case e.Type == tree.Dir && is != unix.S_IFDIR:
		return wrap("set mode of", e.Path, unix.ENOTDIR)
	}
	if err := chmod(fd, e.Mode&tree.ModeMask); err != nil {
		return wrap("set mode of", e.Path, err)
	}
	if err := setTime(fd, "", e); err != nil {
		return wrap("set time of", e.Path, err)
	}
	return wrap("set owner of", e.Path, w.own(fd, "", e))
}

// Temp is a file that is being received. It has no final name before Commit.
type Temp struct {
	w     *Writer
	entry tree.Entry
	dir   int
	name  string
	file  *os.File
	size  int64
	sum   hash.Hash
}

// Create begins a file. The caller ends it with Commit or Abort.
func (w *Writer) Create(e tree.Entry) (*Temp, error) {
	dir, err := w.root.At(tree.Parent(e.Path), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, wrap("open the directory of", e.Path, err)
	}
	name := tempName()
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errors.Join(wrap("create", e.Path, err), unix.Close(dir))
	}
	return &Temp{w: w, entry: e, dir: dir, name: name, file: os.NewFile(uintptr(fd), name), sum: sha256.New()}, nil
}

// Write appends content.
func (t *Temp) Write(p []byte) (int, error) {
	n, err := t.file.Write(p)
	t.size += int64(n)
	t.sum.Write(p[:n])
	return n, wrap("write", t.entry.Path, err)
}

// Abort throws the file away.
func (t *Temp) Abort() error {
	return errors.Join(t.file.Close(), unix.Unlinkat(t.dir, t.name, 0), unix.Close(t.dir))
}

// Commit gives the file its owner, mode, time and final name, in one step for whoever looks. The content must have the
// size of the entry and this SHA-256; otherwise the file is thrown away. Nothing is forced to the disk.
func (t *Temp) Commit(sum [32]byte) error {
	if err := t.commit(sum); err != nil {
		return errors.Join(wrap("write", t.entry.Path, err), t.Abort())
	}
	return errors.Join(t.file.Close(), unix.Close(t.dir))
}

func (t *Temp) commit(sum [32]byte) error {
	if t.size != t.entry.Size {
		return fmt.Errorf("got %d bytes, want %d", t.size, t.entry.Size)
	}
	if got := [32]byte(t.sum.Sum(nil)); got != sum {
		return errors.New("the content was damaged on its way: wrong SHA-256")
	}
	fd := int(t.file.Fd())
	if err := unix.Fchmod(fd, t.entry.Mode&tree.ModeMask); err != nil {
		return err
	}
	if err := setTime(t.dir, t.name, t.entry); err != nil {
		return err
	}
	// The owner comes last: whoever gives a file away may need CAP_FOWNER for the rest.
	if err := t.w.own(fd, "", t.entry); err != nil {
		return err
	}
	path := t.entry.Path
	return replace(t.dir, t.name, path[strings.LastIndexByte(path, '/')+1:])
}

// own sets owner and group where this process may, and counts where it may not (EINVAL: an owner that does not exist in
// this user namespace).
func (w *Writer) own(dir int, name string, e tree.Entry) error {
	if !w.cfg.Owners {
		if int(e.UID) != os.Geteuid() || int(e.GID) != os.Getegid() {
			w.unowned.Add(1)
		}
		return nil
	}
	err := unix.Fchownat(dir, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
	if err == unix.EPERM || err == unix.EINVAL {
		w.unowned.Add(1)
		return nil
	}
	return err
}

// Unowned is how often an owner could not be set since the start. Any goroutine may call it.
func (w *Writer) Unowned() uint64 { return w.unowned.Load() }

// chmod sets the mode of what is behind a handle opened with O_PATH. Such a one cannot be given to fchmod(2); its name
// under /proc leads to the same inode whatever has happened to the path, and fchmodat2(2) exists only since Linux 6.6.
func chmod(fd int, mode uint32) error { return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode) }

// setTime sets the time of change and leaves the time of access alone.
func setTime(dir int, name string, e tree.Entry) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(e.Mtime)}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return unix.UtimesNanoAt(dir, name, times, flags)
}

// replace gives temp its final name. A directory that has the name has to go first; for files and symlinks the
// change is one step.
func replace(dir int, temp, name string) error {
	err := unix.Renameat(dir, temp, dir, name)
	if err != unix.EISDIR && err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	if err := removeAt(dir, name); err != nil {
		return err
	}
	return unix.Renameat(dir, temp, dir, name)
}

// removeAt removes name in the directory with all beneath it, symlinks as such.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR {
		return err
	}
	// A directory. What takes its place from now on is caught by O_NOFOLLOW.
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	for {
		names, err := d.Readdirnames(1024)
		for _, member := range names {
			if err := removeAt(fd, member); err != nil {
				return errors.Join(fmt.Errorf("%q: %w", member, err), d.Close())
			}
		}
		if len(names) == 0 || err != nil {
			break
		}
	}
	if err := d.Close(); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

func typeAt(dir int, name string) (uint32, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st.Mode & unix.S_IFMT, err
}

// tempName is a name that no member has. That it cannot be guessed does not matter: it is made with O_EXCL.
func tempName() string { return fmt.Sprintf("%s%016x", tree.TempPrefix, rand.Uint64()) }

func wrap(doing, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", doing, path, err)
}
