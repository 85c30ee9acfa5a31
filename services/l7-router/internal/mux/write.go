package mux

import (
	"net"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

var _ net.Conn = (*Stream)(nil)

// Write writes the text of the message to the other side.
func (s *Stream) Write(p []byte) (n int, err error) {
	total := len(p)
	for len(p) > 0 && !s.out.final {
		n, err := s.writeHead(p)
		if err != nil {
			return total - len(p), err
		}
		p = p[n:]
	}
	if len(p) == 0 {
		return total, nil
	}
	if n, err := s.writeBody(p); err != nil {
		return total - len(p) + n, err
	}
	return total, nil
}

// writeHead takes text up to the end of a head, and sends that.
func (s *Stream) writeHead(p []byte) (n int, err error) {
	o := &s.out
	text, held := p, len(o.held)
	if held > 0 {
		o.held = append(o.held, p...)
		text = o.held
	}
	complete, err := o.head.Parse(text)
	switch {
	case err != nil:
		return 0, err
	case !complete && held == 0:
		o.held = append(o.held, p...)
		return len(p), nil
	case !complete:
		return len(p), nil
	}
	n = o.head.Len() - held
	if err := s.sendHead(); err != nil {
		return 0, err
	}
	o.held = o.held[:0]
	if !o.final {
		o.head.Reset(http1.Response)
	}
	return n, nil
}

func (s *Stream) sendHead() error {
	c, o := s.c, &s.out
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return s.err
		case s.closed:
			return errClosed
		}
		if len(c.pending) < MaxOut {
			break
		}
		if err := s.waitToSend(); err != nil {
			return err
		}
	}
	if c.client {
		if err := c.begin(s); err != nil {
			s.err = err
			return err
		}
		o.final, o.body = true, o.head.RequestBody()
		s.in.toHead = string(o.head.Method()) == "HEAD"
		c.block = http2.AppendRequest(c.block[:0], &o.head)
	} else {
		o.final = o.head.Status() >= 200
		if o.final {
			o.body = o.head.ResponseBody(o.toHead)
		}
		c.block = http2.AppendResponse(c.block[:0], &o.head)
	}
	o.left = o.body.Length
	end := o.final && o.body.Framing == http1.NoBody
	c.pending = http2.AppendBlock(c.pending, s.id, c.block, c.maxFrame, end)
	if end {
		s.endOut()
	}
	c.kick()
	return nil
}

// writeBody sends what p holds of the body.
func (s *Stream) writeBody(p []byte) (n int, err error) {
	o := &s.out
	switch o.body.Framing {
	case http1.Length:
		data := p[:min(int64(len(p)), o.left)]
		o.left -= int64(len(data))
		if len(data) > 0 {
			if err := s.send(data, o.left == 0); err != nil {
				return 0, err
			}
		}
	case http1.UntilClose:
		if err := s.send(p, false); err != nil {
			return 0, err
		}
	case http1.Chunked:
		return len(p), s.writeChunks(p)
	}
	return len(p), nil
}

// writeChunks sends the data of chunks. The last of it waits until it is known whether the body ends behind it.
func (s *Stream) writeChunks(p []byte) error {
	o := &s.out
	if len(o.rest) > 0 {
		o.rest = append(o.rest, p...)
		p = o.rest
	}
	var last []byte
	for {
		n, data, err := o.chunks.Next(p)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		o.trailer = append(o.trailer, o.chunks.Trailer(p, n)...)
		p = p[n:]
		if len(data) > 0 {
			if len(last) > 0 {
				if err := s.send(last, false); err != nil {
					return err
				}
			}
			last = data
		}
	}
	switch {
	case !o.chunks.Done():
		if len(last) > 0 {
			if err := s.send(last, false); err != nil {
				return err
			}
		}
	case len(o.trailer) > 2: // more than the empty line
		if len(last) > 0 {
			if err := s.send(last, false); err != nil {
				return err
			}
		}
		return s.sendTrailer()
	default:
		return s.send(last, true)
	}
	o.rest = append(o.rest[:0], p...) // p may be a part of it
	return nil
}

func (s *Stream) sendTrailer() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	c.block = http2.AppendTrailer(c.block[:0], s.out.trailer)
	c.pending = http2.AppendBlock(c.pending, s.id, c.block, c.maxFrame, true)
	s.endOut()
	c.kick()
	return nil
}

