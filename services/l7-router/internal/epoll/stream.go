package epoll

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

const (
	// spliceMin is the least rest of a body, or of a chunk, that is worth a pipe.
	spliceMin = 64 << 10
	// maxMoves is how often a stream reads before others have their turn: 512 KiB through pipes.
	maxMoves = 2
	// endless is the length of what ends with the connection.
	endless = int64(1) << 60
)

var errCut = errors.New("the body ends too early")

// progress says why a stream does not go on.
type progress uint8

const (
	reads       progress = iota // it waits for the sender
	writes                      // it waits for the receiver
	yields                      // it could go on, but it is the others' turn
	done                        // the whole body has been passed on
	readFailed                  // nothing more comes from the sender: stream.err
	writeFailed                 // the receiver takes no more
)

// stream moves one message from one socket to another, as far as both let it. move is called whenever one of them may
// let it again.
type stream struct {
	loop     *loop
	from, to *sock
	// head goes out before the body, together with the first bytes of the body when they fit behind it.
	head []byte
	body http1.Body
	// unchunk: only the data of chunks is passed on.
	unchunk bool

	// in holds what has been read: up to ready it may be written, up to passed it has been looked at, and from there on
	// it may belong to the next message. nil: nothing.
	in            *buffer
	ready, passed int
	left          int64 // of a body with a length
	chunks        http1.ChunkReader
	over          bool  // all of the body has been read
	pipe          *pipe // holds what has been spliced in and not yet out
	noSplice      bool
	full          bool // the last read has filled the buffer, so there is much to come

	state progress
	moved bool // a byte has been read or written; whoever looks at it resets it
	sent  bool // a byte has been written
	err   error
	put   int64 // how many bytes have been written; whoever counts them resets it
}

// begin makes s ready for a message of which the start may be in s.in already.
func (s *stream) begin(from, to *sock, head []byte, body http1.Body, unchunk bool) {
	s.from, s.to, s.head, s.body, s.unchunk = from, to, head, body, unchunk
	s.chunks, s.left, s.over, s.noSplice, s.full = http1.ChunkReader{}, body.Length, false, false, false
	s.chunks.Limit(body.Length)
	s.chunks.Reserve(body.Reserved)
	s.state, s.sent, s.err = reads, false, nil
	if s.in != nil {
		s.ready, s.passed = s.in.r, s.in.r
	}
	s.err = s.look()
}

// rest gives everything back that s has borrowed.
func (s *stream) rest() {
	s.loop.giveBack(s.in)
	s.in = nil
	s.dropPipe()
	s.from, s.to, s.head = nil, nil, nil
}

func (s *stream) dropPipe() {
	if s.pipe != nil {
		s.loop.giveBackPipe(s.pipe)
		s.pipe = nil
	}
}

// empty reports whether everything that has been read has been used.
func (s *stream) empty() bool { return s.in == nil || s.in.r == s.in.w }

// move goes on until it has to wait, or it is the others' turn.
func (s *stream) move() progress {
	s.state = s.run()
	if s.state == reads && s.in != nil && s.empty() {
		s.loop.giveBack(s.in) // who knows how long the sender takes
		s.in = nil
	}
	if s.pipe != nil && s.pipe.held == 0 {
		s.dropPipe()
	}
	return s.state
}

func (s *stream) run() progress {
	if s.err != nil {
		return s.fail()
	}
	for range maxMoves {
		if state := s.flush(); state != done || s.over {
			return state
		}
		if !s.from.readable {
			return reads
		}
		if state := s.take(); state != done {
			return state
		}
	}
	return yields
}

// flush writes everything that may be written.
func (s *stream) flush() progress {
	if len(s.head) > 0 {
		if n := s.ready; s.in != nil && s.in.r < n && n-s.in.r <= cap(s.head)-len(s.head) {
			s.head = append(s.head, s.in.b[s.in.r:n]...)
			s.used(n)
		}
		n, err := s.write(s.head)
		s.head = s.head[n:]
		if err != done {
			return err
		}
	}
	if s.in != nil && s.in.r < s.ready {
		n, err := s.write(s.in.b[s.in.r:s.ready])
		s.used(s.in.r + n)
		if err != done {
			return err
		}
	}
	for s.pipe != nil && s.pipe.held > 0 {
		held := s.pipe.held
		switch err := s.pipe.pour(s.to); err {
		case 0:
			s.moved, s.sent = true, true
			s.put += held - s.pipe.held
		case unix.EAGAIN:
			return writes
		default:
			return writeFailed
		}
	}
	return done
}

