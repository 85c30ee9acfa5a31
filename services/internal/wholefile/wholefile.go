// Package wholefile writes small files of which, after a crash, there is the old one or the new one and never a part.
package wholefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Replace writes text beside the file, makes sure that it is on the disk, and renames it into place, with mode 0600. A
// crash may leave a file .NAME-* beside it. The folder has to exist. An error names the file, and is the same each time.
func Replace(path string, text []byte) error {
	err := replace(path, text)
	var of *fs.PathError
	if errors.As(err, &of) && of.Path != path && strings.HasPrefix(filepath.Base(of.Path), "."+filepath.Base(path)+"-") {
		return &fs.PathError{Op: of.Op, Path: path, Err: of.Err}
	}
	return err
}

func replace(path string, text []byte) error {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	temporary, err := os.CreateTemp(folder, "."+name+"-*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = temporary.Write(text)
	if err == nil {
		err = temporary.Sync()
	}
	err = errors.Join(err, temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return syncFolder(folder)
}

// syncFolder makes sure that a renamed file is found under its new name after a crash.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
