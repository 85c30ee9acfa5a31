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

// Folder is the files path of this server. Nothing outside of it can be reached, by symbolic links neither.
type Folder struct {
	root    *os.Root
	path    string
	writing bool
}

// Open opens the folder at an absolute path; it must be there. Only the upload origin may say writing. Close it.
func Open(folder string, writing bool) (*Folder, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("open files path: %w", err)
	}
	f := &Folder{root, folder, writing}
	if writing {
		if err := errors.Join(root.MkdirAll(incoming, 0o755), f.removeLeftovers()); err != nil {
			_ = root.Close() // the error that led here says more
			return nil, fmt.Errorf("open files path %s: %w", folder, err)
		}
	}
	return f, nil
}

// Close gives the folder back; files that are open stay so.
func (f *Folder) Close() error { return f.root.Close() }

func (f *Folder) removeLeftovers() error {
	entries, err := fs.ReadDir(f.root.FS(), incoming)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil && time.Since(i.ModTime()) > leftoverAge {
			if err := f.root.Remove(path.Join(incoming, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Ready reports whether the folder can be read, and on the upload origin written.
func (f *Folder) Ready() error {
	_, err := f.root.Stat(".")
	if err == nil && f.writing {
		// Asked, not tried: a file that comes and goes would be seen by the file sync at every look.
		const writable = 2 // W_OK of access(2)
		if err = syscall.Access(path.Join(f.path, incoming), writable); err != nil {
			err = &fs.PathError{Op: "write to", Path: path.Join(f.path, incoming), Err: err}
		}
	}
	return err
}

// Save keeps a file of at most limit bytes: in a temporary place first, then, whole and on the disk, under its name.
// commit may be nil; it is asked before the file gets its name, and its error discards the file. forum.ErrTooLarge.
// Nothing is left of a file that was not saved.
func (f *Folder) Save(ctx context.Context, from io.Reader, limit int64, commit func(forum.File) error) (saved forum.File, err error) {
	if !f.writing {
		return saved, fmt.Errorf("save file: this server is not the upload origin: %w", fs.ErrPermission)
	}
	temp, name, err := f.temporary()
	if err != nil {
		return saved, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(temp.Close()), ignoreAbsent(f.root.Remove(name)))
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
	if err = f.root.MkdirAll(folder, 0o755); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	if err = f.root.Rename(name, file.Path); err != nil {
		return saved, fmt.Errorf("save file: %w", err)
	}
	// The new names must survive a power cut too: the file's, and those of the folders made for it.
	for d := folder; d != "attachment"; d = path.Dir(d) {
		if err = f.syncFolder(d); err != nil {
			return saved, fmt.Errorf("save file: %w", err)
		}
	}
	return file, nil
}

func (f *Folder) temporary() (*os.File, string, error) {
	name := path.Join(incoming, rand.Text())
	// 0644, as the file keeps it: the file sync gives it to the other server as it is.
	temp, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	return temp, name, err
}

func (f *Folder) syncFolder(name string) error {
	d, err := f.root.Open(name)
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

// Open opens a saved file. forum.ErrNotFound: it is not on this server's disk. The caller verifies and closes it.
func (f *Folder) Open(name string) (io.ReadCloser, error) {
	if !forum.CheckFilePath(name) {
		return nil, fmt.Errorf("open file %q: %w", name, forum.ErrNotFound)
	}
	file, err := f.root.Open(name)
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
	return ignoreAbsent(f.root.Remove(name))
}
