package epoll

import "github.com/twotier/twotier/services/l7-router/internal/http1"

// BufferSize is the size of the buffers that connections borrow while something is under way: most heads fit, and a
// line of chunk framing always does.
const BufferSize = 16 << 10

// maxSpare is the most things of one kind that a loop keeps for later: enough for some thousand requests at a time, which
// take three or four buffers each. What has not been needed for a while is given up: stack.trim.
const maxSpare = 16 << 10

// buffer holds the bytes from r to w that have been read and not been used yet.
type buffer struct {
	b    []byte
	r, w int
}

func (b *buffer) bytes() []byte { return b.b[b.r:b.w] }

func (b *buffer) consume(n int) {
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// room returns the free space behind what is held, after moving that to the front when there is none.
func (b *buffer) room() []byte {
	if b.w == len(b.b) && b.r > 0 {
		b.w = copy(b.b, b.b[b.r:b.w])
		b.r = 0
	}
	return b.b[b.w:]
}

// stack keeps what has been given back; the last is taken first, because it is still in the processor's cache.
type stack[T any] struct {
	spare []*T
	least int // the fewest that there were since the last trim: those below have not been needed
}

func (s *stack[T]) pop() *T {
	n := len(s.spare)
	if n == 0 {
		return nil
	}
	last := s.spare[n-1]
	s.spare[n-1] = nil
	s.spare = s.spare[:n-1]
	s.least = min(s.least, n-1)
	return last
}

// trim gives up what has not been needed since the last time. It is for things that need not be closed.
func (s *stack[T]) trim() {
	kept := copy(s.spare, s.spare[s.least:])
	clear(s.spare[kept:])
	s.spare = s.spare[:kept]
	s.least = kept
}

// push reports whether there was room.
func (s *stack[T]) push(v *T) bool {
	if len(s.spare) == maxSpare {
		return false
	}
	s.spare = append(s.spare, v)
	return true
}

func (l *loop) borrow() *buffer {
	if b := l.buffers.pop(); b != nil {
		b.r, b.w = 0, 0
		return b
	}
	return &buffer{b: make([]byte, BufferSize)}
}

// giveBack takes nil too. The rare large buffers are left to the garbage collector.
func (l *loop) giveBack(b *buffer) {
	if b != nil && len(b.b) == BufferSize {
		l.buffers.push(b)
	}
}

// grown returns b, or a large buffer with the same content when b is full.
func (l *loop) grown(b *buffer) *buffer {
	if len(b.room()) > 0 || len(b.b) >= http1.MaxHeadBytes {
		return b
	}
	large := &buffer{b: make([]byte, http1.MaxHeadBytes)}
	large.w = copy(large.b, b.bytes())
	l.giveBack(b)
	return large
}
