package mux

import (
	"io"
	"os"
	"strconv"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

// Stream is one request and its response. At a client's connection one reads the request and writes the response, at a
// connection to a server the other way round; both are the text of HTTP/1.1. One goroutine may read while another writes.
type Stream struct {
	c  *Conn
	id uint32 // 0: not begun

	// Guarded by c.mu.
	in                  incoming
	out                 outgoing
	err                 error // why the stream has ended before its time
	closed              bool  // by its user
	aborted             bool
	settled             bool       // it does not count any more
	code                http2.Code // that it is reset with when it is closed too early
	onEnd               func()
	late                func(moved int) error
	moved               int // bytes of the body that have been sent since late was asked
	readWait, writeWait waiter

	received time.Time // of whoever serves it
}

// incoming is what has been received and not been read.
type incoming struct {
	text  []byte // of heads, framing and trailers, up to from already read
	from  int
	data  []byte // of the body, up to taken already read
	taken int
	body  http1.Body
	left  int64  // of a body whose length has been told: bytes to be received, -1: it has not
	chunk int    // of the chunk that is being read: bytes to be read
	lines []byte // of the trailer
	begun bool   // the head has been received
	done  bool   // the text has been completed
	ended bool   // END_STREAM has been received
	window,
	credit int // bytes that have been read and not been given back to the window of the stream
	toHead bool
}

// outgoing is what has been written and how far it has been sent. Its text is touched by the writer alone.
type outgoing struct {
	window  int
	ended   bool // END_STREAM has been sent
	blocked bool // in Conn.blocked

	head    http1.Head
	held    []byte // the start of a head that has not been written whole
	final   bool   // the head has been sent
	toHead  bool
	body    http1.Body
	left    int64
	chunks  http1.ChunkReader
	rest    []byte // of chunk framing that has not been written whole
	trailer []byte
}

// waiter lets one goroutine wait until it is woken or its deadline has passed.
type waiter struct {
	wake     chan struct{}
	waiting  bool
	deadline time.Time
	timer    *time.Timer
}

func newStream() *Stream {
	s := &Stream{}
	s.readWait.wake = make(chan struct{}, 1)
	s.writeWait.wake = make(chan struct{}, 1)
	return s
}

// reset makes a used stream ready for another.
func (s *Stream) reset(c *Conn) {
	s.settled = false
	s.c, s.id, s.err, s.closed, s.aborted, s.code, s.onEnd, s.late, s.moved = c, 0, nil, false, false, http2.InternalError, nil, nil, 0
	in, out := &s.in, &s.out
	*in = incoming{text: in.text[:0], data: in.data[:0], lines: in.lines[:0]}
	held, rest, trailer := out.held[:0], out.rest[:0], out.trailer[:0]
	out.window, out.ended, out.blocked, out.held, out.final, out.toHead = 0, false, false, held, false, false
	out.body, out.left, out.chunks, out.rest, out.trailer = http1.Body{}, 0, http1.ChunkReader{}, rest, trailer
	s.readWait.reset()
	s.writeWait.reset()
}

func (w *waiter) reset() {
	w.waiting, w.deadline = false, time.Time{}
	select {
	case <-w.wake:
	default:
	}
}

func (w *waiter) signal() {
	if w.waiting {
		w.waiting = false
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// wait waits for a signal. The caller holds s.c.mu, which is free meanwhile.
func (s *Stream) wait(w *waiter) error {
	var expired <-chan time.Time
	if !w.deadline.IsZero() {
		left := time.Until(w.deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		if w.timer == nil {
			w.timer = time.NewTimer(left)
		} else {
			w.timer.Reset(left)
		}
		expired = w.timer.C
	}
	w.waiting = true
	s.c.mu.Unlock()
	var err error
	select {
	case <-w.wake:
	case <-expired:
		err = os.ErrDeadlineExceeded
	}
	if expired != nil {
		w.timer.Stop()
	}
	s.c.mu.Lock()
	w.waiting = false
	if err != nil && time.Now().Before(w.deadline) {
		err = nil // it has been moved
	}
	return err
}

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline is as that of a net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadline(&s.readWait, t) }

// SetWriteDeadline is as that of a net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.writeWait, t) }

func (s *Stream) setDeadline(w *waiter, t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	w.deadline = t
	w.signal()
	return nil
}

// OnEnd has f called once when the other side gives the stream up, or at once if it has. It must not wait. nil takes it
// back.
func (s *Stream) OnEnd(f func()) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.onEnd = f
	if f != nil && s.err != nil {
		s.onEnd = nil
		f()
	}
}

// OnLate has f asked when a write has not come to its end by the write deadline; moved tells how many
// bytes of the body have been sent since it was asked before. nil lets the write go on, for which f has to set another deadline. Without f a late write fails,
// and nobody knows how much of it has been sent. It is for the goroutine that writes.
func (s *Stream) OnLate(f func(moved int) error) { s.late = f }

// Received is when the head of a client's request was received.
func (s *Stream) Received() time.Time { return s.received }

// Ended reports whether the other side has given the stream up.
func (s *Stream) Ended() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.err != nil
}

// Buffered reports whether there is something to read.
func (s *Stream) Buffered() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.in.from < len(s.in.text) || s.in.taken < len(s.in.data)
}

