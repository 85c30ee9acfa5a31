// Package media answers: where do uploaded files lie, and how do they get there? It is the only room that writes under the
// files path, and only the upload origin may ask it to.
package media

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// incoming is where a file lies while it arrives. It is in the same file system as its final place, so that renaming
// is one step and whoever watches the folder sees whole files only.
const incoming = "attachment/forum/.incoming"

// leftoverAge is how old an unfinished upload must be to be removed when the folder is opened: older than any upload
// may take.
const leftoverAge = 24 * time.Hour

// Folder is the files path of this server. It is looked up anew for each file, so it may come, go and be replaced under
// a running server. Nothing outside of it can be reached, by symbolic links neither.
type Folder struct {
	path    string
	writing bool
}

// Open answers the folder at an absolute path. Only the upload origin may say writing; there the folder must exist, since
// one that does not may be a disk that is not mounted. Elsewhere the file sync makes it some time.
func Open(folder string, writing bool) (*Folder, error) {
	f := &Folder{folder, writing}
	if !writing {
		return f, nil
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("open files path: %w", err)
	}
	defer root.Close()
	if err := errors.Join(root.MkdirAll(incoming, 0o755), removeLeftovers(root)); err != nil {
		return nil, fmt.Errorf("open files path %s: %w", folder, err)
	}
	return f, nil
}

func removeLeftovers(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), incoming)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil && time.Since(i.ModTime()) > leftoverAge {
			if err := root.Remove(path.Join(incoming, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Ready reports whether the folder can be read, and on the upload origin written.
func (f *Folder) Ready() error {
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return err
	}
	defer root.Close()
	if !f.writing {
		return nil
	}
	// Asked, not tried: a file that comes and goes would be seen by the file sync at every look.
	const writable = 2 // W_OK of access(2)
	if err := syscall.Access(path.Join(f.path, incoming), writable); err != nil {
		return &fs.PathError{Op: "write to", Path: path.Join(f.path, incoming), Err: err}
	}
	return nil
}

// Save keeps a file of at most limit bytes: in a temporary place first, then, whole and on the disk, under its name.
// commit may be nil; it is asked before the file gets its name, and its error discards the file. forum.ErrTooLarge.
// Nothing is left of a file that was not saved.
func (f *Folder) Save(ctx context.Context, from io.Reader, limit int64, commit func(forum.File) error) (saved forum.File, err error) {
	if !f.writing {
		return saved, fmt.Errorf("save file: this server is not the upload origin: %w", fs.ErrPermission)
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	defer root.Close()
	name := path.Join(incoming, rand.Text())
	// 0644, as the file keeps it: the file sync gives it to the other server as it is.
	temp, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(temp.Close()), ignoreAbsent(root.Remove(name)))
		}
	}()
	head := make([]byte, 512) // what http.DetectContentType looks at
	n, err := io.ReadFull(from, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return saved, fmt.Errorf("save file: read: %w", err)
	}
	head = head[:n]
	sum := sha256.New()
	sum.Write(head)
	if _, err = temp.Write(head); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	// One byte more than allowed is read, to tell a file of the limit from a larger one.
	rest, err := io.Copy(io.MultiWriter(temp, sum), io.LimitReader(from, limit-int64(n)+1))
	if err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	file := forum.File{Size: int64(n) + rest, SHA256: [32]byte(sum.Sum(nil)), Type: forum.FileType(http.DetectContentType(head))}
	if file.Size > limit {
		return saved, fmt.Errorf("save file: %w: more than %d bytes", forum.ErrTooLarge, limit)
	}
	if err = ctx.Err(); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	if err = errors.Join(temp.Sync(), temp.Close()); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	var salt [8]byte
	rand.Read(salt[:]) // never fails
	now := time.Now().UTC()
	file.Path = "attachment/forum/" + now.Format("200601/02/150405") + hex.EncodeToString(salt[:]) + "." + forum.Extension(file.Type)
	if commit != nil {
		if err = commit(file); err != nil {
			return saved, err
		}
	}
	folder := path.Dir(file.Path)
	if err = root.MkdirAll(folder, 0o755); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	if err = root.Rename(name, file.Path); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	// The new names must survive a power cut too: the file's, and those of the folders made for it.
	for d := folder; d != "attachment"; d = path.Dir(d) {
		if err = syncFolder(root, d); err != nil {
			return saved, fmt.Errorf("save file: %w", err)
		}
	}
	return file, nil
}

func syncFolder(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open opens a saved file. forum.ErrNotFound: it is not on this server's disk; forum.ErrUploadsAway: the disk is not on
// the upload origin. The caller verifies and closes the file.
func (f *Folder) Open(name string) (io.ReadCloser, error) {
	if !forum.CheckFilePath(name) {
		return nil, fmt.Errorf("open file %q: %w", name, forum.ErrNotFound)
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		why := forum.ErrNotFound
		if f.writing {
			why = forum.ErrUploadsAway
		}
		return nil, fmt.Errorf("open file %s: %w: %w", name, why, err)
	}
	defer root.Close()
	file, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open file %s: %w", name, forum.ErrNotFound)
	}
	return file, err
}

// Remove takes a file away that no post came to have.
func (f *Folder) Remove(name string) error {
	if !f.writing {
		return fmt.Errorf("remove file: this server is not the upload origin: %w", fs.ErrPermission)
	}
	if !forum.CheckFilePath(name) {
		return fmt.Errorf("remove file %q: %w", name, forum.ErrNotFound)
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	defer root.Close()
	return ignoreAbsent(root.Remove(name))
}
