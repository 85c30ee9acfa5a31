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

// fileMode is what a file is made with. The file sync gives it to the other servers as it is.
const fileMode = 0o644

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
	if err := errors.Join(root.MkdirAll(uploads, 0o755), removeLeftovers(root)); err != nil {
		return nil, fmt.Errorf("open files path %s: %w", folder, err)
	}
	return f, nil
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
	if err := syscall.Access(path.Join(f.path, uploads), writable); err != nil {
		return &fs.PathError{Op: "write to", Path: path.Join(f.path, uploads), Err: err}
	}
	return nil
}

// Save keeps a file of at most limit bytes; it gets its name when it is whole and on the disk.
// commit may be nil; it is asked before the file gets its name, and its error discards the file. forum.ErrTooLarge.
// Nothing is left of a file that was not saved.
func (f *Folder) Save(ctx context.Context, from io.Reader, limit int64, commit func(forum.File) error) (forum.File, error) {
	return f.save(ctx, from, limit, commit, newTemp)
}

func (f *Folder) save(ctx context.Context, from io.Reader, limit int64, commit func(forum.File) error,
	begin func(*os.Root) (*temp, error)) (forum.File, error) {
	if !f.writing {
		return forum.File{}, fmt.Errorf("save file: this server is not the upload origin: %w", fs.ErrPermission)
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return forum.File{}, fmt.Errorf("save file: %w", err)
	}
	defer root.Close()
	t, err := begin(root)
	if err != nil {
		return forum.File{}, fmt.Errorf("save file: %w", err)
	}
	file, err := receive(ctx, t.File, from, limit)
	if err == nil && commit != nil {
		err = commit(file)
	}
	if err == nil {
		err = place(root, t, file.Path)
	}
	if err != nil {
		return forum.File{}, fmt.Errorf("save file: %w", errors.Join(err, t.discard()))
	}
	// The content is on the disk already; what closing could still say changes nothing.
	_ = t.Close()
	return file, nil
}

// receive writes a file to the disk and finds out what it is, and what its path is to be.
func receive(ctx context.Context, to *os.File, from io.Reader, limit int64) (forum.File, error) {
	head := make([]byte, 512) // what http.DetectContentType looks at
	n, err := io.ReadFull(from, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return forum.File{}, fmt.Errorf("read: %w", err)
	}
	head = head[:n]
	sum := sha256.New()
	sum.Write(head)
	if _, err := to.Write(head); err != nil {
		return forum.File{}, err
	}
	// One byte more than allowed is read, to tell a file of the limit from a larger one.
	rest, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(from, limit-int64(n)+1))
	if err != nil {
		return forum.File{}, err
	}
	file := forum.File{Size: int64(n) + rest, SHA256: [32]byte(sum.Sum(nil)), Type: forum.FileType(http.DetectContentType(head))}
	if file.Size > limit {
		return forum.File{}, fmt.Errorf("%w: more than %d bytes", forum.ErrTooLarge, limit)
	}
	if err := ctx.Err(); err != nil {
		return forum.File{}, err
	}
	if err := to.Sync(); err != nil {
		return forum.File{}, err
	}
	var salt [8]byte
	rand.Read(salt[:]) // never fails
	now := time.Now().UTC()
	file.Path = uploads + now.Format("/200601/02/150405") + hex.EncodeToString(salt[:]) + "." + forum.Extension(file.Type)
	return file, nil
}

// place gives a file its name so that it survives a power cut, together with the names of the folders made for it.
func place(root *os.Root, t *temp, name string) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := t.publish(name); err != nil {
		return err
	}
	for d := path.Dir(name); d != path.Dir(uploads); d = path.Dir(d) {
		if err := syncFolder(root, d); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
