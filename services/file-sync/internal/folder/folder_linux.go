// Package folder answers: what is in a folder? It reads beneath a directory that it holds open and follows no symlink
// on the way down, so that nobody who can write in the folder can make it read anything outside. It is the floor that
// watch and writer stand on.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// ErrReplaced says that the folder's path no longer leads to the directory that was opened: it was removed, renamed,
// unmounted or mounted over.
var ErrReplaced = errors.New("the folder was removed or replaced")

// errNotFile says that a path is no regular file.
var errNotFile = errors.New("not a regular file")

// beneath is how every path is resolved (openat2(2)). os.Root would follow symlinks that stay inside the folder.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Folder is a directory held open.
type Folder struct {
	path string
	fd   int
	id   identity
}

type identity struct{ dev, ino uint64 }

// Open opens the folder at path, which must exist. The path itself is the operator's: symlinks in it are followed.
func Open(path string) (*Folder, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open folder %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("open folder %s: %w", path, err), unix.Close(fd))
	}
	return &Folder{path: path, fd: fd, id: identity{st.Dev, st.Ino}}, nil
}

// Close lets go of the folder.
func (f *Folder) Close() error { return unix.Close(f.fd) }

// Path is the path that the folder was opened by.
func (f *Folder) Path() string { return f.path }

// Check returns ErrReplaced when the folder's path leads elsewhere by now.
func (f *Folder) Check() error {
	var st unix.Stat_t
	switch err := unix.Stat(f.path, &st); {
	case err == unix.ENOENT || err == unix.ENOTDIR:
		return fmt.Errorf("%s: %w", f.path, ErrReplaced)
	case err != nil:
		return fmt.Errorf("look at folder %s: %w", f.path, err)
	case identity{st.Dev, st.Ino} != f.id:
		return fmt.Errorf("%s: %w", f.path, ErrReplaced)
	}
	return nil
}

// At opens a path of the folder, tree.Root included, with flags such as O_PATH, and returns the descriptor, which the
// caller closes.
func (f *Folder) At(path string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: beneath}
	for {
		fd, err := unix.Openat2(f.fd, path, how)
		if err == unix.EINTR {
			continue
		}
		return fd, err
	}
}

// Gone reports whether an error of At says that the path is no member of the folder: nothing is there, or the way to
// it leads through something that is no directory.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// Lstat tells what is at path; an entry of type tree.None when nothing is, or something that is not copied.
func (f *Folder) Lstat(path string) (tree.Entry, error) {
	dir, name := f.fd, ""
	if path != tree.Root {
		var err error
		if dir, err = f.At(tree.Parent(path), unix.O_PATH|unix.O_DIRECTORY); err != nil {
			if Gone(err) {
				return tree.Gone(path), nil
			}
			return tree.Entry{}, fmt.Errorf("look at %q: %w", path, err)
		}
		defer unix.Close(dir) //nolint:errcheck // read only
		name = path[strings.LastIndexByte(path, '/')+1:]
	}
	e, err := entryAt(dir, name, path)
	if err != nil {
		return tree.Entry{}, fmt.Errorf("look at %q: %w", path, err)
	}
	return e, nil
}

// Open opens a regular file for reading, with what it is at this moment.
func (f *Folder) Open(path string) (*os.File, tree.Entry, error) {
	// O_NONBLOCK: opening a pipe that took the file's place must not wait for its writer.
	fd, err := f.At(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, tree.Entry{}, fmt.Errorf("open %q: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	e, err := Stat(file, path)
	if err == nil && e.Type != tree.File {
		err = errNotFile
	}
	if err != nil {
		return nil, tree.Entry{}, errors.Join(fmt.Errorf("open %q: %w", path, err), file.Close())
	}
	return file, e, nil
}

// Stat tells what an open file is.
func Stat(file *os.File, path string) (tree.Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return tree.Entry{}, err
	}
	return entry(&st, path), nil
}

// entryAt tells what name in the directory is; the directory itself when name is empty.
func entryAt(dir int, name, path string) (tree.Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		if Gone(err) {
			return tree.Gone(path), nil
		}
		return tree.Entry{}, err
	}
	e := entry(&st, path)
	if e.Type == tree.Symlink {
		buf := make([]byte, tree.MaxPath+1)
		n, err := unix.Readlinkat(dir, name, buf)
		switch {
		case Gone(err) || err == unix.EINVAL: // replaced since
			return tree.Gone(path), nil
		case err != nil:
			return tree.Entry{}, err
		}
		e.Target = string(buf[:n])
	}
	return e, nil
}

func entry(st *unix.Stat_t, path string) tree.Entry {
	e := tree.Entry{Path: path, Mtime: st.Mtim.Nano(), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = tree.File, st.Size
	case unix.S_IFDIR:
		e.Type = tree.Dir
	case unix.S_IFLNK:
		e.Type = tree.Symlink
	default:
		return tree.Gone(path)
	}
	return e
}

// Visitor is told what a walk finds. Any function may be nil.
type Visitor struct {
	Enter func(path string, dir int) error // before a directory is read; dir is closed afterwards
	Entry func(e tree.Entry) error         // a member
	Skip  func(dir int, name string) error // something that is not copied
}

// Walk goes through the directory at path and all beneath it. What vanishes on the way is passed over; anything else
// that cannot be read ends the walk, because what was not read must not pass as absent.
func (f *Folder) Walk(ctx context.Context, path string, v Visitor) error {
	todo := []string{path}
	for len(todo) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		path, todo = todo[len(todo)-1], todo[:len(todo)-1]
		fd, err := f.At(path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			if Gone(err) {
				continue
			}
			return fmt.Errorf("read directory %q: %w", path, err)
		}
		dir := os.NewFile(uintptr(fd), path)
		sub, err := f.walkOne(path, dir, v)
		if err = errors.Join(err, dir.Close()); err != nil {
			return err
		}
		todo = append(todo, sub...)
	}
	return nil
}

// walkOne visits the members of one directory and returns the directories among them.
func (f *Folder) walkOne(path string, dir *os.File, v Visitor) (sub []string, err error) {
	fd := int(dir.Fd())
	if v.Enter != nil {
		if err := v.Enter(path, fd); err != nil {
			return nil, err
		}
	}
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			member := tree.Join(path, name)
			e, err := entryAt(fd, name, member)
			if err != nil {
				return nil, fmt.Errorf("look at %q: %w", member, err)
			}
			switch {
			case e.Type == tree.None || !tree.ValidPath(member):
				if v.Skip != nil {
					err = v.Skip(fd, name)
				}
			case v.Entry != nil:
				err = v.Entry(e)
			}
			if err != nil {
				return nil, err
			}
			if e.Type == tree.Dir && tree.ValidPath(member) {
				sub = append(sub, member)
			}
		}
		switch {
		case err == io.EOF || Gone(err):
			return sub, nil
		case err != nil:
			return nil, fmt.Errorf("read directory %q: %w", path, err)
		}
	}
}
