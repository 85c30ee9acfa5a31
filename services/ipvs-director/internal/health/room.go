package health

import (
	"context"
	"fmt"
	"io"
	"syscall"

	"github.com/twotier/twotier/services/internal/probe"
)

// Descriptors that checks leave to the rest of the director: a quarter of all, within these bounds.
const (
	leastLeft = 24
	mostLeft  = 256
)

// room is how many checks may run at a time; each holds a descriptor while a dead real server is waited for.
type room chan struct{}

// newRoom makes room for as many checks as there are descriptors for.
func newRoom() room {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		limit.Cur = 1024 // what a process has where nobody says otherwise
	}
	return make(room, checksAtATime(limit.Cur))
}

func checksAtATime(descriptors uint64) int {
	descriptors = min(descriptors, 1<<16) // more than real servers can be wanted
	left := min(max(descriptors/4, leastLeft), mostLeft)
	return int(max(descriptors, left+1) - left)
}

// within lets a prober ask only while there is room. It does not wait: that would let the dead delay the checks of the living.
type within struct {
	room room
	probe.Prober
}

// Probe asks, or says that the want is ours.
func (w within) Probe(ctx context.Context) error {
	select {
	case w.room <- struct{}{}:
	default:
		return fmt.Errorf("%d checks are running, and there is no descriptor for another: %w", cap(w.room), syscall.EMFILE)
	}
	defer func() { <-w.room }()
	return w.Prober.Probe(ctx)
}

// Close closes what has to be closed.
func (w within) Close() error {
	if closer, ok := w.Prober.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}