// used tells that in has been written up to a place.
func (s *stream) used(to int) {
	s.in.r = to
	if to < s.ready {
		return
	}
	s.in.r = s.passed
	s.in.consume(0) // back to the front when it is empty
	s.ready, s.passed = s.in.r, s.in.r
}

// write writes all of p or says why not.
func (s *stream) write(p []byte) (n int, state progress) {
	for n < len(p) {
		if !s.to.writable {
			return n, writes
		}
		m, err := s.to.write(p[n:])
		switch err {
		case 0:
			s.moved, s.sent = true, true
			s.put += int64(m)
			n += m
		case unix.EAGAIN:
			return n, writes
		default:
			return n, writeFailed
		}
	}
	return n, done
}

// take reads once, into the buffer or into a pipe.
func (s *stream) take() progress {
	if left := s.spliceable(); left >= spliceMin && s.empty() && !s.noSplice {
		return s.splice(left)
	}
	if s.in == nil {
		s.in = s.loop.borrow()
		s.ready, s.passed = 0, 0
	}
	room := s.in.room()
	s.ready, s.passed = s.in.r, s.in.r // room may have moved it; and everything has been written
	n, err := s.from.read(room)
	s.full = n == len(room)
	switch {
	case err == unix.EAGAIN:
		return reads
	case err != 0:
		s.err = err
		return readFailed
	case n == 0:
		return s.end()
	}
	s.moved = true
	s.in.w += n
	if s.err = s.look(); s.err != nil {
		return s.fail()
	}
	return done
}

// fail ends a message whose framing is bad. Data that had been told from its framing goes out before.
func (s *stream) fail() progress {
	if s.unchunk && s.in != nil && s.in.r < s.ready {
		s.flush()
	}
	return readFailed
}

// look finds out which of the bytes in the buffer belong to the message.
func (s *stream) look() error {
	in := s.in
	if in == nil {
		s.over = s.body.Framing == http1.NoBody
		return nil
	}
	switch s.body.Framing {
	case http1.NoBody:
		s.over = true
	case http1.Length:
		n := min(int64(in.w-s.passed), s.left)
		s.passed += int(n)
		s.left -= n
		s.ready = s.passed
		s.over = s.left == 0
	case http1.Chunked:
		for {
			n, data, err := s.chunks.Next(in.b[s.passed:in.w])
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			from, to := s.chunks.Drop()
			switch {
			case s.unchunk:
				s.ready += copy(in.b[s.ready:], data)
			case from == to && s.ready == s.passed:
				s.ready += n
			default:
				s.ready += copy(in.b[s.ready:], in.b[s.passed:s.passed+from])
				s.ready += copy(in.b[s.ready:], in.b[s.passed+to:s.passed+n])
			}
			s.passed += n
		}
		s.over = s.chunks.Done()
		if s.ready == in.r { // framing only, and none of it is passed on
			s.used(s.ready)
		}
	case http1.UntilClose:
		s.passed, s.ready = in.w, in.w
	}
	return nil
}

// end is the end of the sender's stream.
func (s *stream) end() progress {
	if s.body.Framing == http1.UntilClose {
		s.over = true
		return done
	}
	s.err = errCut
	return readFailed
}

// spliceable is how many of the next bytes need not be looked at.
func (s *stream) spliceable() int64 {
	switch s.body.Framing {
	case http1.Length:
		return s.left
	case http1.Chunked:
		return s.chunks.Left()
	case http1.UntilClose:
		if s.full || s.pipe != nil {
			return endless
		}
	}
	return 0
}

// splice takes at most n bytes without bringing them into this process. While it waits for the sender it holds no pipe.
func (s *stream) splice(n int64) progress {
	if s.pipe == nil {
		if s.pipe = s.loop.borrowPipe(); s.pipe == nil {
			s.noSplice = true // no descriptors: copy
			return done
		}
	}
	took, err := s.pipe.fill(s.from, n)
	if err == 0 && took > 0 {
		s.moved = true
		switch s.body.Framing {
		case http1.Length:
			s.left -= took
			s.over = s.left == 0
		case http1.Chunked:
			s.chunks.Skip(took)
		}
		return done
	}
	s.dropPipe()
	s.full = false
	switch err {
	case 0:
		return s.end()
	case unix.EAGAIN:
		return reads
	case unix.EINVAL:
		s.noSplice = true // the kernel does not splice from this socket
		return done
	}
	s.err = err
	return readFailed
}
