package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// event is one event of the kernel.
type event struct {
	wd   int32
	mask uint32
	name string
}

// queue holds events between the goroutine that reads them and the one that understands them.
type queue struct {
	limit int
	wake  chan struct{} // has a token when there is something to take

	mu     sync.Mutex // guards what follows
	events []event
	lost   bool
}

func (q *queue) put(events []event) {
	q.mu.Lock()
	if len(q.events)+len(events) > q.limit {
		q.events, q.lost = nil, true
	} else {
		q.events = append(q.events, events...)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (events []event, lost bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, lost = q.events, q.lost
	q.events, q.lost = nil, false
	return events, lost
}

// drain empties the kernel's queue and does nothing else, because the kernel throws away what finds no room
// (fs.inotify.max_queued_events).
func (w *Watch) drain(ctx context.Context) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := w.notify.Read(buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read inotify: %w", err)
		}
		w.queue.put(parse(buf[:n]))
	}
}

// parse splits what was read into events (inotify(7): wd, mask, cookie and length of the name, 4 bytes each in the
// machine's order, then the name, filled up with zeros). It stops at an event that is cut off.
func parse(buf []byte) []event {
	var events []event
	for len(buf) >= unix.SizeofInotifyEvent {
		length := binary.NativeEndian.Uint32(buf[12:])
		if uint64(length) > uint64(len(buf)-unix.SizeofInotifyEvent) {
			break
		}
		end := unix.SizeofInotifyEvent + int(length)
		events = append(events, event{
			wd:   int32(binary.NativeEndian.Uint32(buf)),
			mask: binary.NativeEndian.Uint32(buf[4:]),
			name: strings.TrimRight(string(buf[unix.SizeofInotifyEvent:end]), "\x00"),
		})
		buf = buf[end:]
	}
	return events
}