// send sends data as the windows allow, and the end of the stream behind it.
func (s *Stream) send(data []byte, end bool) error {
	c, o := s.c, &s.out
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return s.err
		case s.closed:
			return errClosed
		}
		n := min(len(data), c.maxFrame, o.window, c.window, MaxOut-len(c.pending))
		if n <= 0 && len(data) > 0 {
			if err := s.waitToSend(); err != nil {
				return err
			}
			continue
		}
		h := http2.FrameHeader{Length: n, Type: http2.Data, Stream: s.id}
		last := n == len(data)
		if last && end {
			h.Flags = http2.EndStream
		}
		c.pending = append(http2.AppendFrameHeader(c.pending, h), data[:n]...)
		o.window -= n
		c.window -= n
		c.frames.add(framesPerData)
		s.moved += n
		data = data[n:]
		if last {
			if end {
				s.endOut()
			}
			c.kick()
			return nil
		}
		c.kick()
	}
}

// waitToSend waits until a window has opened or something has been written. The caller holds c.mu.
func (s *Stream) waitToSend() error {
	if !s.out.blocked {
		s.out.blocked = true
		s.c.blocked = append(s.c.blocked, s)
	}
	err := s.wait(&s.writeWait)
	if err == nil || s.late == nil {
		return err
	}
	moved := s.moved
	s.moved = 0
	s.c.mu.Unlock()
	err = s.late(moved)
	s.c.mu.Lock()
	return err
}

// endOut notes that END_STREAM has been sent. The caller holds c.mu.
func (s *Stream) endOut() {
	s.out.ended = true
	s.settle()
}

// settle has a client's stream count no more as soon as both sides have ended it: from then on the client may begin another,
// which must not be refused because a goroutine has not come to its end. The caller holds c.mu.
func (s *Stream) settle() {
	if !s.c.client && s.in.ended && s.out.ended && !s.settled {
		s.settled = true
		s.c.unreserve()
	}
}

// CloseWrite says that no more is written: a body that ends with the connection has ended.
func (s *Stream) CloseWrite() error {
	if s.out.final && s.out.body.Framing == http1.UntilClose && !s.outEnded() {
		return s.send(nil, true)
	}
	return nil
}

func (s *Stream) outEnded() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.out.ended
}

// Abort closes so that the other side takes nothing for whole.
func (s *Stream) Abort() {
	s.c.mu.Lock()
	s.aborted = true
	s.c.mu.Unlock()
	_ = s.Close() // it only says what has been said
}

// EndWith is Abort with a code of the caller's.
func (s *Stream) EndWith(code http2.Code) {
	s.c.mu.Lock()
	s.aborted, s.code = true, code
	s.c.mu.Unlock()
	_ = s.Close() // it only says what has been said
}

// Break ends the stream as if the other side had given it up. Any goroutine may call it.
func (s *Stream) Break() {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed || s.err != nil {
		return
	}
	if s.id != 0 && c.err == nil {
		c.pending = http2.AppendReset(c.pending, s.id, http2.Cancel)
		c.noteCut(s.id)
		delete(c.streams, s.id)
		c.kick()
	}
	c.giveUp(s, &ResetError{http2.Cancel})
}

// Close ends the stream; what has not been sent to its end is reset. It may be called more than once.
func (s *Stream) Close() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed, s.onEnd = true, nil
	s.readWait.signal()
	s.writeWait.signal()
	if s.id == 0 {
		c.unreserve()
		return nil
	}
	if s.err == nil && c.err == nil {
		complete := s.out.ended
		if !complete && !c.client && !s.aborted && s.out.final && s.out.body.Framing == http1.UntilClose {
			c.pending = http2.AppendFrameHeader(c.pending, http2.FrameHeader{Type: http2.Data, Flags: http2.EndStream, Stream: s.id})
			complete = true
		}
		switch {
		case complete && s.in.ended:
		case c.client:
			c.pending = http2.AppendReset(c.pending, s.id, http2.Cancel)
		case complete:
			// The answer is there, and the rest of the request is not wanted (RFC 9113 section 8.1).
			c.pending = http2.AppendReset(c.pending, s.id, http2.NoError)
		default:
			c.pending = http2.AppendReset(c.pending, s.id, s.code)
		}
		if !s.in.ended {
			c.noteCut(s.id)
		}
		c.kick()
	}
	c.giveBack(len(s.in.data) - s.in.taken)
	s.in.taken = len(s.in.data)
	c.forget(s)
	return nil
}

// LocalAddr is that of the connection.
func (s *Stream) LocalAddr() net.Addr { return s.c.net.LocalAddr() }

// RemoteAddr is that of the connection.
func (s *Stream) RemoteAddr() net.Addr { return s.c.net.RemoteAddr() }
