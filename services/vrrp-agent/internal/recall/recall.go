// Package recall answers: what has to be remembered across a restart of the agent?
package recall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twotier/twotier/services/internal/wholefile"
)

// Folder is the agent's state folder. Empty: nothing is kept.
type Folder string

// errNowhere is the error of keeping something without a folder.
var errNowhere = errors.New("there is no --state-dir to keep it in")

// file is there while the node is drained.
func (f Folder) file() string { return filepath.Join(string(f), "drained") }

// Drained tells whether this node is drained.
func (f Folder) Drained() (bool, error) {
	if f == "" {
		return false, nil
	}
	_, err := os.Stat(f.file())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SetDrained keeps whether this node is drained.
func (f Folder) SetDrained(on bool) error {
	switch {
	case f == "" && on:
		return errNowhere
	case f == "":
		return nil
	case on:
		if err := wholefile.Replace(f.file(), nil); err != nil {
			return fmt.Errorf("keep that this node is drained: %w", err)
		}
		return nil
	}
	if err := os.Remove(f.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
