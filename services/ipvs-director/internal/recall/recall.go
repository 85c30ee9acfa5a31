// Package recall answers: what did this director know before it was restarted that the kernel cannot tell?
package recall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twotier/twotier/services/internal/wholefile"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

const (
	// FileName is the file in the state folder.
	FileName = "steering.json"
	// MaxBytes is the largest file that is read: some hundred bytes for each of the real servers that can be leaving.
	MaxBytes = 4 << 20
)

// File keeps it in a folder. An empty Folder keeps nothing.
type File struct {
	Folder string
}

// Load reads what was kept; no file is an empty memory.
func (f File) Load() (m steer.Memory, err error) {
	if f.Folder == "" {
		return m, nil
	}
	file, err := os.Open(filepath.Join(f.Folder, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	switch {
	case err != nil:
		return m, fmt.Errorf("read %s: %w", file.Name(), err)
	case len(text) > MaxBytes:
		return m, fmt.Errorf("read %s: more than %d bytes", file.Name(), MaxBytes)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return steer.Memory{}, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return m, nil
}

// Save replaces what is kept, whole or not at all.
func (f File) Save(m steer.Memory) error {
	if f.Folder == "" {
		return nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := wholefile.Replace(filepath.Join(f.Folder, FileName), text); err != nil {
		return fmt.Errorf("write %s: %w", FileName, err)
	}
	return nil
}