// Whole reports whether the message has been received to its end.
func (s *Stream) Whole() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.in.ended
}

// Read reads the text of the message that the other side sends.
func (s *Stream) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for {
		if n, data := s.in.read(p); n > 0 {
			s.giveBack(data)
			return n, nil
		}
		switch {
		case s.closed:
			return 0, errClosed
		case s.in.done:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		}
		if err := s.waitToRead(); err != nil {
			return 0, err
		}
	}
}

// waitToRead waits until something has been received. The caller holds s.c.mu.
func (s *Stream) waitToRead() error {
	if !s.in.begun {
		return s.wait(&s.readWait)
	}
	s.c.starving++
	s.c.feed()
	err := s.wait(&s.readWait)
	s.c.starving--
	return err
}

// read writes down what has been received. data is how much of it are bytes of the body.
func (in *incoming) read(p []byte) (n, data int) {
	for n < len(p) {
		if in.from < len(in.text) {
			k := copy(p[n:], in.text[in.from:])
			in.from += k
			n += k
			continue
		}
		in.text, in.from = in.text[:0], 0
		have := len(in.data) - in.taken
		switch {
		case in.done || !in.begun:
			return n, data
		case have > 0 && in.body.Framing == http1.Chunked && in.chunk == 0:
			in.chunk = have
			in.text = strconv.AppendInt(in.text, int64(have), 16)
			in.text = append(in.text, "\r\n"...)
		case have > 0:
			if in.body.Framing == http1.Chunked {
				have = in.chunk
			}
			k := copy(p[n:], in.data[in.taken:in.taken+have])
			in.taken += k
			data += k
			n += k
			if in.taken == len(in.data) {
				in.data, in.taken = in.data[:0], 0
			}
			if in.body.Framing == http1.Chunked {
				if in.chunk -= k; in.chunk == 0 {
					in.text = append(in.text, "\r\n"...)
				}
			}
		case in.ended:
			in.done = true
			if in.body.Framing == http1.Chunked {
				in.text = append(append(append(in.text, "0\r\n"...), in.lines...), "\r\n"...)
			}
		default:
			return n, data
		}
	}
	return n, data
}

// giveBack tells the other side that there is room for n bytes again: the connection at once, or streams that hold a
// little each would stop it; the stream when it is worth a frame. The caller holds s.c.mu.
func (s *Stream) giveBack(n int) {
	in := &s.in
	s.c.giveBack(n)
	if in.credit += n; in.credit >= StreamWindow/2 && !in.ended {
		in.window += in.credit
		s.c.pending = http2.AppendWindowUpdate(s.c.pending, s.id, in.credit)
		in.credit = 0
		s.c.kick()
	}
}
