package proxy

import (
	"sync"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// BufferSize is the size of the buffers that connections borrow while something is under way: most heads fit, and a
// line of chunk framing always does.
const BufferSize = 16 << 10

// buffer holds the bytes from r to w that have been read and not been used yet.
type buffer struct {
	b    []byte
	r, w int
}

var (
	buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, BufferSize)} }}
	// large ones are for the rare heads beyond BufferSize.
	large = sync.Pool{New: func() any { return &buffer{b: make([]byte, http1.MaxHeadBytes)} }}
)

func borrow() *buffer {
	b := buffers.Get().(*buffer)
	b.r, b.w = 0, 0
	return b
}

// giveBack takes nil too.
func giveBack(b *buffer) {
	switch {
	case b == nil:
	case len(b.b) == BufferSize:
		buffers.Put(b)
	default:
		large.Put(b)
	}
}

func (b *buffer) bytes() []byte { return b.b[b.r:b.w] }

func (b *buffer) empty() bool { return b.r == b.w }

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

// grown returns b, or a large buffer with the same content when b is full.
func grown(b *buffer) *buffer {
	if len(b.room()) > 0 || len(b.b) >= http1.MaxHeadBytes {
		return b
	}
	l := large.Get().(*buffer)
	l.r, l.w = 0, copy(l.b, b.bytes())
	giveBack(b)
	return l
}
