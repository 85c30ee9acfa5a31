package mux

import (
	"errors"
	"net"
	"sync"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

// Limits of the connections to one server.
const (
	// MaxConns is the most of them. Beyond it a request is refused as if the server could not be connected to.
	MaxConns = 64
	// maxServerStreams is the most requests at a time on one, whatever the server allows.
	maxServerStreams = 250
	// maxSettings is the most bytes of a SETTINGS frame.
	maxSettings = 6 * 64
)

// NewClient makes our end of a connection to a server. Run serves it.
func NewClient(c net.Conn, config Config) *Conn { return newConn(c, config, true) }

// Open reserves a stream for one request; nil: there is no room on this connection.
func (c *Conn) Open() *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retiring || c.ending || c.err != nil || c.running >= c.limit || c.last > http2.MaxStreamID-2*maxServerStreams {
		return nil
	}
	c.running++
	s := newStream() // who used one may close it twice, so none is used again
	s.reset(c)
	s.out.head.Reset(http1.Request)
	return s
}

// begin gives a stream its number when its first frame is sent. The caller holds c.mu.
func (c *Conn) begin(s *Stream) error {
	if c.retiring || c.ending || c.err != nil {
		return ErrUntouched
	}
	if c.last == 0 {
		c.last = 1
	} else {
		c.last += 2
	}
	s.id = c.last
	s.in.window, s.out.window = StreamWindow, c.initial
	c.streams[s.id] = s
	return nil
}

// Group is the connections to one server, shared by its requests. The zero value has none. All methods may be called
// from any goroutine.
type Group struct {
	mu      sync.Mutex // guards what follows; never held across I/O
	conns   []*Conn
	dialing *dial // nil: nobody makes a connection
	closed  bool
	running sync.WaitGroup
}

// dial is the making of one connection, for which everyone who needs one waits.
type dial struct {
	done chan struct{}
	err  error
}

var errFull = errors.New("too many connections to the server")

// Open returns a stream on the least busy connection; connect makes another when there is none with room. fresh reports
// whether the stream is the first of its connection.
func (g *Group) Open(connect func() (net.Conn, error), config Config) (s *Stream, fresh bool, err error) {
	g.mu.Lock()
	for {
		if s := g.pick(); s != nil {
			g.mu.Unlock()
			return s, false, nil
		}
		if g.closed || len(g.conns) >= MaxConns {
			g.mu.Unlock()
			return nil, false, errFull
		}
		d := g.dialing
		if d == nil {
			break
		}
		g.mu.Unlock()
		<-d.done // as long as connect takes
		if d.err != nil {
			return nil, false, d.err
		}
		g.mu.Lock()
	}
	d := &dial{done: make(chan struct{})}
	g.dialing = d
	g.mu.Unlock()
	n, err := connect()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dialing, d.err = nil, err
	defer close(d.done)
	if err != nil {
		return nil, false, err
	}
	return g.add(n, config), true, nil
}

// pick opens a stream on the least busy connection. The caller holds g.mu.
func (g *Group) pick() *Stream {
	var best *Conn
	least := 0
	for _, c := range g.conns {
		c.mu.Lock()
		n, room := c.running, !c.retiring && !c.ending && c.running < c.limit
		c.mu.Unlock()
		if room && (best == nil || n < least) {
			best, least = c, n
		}
	}
	if best == nil {
		return nil
	}
	return best.Open()
}

// add takes a new connection and opens its first stream. The caller holds g.mu.
func (g *Group) add(n net.Conn, config Config) *Stream {
	c := NewClient(n, config)
	s := c.Open()
	g.conns = append(g.conns, c)
	g.running.Go(func() {
		_ = c.Run(nil) // its streams have been told
		g.mu.Lock()
		defer g.mu.Unlock()
		for i, other := range g.conns {
			if other == c {
				g.conns[i] = g.conns[len(g.conns)-1]
				g.conns = g.conns[:len(g.conns)-1]
				return
			}
		}
	})
	if g.closed {
		c.Retire()
	}
	return s
}

// Clear lets the connections that are there end with their requests; the next request makes another.
func (g *Group) Clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Retire()
	}
}

// Retire is Clear for good: no other connection is made.
func (g *Group) Retire() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.Clear()
}

// Close ends all connections at once, and waits for that.
func (g *Group) Close() {
	g.Retire()
	g.mu.Lock()
	for _, c := range g.conns {
		c.Abort()
	}
	g.mu.Unlock()
	g.running.Wait()
}
