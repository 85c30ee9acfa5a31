package pair

import (
	"sync"
	"time"
)

// bellPause is the least time between two rings. A busy folder changes between in sync and not many times a second, and
// each ring makes the loop write a status to etcd.
const bellPause = time.Second

// bell rings at once for what comes after a pause, and once at its end for all that came meanwhile.
type bell struct {
	rings chan struct{} // has a token when it has rung

	mu     sync.Mutex // guards what follows
	last   time.Time
	timer  *time.Timer // rings at the end of the pause; nil when nothing has come
	closed bool
}

func newBell() *bell { return &bell{rings: make(chan struct{}, 1)} }

func (b *bell) push() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil || b.closed {
		return
	}
	if pause := bellPause - time.Since(b.last); pause > 0 {
		b.timer = time.AfterFunc(pause, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.ring()
		})
		return
	}
	b.ring()
}

// ring is called with mu held.
func (b *bell) ring() {
	b.last, b.timer = time.Now(), nil
	select {
	case b.rings <- struct{}{}:
	default:
	}
}

func (b *bell) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
}
