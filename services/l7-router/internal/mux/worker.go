package mux

import (
	"sync"
	"time"
)

// Limits of the workers that wait for a stream.
const (
	// maxParked is the most of them.
	maxParked = 256
	// parkTime is how long one waits, as long as there are any streams.
	parkTime = 10 * time.Second
)

// Workers are goroutines that serve the streams of clients' connections, one after the other: a stack grows once for many
// requests, which costs more than a small request otherwise. The zero value is ready; connections share one. All methods may
// be called from any goroutine.
type Workers struct {
	mu      sync.Mutex // guards what follows
	parked  []*worker  // the one that was parked last is used next
	closed  bool
	running sync.WaitGroup
}

// worker is one goroutine with the stream that it serves.
type worker struct {
	pool   *Workers
	stream *Stream
	begun  bool          // there is a goroutine
	next   chan struct{} // a value: serve the stream; closed: end
	parked time.Time
}

// take returns a worker that nobody uses.
func (p *Workers) take() *worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.parked); n > 0 {
		w := p.parked[n-1]
		p.parked[n-1] = nil
		p.parked = p.parked[:n-1]
		return w
	}
	return &worker{pool: p, stream: newStream(), next: make(chan struct{}, 1)}
}

// park takes a worker back; false: it is to end.
func (p *Workers) park(w *worker) bool {
	now := w.stream.received // about; it need not ask the clock
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.parked) >= maxParked {
		return false
	}
	w.parked = now
	if len(p.parked) > 0 && now.Sub(p.parked[0].parked) > parkTime {
		close(p.parked[0].next)
		copy(p.parked, p.parked[1:])
		p.parked[len(p.parked)-1] = w
		return true
	}
	p.parked = append(p.parked, w)
	return true
}

// Close ends them; those that serve a stream end with it. It waits for all.
func (p *Workers) Close() {
	p.mu.Lock()
	p.closed = true
	for _, w := range p.parked {
		close(w.next)
	}
	p.parked = nil
	p.mu.Unlock()
	p.running.Wait()
}

// serve has the stream served by the worker's goroutine.
func (w *worker) serve() {
	w.next <- struct{}{} // there is room: it waits
	if !w.begun {
		w.begun = true
		w.pool.running.Go(w.run)
	}
}

func (w *worker) run() {
	for range w.next {
		s := w.stream
		c := s.c
		c.config.Serve(s)
		_ = s.Close() // it only says what has been said
		c.mu.Lock()
		if !s.settled {
			c.unreserve()
		}
		c.mu.Unlock()
		c.handlers.Done()
		if !w.pool.park(w) {
			return
		}
	}
}

// spare puts a worker back whose stream has come to nothing.
func (w *worker) spare() {
	if w.pool.park(w) || !w.begun {
		return
	}
	close(w.next)
}
