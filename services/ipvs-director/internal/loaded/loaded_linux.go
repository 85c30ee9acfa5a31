// Package loaded answers: who else may know that this kernel has the rules? A file vouches for it, which outlives the director as the rules
// do, and bears the mark of the network namespace, because the rules go with that.
package loaded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/twotier/twotier/services/internal/netnsmark"
	"github.com/twotier/twotier/services/internal/wholefile"
)

// File is at a path; its folder must exist. An empty one vouches for nothing.
type File string

// Set has the file vouch for the calling thread's network namespace, or for none. What is as it should be is left alone.
func (f File) Set(loaded bool) error {
	if f == "" {
		return nil
	}
	if !loaded {
		if err := os.Remove(string(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	mark, err := netnsmark.Own()
	if err != nil {
		return fmt.Errorf("vouch for the rules: %w", err)
	}
	if text, err := os.ReadFile(string(f)); err == nil && string(text) == mark {
		return nil
	}
	if err := wholefile.Replace(string(f), []byte(mark)); err != nil {
		return fmt.Errorf("vouch for the rules: %w", err)
	}
	return nil
}
