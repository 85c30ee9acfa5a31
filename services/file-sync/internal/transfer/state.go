package transfer

import (
	"sync"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
)

// board shows how a side stands: its goroutines write on it, others read copies.
type board struct {
	changed func() // called after a change that a person would want to see; must not block

	mu    sync.Mutex // guards state
	state plan.State
}

// update changes what is shown. The counters move without a call of changed: there would be too many.
func (b *board) update(change func(*plan.State)) {
	b.mu.Lock()
	old := b.state
	change(&b.state)
	now := b.state
	b.mu.Unlock()
	if old.Connected != now.Connected || old.InSync != now.InSync || old.Held != now.Held || old.Error != now.Error {
		b.changed()
	}
}

func (b *board) read() plan.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}
