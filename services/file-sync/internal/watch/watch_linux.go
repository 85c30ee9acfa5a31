// Package watch answers: what changed in the source folder? It has one inotify watch on each directory (which needs no
// privilege and works on every filesystem, overlayfs included) and turns the kernel's events into a bounded set of paths
// whose copy may be old. Events are only hints: whoever takes a path looks at what is there now.
package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/file-sync/internal/folder"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// Config bounds a watch. Zero values are replaced by the defaults.
type Config struct {
	Paths  int         // most paths that wait to be sent; beyond, the whole folder is compared. Default 65,536
	Events int         // most events read from the kernel and not yet understood; beyond, as above. Default 262,144
	Settle tree.Settle // for files that are still being written. Default 100 ms after the last write, 1 s after the first
}

func (c Config) withDefaults() Config {
	if c.Paths == 0 {
		c.Paths = 1 << 16
	}
	if c.Events == 0 {
		c.Events = 1 << 18
	}
	if c.Settle == (tree.Settle{}) {
		c.Settle = tree.Settle{Quiet: 100 * time.Millisecond, Limit: time.Second}
	}
	return c
}

// ErrUnmounted says that a filesystem in the folder was unmounted: what was in it is not deleted, it is out of sight.
var ErrUnmounted = errors.New("a filesystem in the source folder was unmounted")

// lookInterval is how often the watch looks whether the folder is still at its path.
const lookInterval = time.Second

// interest is what the kernel is asked to report. IN_EXCL_UNLINK: nothing about files that have no name any more.
const interest = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// Watch is a source folder under watch. The watch begins with the first Scan and has no gap as long as Run goes on.
type Watch struct {
	cfg    Config
	root   *folder.Folder
	notify *os.File
	fd     int

	scans   chan scan
	changed chan struct{}

	mu    sync.Mutex // guards dirty
	dirty *tree.Dirty

	queue queue

	// Only the goroutine of resolve touches these.
	top  *node
	byWD map[int32]*node
}

type scan struct {
	ctx   context.Context // of the caller; ends the walk
	reply chan scanned
}

type scanned struct {
	members tree.Snapshot
	skipped int
	err     error
}

// node is a watched directory.
type node struct {
	parent   *node
	name     string
	wd       int32
	children map[string]*node
}

func (n *node) path() string {
	if n.parent == nil {
		return tree.Root
	}
	return tree.Join(n.parent.path(), n.name)
}

// Open opens the source folder at path, which must exist.
func Open(path string, cfg Config) (*Watch, error) {
	cfg = cfg.withDefaults()
	root, err := folder.Open(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open inotify (see fs.inotify.max_user_instances): %w", err), root.Close())
	}
	return &Watch{
		cfg: cfg, root: root, fd: fd, notify: os.NewFile(uintptr(fd), "inotify"),
		scans: make(chan scan), changed: make(chan struct{}, 1),
		dirty: tree.NewDirty(cfg.Paths, cfg.Settle), queue: queue{limit: cfg.Events, wake: make(chan struct{}, 1)},
		byWD: make(map[int32]*node),
	}, nil
}

// Close ends the watch. Run must have returned.
func (w *Watch) Close() error {
	err := w.notify.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, w.root.Close())
}

// Run follows the events until ctx ends or the folder is lost.
func (w *Watch) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.drain(ctx) })
	g.Go(func() error { return w.resolve(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		return w.notify.Close() // ends drain
	})
	return g.Wait()
}

