package media

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"
)

// uploads is the folder that holds all files, below the files path. That it is there tells a files path that is in use
// from the place of a disk that is not mounted.
const uploads = "attachment/forum"

// incoming is where a file lies while it arrives, on a file system that keeps no files without a name. It is in the same
// file system as its final place, so that renaming is one step.
const incoming = uploads + "/.incoming"

// leftoverAge is how old an unfinished upload must be to be removed when the folder is opened: older than any upload
// may take.
const leftoverAge = 24 * time.Hour

// temp is a file that arrives. Where the file system can, it has no name before it is whole: who watches the folder, as
// the file sync does, never sees a part of it, and nothing stays when this process is killed.
type temp struct {
	*os.File
	root *os.Root
	name string // below the files path; empty while it has none
}

func newTemp(root *os.Root) (*temp, error) {
	file, err := openUnnamed(root, uploads)
	if errors.Is(err, errors.ErrUnsupported) {
		return newNamedTemp(root)
	}
	if err != nil {
		return nil, err
	}
	return &temp{File: file, root: root}, nil
}

func newNamedTemp(root *os.Root) (*temp, error) {
	if err := root.Mkdir(incoming, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	name := path.Join(incoming, rand.Text())
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	return &temp{file, root, name}, nil
}

// publish gives the file its name.
func (t *temp) publish(name string) error {
	if t.name == "" {
		if err := link(t.File, t.root, name); err != nil {
			return err
		}
		t.name = name
		// A watcher has heard of a new file, and waits until it is closed under this name.
		again, err := t.root.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return again.Close()
	}
	if err := t.root.Rename(t.name, name); err != nil {
		return err
	}
	t.name = name
	return nil
}

// discard takes the file away, whatever name it has by now.
func (t *temp) discard() error {
	err := t.Close()
	if t.name != "" {
		err = errors.Join(err, ignoreAbsent(t.root.Remove(t.name)))
	}
	return err
}

// removeLeftovers removes what a killed process has left under incoming, and incoming when nothing is in it.
func removeLeftovers(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), incoming)
	if err != nil {
		return ignoreAbsent(err)
	}
	kept := 0
	for _, e := range entries {
		if i, err := e.Info(); err != nil || time.Since(i.ModTime()) <= leftoverAge {
			kept++
			continue
		}
		if err := root.Remove(path.Join(incoming, e.Name())); err != nil {
			return fmt.Errorf("remove unfinished upload: %w", err)
		}
	}
	if kept > 0 {
		return nil
	}
	return root.Remove(incoming)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
