package pool

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/seal"
)

// maxKeyFile is the most bytes of a file with keys.
const maxKeyFile = 64 << 10

// keyed is where the keys of a backend's cookie are from. Guarded by Pool.mu.
type keyed struct {
	path   string
	text   []byte
	failed string // why the keys could not be read the last time; empty: they could
}

// Seals reports whether there are keys to seal values with.
func (b *Backend) Seals() bool { return b.group.keys.Load() != nil }

// Seal seals the value of the persistence cookie that dst ends with, from a place on. Seals must have been true.
func (b *Backend) Seal(dst []byte, from int) []byte {
	if keys := b.group.keys.Load(); keys != nil {
		return keys.Append(dst, b.Spec.Cookie.Name, from)
	}
	return dst
}

// Unseal returns what is sealed in a value of the persistence cookie; false: it is not one of ours.
func (b *Backend) Unseal(value []byte) ([]byte, bool) {
	keys := b.group.keys.Load()
	if keys == nil {
		return nil, false
	}
	return keys.Open(b.Spec.Cookie.Name, value)
}

// takeKeys takes what was read of the file with the keys of a backend's cookie. What was taken before stays in force while
// the file cannot be used. The caller holds p.mu.
func (p *Pool) takeKeys(b *Backend, text []byte, err error) {
	g, path := b.group, b.Spec.Cookie.KeyFile
	if path != g.keyed.path {
		g.keyed = keyed{path: path}
		g.keys.Store(nil)
	}
	if path == "" {
		return
	}
	if err == nil && !bytes.Equal(text, g.keyed.text) {
		var keys *seal.Keys
		if keys, err = seal.Parse(text); err == nil {
			g.keyed.text = text
			g.keys.Store(keys)
			p.log.Info("cookie keys read", logging.Backend(b.Spec.Name), logging.Path(path))
		}
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	if why != "" && why != g.keyed.failed {
		p.log.Error("cookie keys cannot be used; those read before, if any, stay in force", logging.Backend(b.Spec.Name), logging.Path(path), zap.Error(err))
	}
	g.keyed.failed = why
}

// lookForKeys reads the files with keys again.
func (p *Pool) lookForKeys() {
	p.mu.Lock()
	var sealed []string
	for name, b := range p.backends {
		if b.Spec.Cookie.KeyFile != "" {
			sealed = append(sealed, name)
		}
	}
	p.mu.Unlock()
	for _, name := range sealed {
		b := p.Backend(name)
		if b == nil {
			continue // it was taken away just now
		}
		text, err := readKeyFile(b.Spec.Cookie.KeyFile)
		p.mu.Lock()
		if p.backends[name] == b {
			p.takeKeys(b, text, err)
		}
		p.mu.Unlock()
	}
}

func readKeyFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("want a regular file")
	case info.Size() > maxKeyFile:
		return nil, fmt.Errorf("%d bytes, want %d at most", info.Size(), maxKeyFile)
	}
	return os.ReadFile(path)
}