// Scan lists the whole folder and watches every directory of it; changes from now on are reported. It counts what is
// not copied: devices, sockets, pipes, and names that are too long or ours. Run must be going on.
func (w *Watch) Scan(ctx context.Context) (members tree.Snapshot, skipped int, err error) {
	s := scan{ctx, make(chan scanned, 1)}
	select {
	case w.scans <- s:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	select {
	case r := <-s.reply:
		return r.members, r.skipped, r.err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// Changed has a token when there may be something to take. One goroutine may wait on it.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Take removes and returns at most n paths that are due. The other results tell when the next one is due (zero: none
// waits), and whether the whole folder must be compared instead.
func (w *Watch) Take(n int) (due []tree.Candidate, next time.Time, compare bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	due, next = w.dirty.Take(time.Now(), n)
	return due, next, w.dirty.MustCompare()
}

// Retry takes back a path that could not be sent, to be taken again after the pause.
func (w *Watch) Retry(c tree.Candidate, pause time.Duration) {
	w.mu.Lock()
	now := time.Now()
	w.dirty.Retry(c, now, now.Add(pause))
	w.mu.Unlock()
	w.kick()
}

// Waiting is the number of paths that wait.
func (w *Watch) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dirty.Len()
}

// Lstat tells what is at path now.
func (w *Watch) Lstat(path string) (tree.Entry, error) { return w.root.Lstat(path) }

// Read opens a file with what it is now.
func (w *Watch) Read(path string) (*os.File, tree.Entry, error) { return w.root.Open(path) }

// Check returns an error when the folder's path leads elsewhere by now.
func (w *Watch) Check() error { return w.root.Check() }

func (w *Watch) kick() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// resolve owns the tree of watches: it carries out scans and understands events.
func (w *Watch) resolve(ctx context.Context) error {
	// A directory that is held open, as the folder is, makes no event when it is removed or mounted over.
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if err := w.root.Check(); err != nil {
				return err
			}
		case s := <-w.scans:
			members, skipped, err := w.scan(s.ctx)
			s.reply <- scanned{members, skipped, err}
		case <-w.queue.wake:
			events, lost := w.queue.take()
			for _, e := range events {
				if err := w.handle(ctx, e); err != nil {
					return err
				}
			}
			if lost {
				w.overflow()
			}
			w.kick()
		}
	}
}

func (w *Watch) overflow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty.Overflow()
}

// scan walks the whole folder. Whatever waited is forgotten first, because the walk sees it; events that come during the
// walk are understood after it.
func (w *Watch) scan(ctx context.Context) (tree.Snapshot, int, error) {
	if err := w.root.Check(); err != nil {
		return nil, 0, err
	}
	w.mu.Lock()
	w.dirty.Clear()
	w.mu.Unlock()
	members, skipped, err := w.list(ctx)
	if err != nil {
		w.overflow() // what was forgotten above is not known to anybody now
		return nil, 0, err
	}
	return members, skipped, nil
}

func (w *Watch) list(ctx context.Context) (tree.Snapshot, int, error) {
	top, err := w.root.Lstat(tree.Root)
	if err != nil {
		return nil, 0, err
	}
	members, skipped := tree.Snapshot{top}, 0
	old := w.byWD
	w.top, w.byWD = nil, make(map[int32]*node, len(old))
	err = w.root.Walk(ctx, tree.Root, folder.Visitor{
		Enter: w.add,
		Entry: func(e tree.Entry) error {
			members = append(members, e)
			return nil
		},
		Skip: func(int, string) error {
			skipped++
			return nil
		},
	})
	for wd := range old {
		if w.byWD[wd] == nil {
			w.unwatch(wd)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	members.Sort()
	return members, skipped, nil
}

// unwatch ends one watch. An error means that the kernel has ended it already, with the directory.
func (w *Watch) unwatch(wd int32) { _, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) }

// add watches the open directory dir, found at path. inotify knows inodes, not paths: a directory that was moved
// within the folder answers with the number it had, and now stands for its new path.
func (w *Watch) add(path string, dir int) error {
	wd, err := unix.InotifyAddWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", dir), interest)
	switch {
	case err == unix.ENOSPC:
		return fmt.Errorf("watch directory %q: no watches left, raise fs.inotify.max_user_watches: %w", path, err)
	case err != nil:
		return fmt.Errorf("watch directory %q: %w", path, err)
	}
	n := w.place(path)
	n.wd = int32(wd)
	w.byWD[n.wd] = n
	return nil
}

// place is the node of path; it and its parents are made where they are missing.
func (w *Watch) place(path string) *node {
	if w.top == nil {
		w.top = &node{wd: -1, children: make(map[string]*node)}
	}
	n := w.top
	if path == tree.Root {
		return n
	}
	for name := range strings.SplitSeq(path, "/") {
		next := n.children[name]
		if next == nil {
			next = &node{parent: n, name: name, wd: -1, children: make(map[string]*node)}
			n.children[name] = next
		}
		n = next
	}
	return n
}

// forget ends the watches of a directory that has left its place, and of all beneath it. Those that have been found
// again at another place stay.
func (w *Watch) forget(n *node) {
	if n == nil {
		return
	}
	if n.parent != nil && n.parent.children[n.name] == n {
		delete(n.parent.children, n.name)
	}
	for _, child := range n.children {
		w.forget(child)
	}
	if w.byWD[n.wd] == n {
		delete(w.byWD, n.wd)
		w.unwatch(n.wd)
	}
}

// handle understands one event.
func (w *Watch) handle(ctx context.Context, e event) error {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		w.overflow()
		return nil
	}
	n := w.byWD[e.wd]
	if n == nil {
		return nil // of a watch that has ended
	}
	if e.mask&unix.IN_UNMOUNT != 0 {
		return fmt.Errorf("%s: %w", n.path(), ErrUnmounted)
	}
	if n == w.top && e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED) != 0 {
		return fmt.Errorf("%s: %w", w.root.Path(), folder.ErrReplaced)
	}
	if e.mask&unix.IN_IGNORED != 0 {
		w.forget(n)
		return nil
	}
	if e.name == "" { // about the directory itself
		if e.mask&unix.IN_ATTRIB != 0 {
			w.mark(n.path(), false, false)
		}
		return nil
	}
	path := tree.Join(n.path(), e.name)
	if !tree.ValidPath(path) {
		return nil
	}
	directory := e.mask&unix.IN_ISDIR != 0
	switch {
	case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && directory:
		return w.arrived(ctx, path)
	case e.mask&unix.IN_CREATE != 0:
		// A file that was just made is about to be written, and its writer will close it. Nobody closes a symlink, nor
		// the second name of a file.
		now, err := w.root.Lstat(path)
		w.mark(path, true, err == nil && now.Type == tree.File)
	case e.mask&unix.IN_MODIFY != 0:
		w.mark(path, true, true)
	case e.mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO) != 0:
		w.mark(path, true, false)
	case e.mask&unix.IN_MOVED_FROM != 0 && directory:
		w.forget(n.children[e.name])
		w.mu.Lock()
		w.dirty.Left(path, time.Now())
		w.mu.Unlock()
	case e.mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		if directory {
			w.forget(n.children[e.name])
		}
		w.mark(path, true, false)
	case e.mask&unix.IN_ATTRIB != 0:
		w.mark(path, false, false)
	}
	return nil
}

// arrived takes in a new directory. What is made in it before its watch begins makes no event, so it is listed after.
func (w *Watch) arrived(ctx context.Context, path string) error {
	w.forget(w.child(path))
	w.mark(path, true, false)
	err := w.root.Walk(ctx, path, folder.Visitor{
		Enter: w.add,
		Entry: func(e tree.Entry) error {
			w.mark(e.Path, true, false)
			return nil
		},
	})
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, unix.ENOSPC):
		return err
	}
	w.overflow() // the comparison meets the same obstacle and reports it
	return nil
}

// child is the node of path, nil when it is not watched.
func (w *Watch) child(path string) *node {
	n := w.top
	for name := range strings.SplitSeq(path, "/") {
		if n == nil {
			return nil
		}
		n = n.children[name]
	}
	return n
}

func (w *Watch) mark(path string, content, writing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if writing {
		w.dirty.Writing(path, time.Now())
	} else {
		w.dirty.Mark(path, content, time.Now())
	}
}
