package mux

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

// Config is what a connection is made of.
type Config struct {
	// Serve serves one stream of a client's connection, in a goroutine that nothing else uses meanwhile; the stream is closed
	// when it returns. It must not panic.
	Serve func(*Stream)
	// Workers serve the streams; nil: some that nobody else uses.
	Workers *Workers
	// Streams is the most of them at a time; 0: DefaultStreams.
	Streams int
	// Request is how long a client may take until its first request, Idle how long a connection without any stream is kept.
	Request, Idle time.Duration
	// Refuse, when it is not 0, ends the connection at once for that reason.
	Refuse http2.Code
	// Write is how long the other side may take to read a piece of what is sent to it.
	Write time.Duration
}

// Conn is one HTTP/2 connection, of a client or to a server. Run serves it.
type Conn struct {
	net    net.Conn
	config Config
	client bool // this is the client's end
	alone  bool // its workers are its own

	// Of the goroutine of Run.
	buf           *[]byte // borrowed while there is something in it, or streams
	r, w          int
	readAt        time.Time // when what is in it was read
	small         [256]byte // what an idle connection reads into
	decoder       http2.Decoder
	head          http2.Head
	headers       http2.FrameHeader // of the block that is being read
	blockIn       []byte            // its start, when it has more than one frame
	continuations int               // more than 0: CONTINUATION has to come next
	resets        bucket
	gaps          [maxGaps][2]uint32
	gapCount      int
	greeted       bool // the other side's SETTINGS have come
	handlers      sync.WaitGroup

	mu       sync.Mutex // guards what follows; never held across I/O
	drained  *sync.Cond // of mu: something was written, or it ends
	streams  map[uint32]*Stream
	blocked  []*Stream // wait to send
	pending  []byte    // frames to be written
	spare    []byte
	block    []byte // scratch for header blocks
	frames   bucket
	writing  bool
	writer   func() // write, made once so that starting it allocates nothing
	err      error  // why it ends
	ending   bool   // nothing is served any more
	running  int    // streams that count against Config.Streams, or to a server those in use
	last     uint32 // the last stream of the other side, or the last of our own
	window   int    // what may be sent
	own      int    // what the other side may send
	returned int    // what has been read and not been given back
	extra    int    // what the other side may send beyond ConnWindow
	starving int    // streams whose reader waits for a body
	initial  int    // window of a new stream
	maxFrame int
	limit    int            // of streams, as the server says
	retiring bool           // it is to end after the streams that are there
	final    bool           // the last GOAWAY has been sent, with last in it
	cut      [maxCut]uint32 // streams that were reset before the other side had ended them
	cuts     int
	idleAt   time.Time
	timer    *time.Timer
}

var readBuffers = sync.Pool{New: func() any { b := make([]byte, 2*http2.MaxFrame); return &b }}

// keptBuffer is the largest buffer for writing that an idle connection keeps.
const keptBuffer = 4 << 10

// NewServer makes the server's end of a connection.
func NewServer(c net.Conn, config Config) *Conn { return newConn(c, config, false) }

func newConn(n net.Conn, config Config, client bool) *Conn {
	switch {
	case client:
		config.Streams = maxServerStreams
	case config.Streams == 0:
		config.Streams = DefaultStreams
	}
	c := &Conn{
		net: n, config: config, client: client,
		resets: newBucket(ResetBurst, ResetRate), frames: newBucket(FrameBurst, FrameRate),
		streams: map[uint32]*Stream{}, window: http2.InitialWindow, own: http2.InitialWindow,
		initial: http2.InitialWindow, maxFrame: http2.MaxFrame, limit: DefaultStreams, idleAt: time.Now(),
	}
	if config.Workers == nil && !client {
		c.alone, c.config.Workers = true, &Workers{}
	}
	c.drained = sync.NewCond(&c.mu)
	c.writer = c.write
	// Whoever sends first finds the greeting before him.
	if c.client {
		c.pending = append(c.pending, http2.Preface...)
		c.pending = http2.AppendSettings(c.pending,
			http2.SettingValue{Setting: http2.EnablePush, Value: 0},
			http2.SettingValue{Setting: http2.InitialWindowSize, Value: StreamWindow},
			http2.SettingValue{Setting: http2.MaxHeaderListSize, Value: http2.MaxHeaderList})
	} else {
		c.pending = http2.AppendSettings(c.pending,
			http2.SettingValue{Setting: http2.MaxConcurrentStreams, Value: uint32(c.config.Streams)},
			http2.SettingValue{Setting: http2.InitialWindowSize, Value: StreamWindow},
			http2.SettingValue{Setting: http2.MaxHeaderListSize, Value: http2.MaxHeaderList})
	}
	c.pending = http2.AppendWindowUpdate(c.pending, 0, ConnWindow-c.own)
	c.own = ConnWindow
	return c
}

// Run serves the connection until it ends, and closes it. What has been read of it already comes first.
func (c *Conn) Run(already []byte) error {
	c.readAt = time.Now()
	c.begun(already)
	var err error
	if c.config.Refuse != 0 {
		err = &http2.ConnError{Code: c.config.Refuse, Reason: "not on this connection"}
	} else {
		err = c.read()
	}
	c.end(err)
	c.handlers.Wait()
	if c.alone {
		c.config.Workers.Close()
	}
	return err
}

func (c *Conn) begun(already []byte) {
	if len(already) > 0 {
		c.buf = readBuffers.Get().(*[]byte)
		if len(already) > len(*c.buf) {
			larger := make([]byte, len(already))
			c.buf = &larger
		}
		c.w = copy(*c.buf, already)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kick()
	first := c.config.Request
	if c.client {
		first = c.config.Idle
	}
	c.timer = time.AfterFunc(first, c.idle)
}

// idle is called when it may have been without streams for too long.
func (c *Conn) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return
	}
	limit := c.config.Idle
	if !c.client && c.last == 0 {
		limit = c.config.Request
	}
	left := limit
	if c.running == 0 {
		left = limit - time.Since(c.idleAt)
	}
	if left > 0 {
		c.timer.Reset(left)
		return
	}
	c.finish()
}

// Retire lets the connection end after the streams that are there. A client that is sending requests meanwhile gets to
// know which of them are still served (RFC 9113 section 6.8).
func (c *Conn) Retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retiring || c.ending {
		return
	}
	c.retiring = true
	if c.client {
		if c.running == 0 {
			c.finish()
		}
		return
	}
	c.pending = http2.AppendGoAway(c.pending, http2.MaxStreamID, http2.NoError, "")
	c.pending = http2.AppendPing(c.pending, 0, goAwayPing[:])
	c.kick()
	time.AfterFunc(goAwayPause, c.lastGoAway) // at the latest; it finds nothing to do once the PING is back
}

var goAwayPing = [8]byte{'g', 'o', 'i', 'n', 'g', 0, 0, 1}

// lastGoAway says which stream was the last.
func (c *Conn) lastGoAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.final || c.ending {
		return
	}
	if c.running == 0 {
		c.finish()
		return
	}
	c.final = true
	c.pending = http2.AppendGoAway(c.pending, c.last, http2.NoError, "")
	c.kick()
}

// finish ends a connection that has no streams. The caller holds c.mu.
func (c *Conn) finish() {
	if !c.final && !c.client {
		c.pending = http2.AppendGoAway(c.pending, c.last, http2.NoError, "")
		c.final = true
	}
	c.ending = true
	c.kick()
	c.interrupt()
}

// interrupt wakes the goroutine of Run. The caller holds c.mu.
func (c *Conn) interrupt() {
	_ = c.net.SetReadDeadline(time.Unix(1, 0)) // a closed one has ended already
	c.drained.Broadcast()
}

// Abort ends it at once, with all its streams.
func (c *Conn) Abort() {
	c.mu.Lock()
	c.fail(net.ErrClosed)
	c.mu.Unlock()
	_ = c.net.Close() // nothing to be saved
}

// fail ends all streams. The caller holds c.mu.
func (c *Conn) fail(err error) {
	c.ending = true
	if c.err != nil {
		return
	}
	c.err = err
	for _, s := range c.streams {
		c.giveUp(s, err)
	}
	c.interrupt()
}

// giveUp tells the user of a stream that it has ended before its time. The caller holds c.mu.
func (c *Conn) giveUp(s *Stream, err error) {
	if s.err == nil {
		s.err = err
	}
	s.readWait.signal()
	s.writeWait.signal()
	if f := s.onEnd; f != nil {
		s.onEnd = nil
		f()
	}
}

// end is how Run ends: it says why, and waits a moment until that has been read.
func (c *Conn) end(err error) {
	c.mu.Lock()
	c.timer.Stop()
	var wrong *http2.ConnError
	if errors.As(err, &wrong) && c.err == nil {
		c.pending = http2.AppendGoAway(c.pending, c.lastOfPeer(), wrong.Code, wrong.Reason)
	}
	ours := err == nil || wrong != nil
	if err == nil {
		err = net.ErrClosed
	}
	c.kick()
	c.ending = true
	_ = c.net.SetWriteDeadline(time.Now().Add(lingerTimeout)) // the write says why it cannot be
	for c.writing {
		c.drained.Wait()
	}
	c.fail(err)
	c.mu.Unlock()
	if half, ok := c.net.(interface{ CloseWrite() error }); ok && ours && half.CloseWrite() == nil {
		_ = c.net.SetReadDeadline(time.Now().Add(lingerTimeout)) // the read says why it cannot be
		b := c.small[:]
		if c.buf != nil {
			b = *c.buf
		}
		for left := lingerBytes; left > 0; {
			n, err := c.net.Read(b)
			if left -= n; err != nil {
				break
			}
		}
	}
	_ = c.net.Close() // whatever had to be said has been said
	c.releaseBuffer()
}

func (c *Conn) lastOfPeer() uint32 {
	if c.client {
		return 0
	}
	return c.last
}

// kick has pending frames written. The caller holds c.mu.
func (c *Conn) kick() {
	if !c.writing && len(c.pending) > 0 && c.err == nil {
		c.writing = true
		go c.writer() // end waits for it
	}
}

// write writes until nothing is pending. It lets other streams come first, so that many frames go out in one call.
func (c *Conn) write() {
	runtime.Gosched()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) > 0 && c.err == nil {
		b := c.pending
		c.pending = c.spare[:0]
		c.wakeBlocked()
		timeout := c.config.Write
		if c.ending {
			timeout = min(timeout, lingerTimeout)
		}
		c.mu.Unlock()
		err := c.writeAll(b, timeout)
		c.mu.Lock()
		c.spare = b
		c.drained.Broadcast()
		if err != nil {
			c.fail(err)
		}
	}
	if c.running == 0 { // what an idle connection does not need
		if cap(c.pending) > keptBuffer {
			c.pending = nil
		}
		if cap(c.spare) > keptBuffer {
			c.spare = nil
		}
	}
	c.writing = false
	c.drained.Broadcast()
}

func (c *Conn) writeAll(b []byte, timeout time.Duration) error {
	for len(b) > 0 {
		_ = c.net.SetWriteDeadline(time.Now().Add(timeout)) // the write says why it cannot be
		n, err := c.net.Write(b[:min(len(b), writePiece)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// wakeBlocked lets streams that wait to send look again. The caller holds c.mu.
func (c *Conn) wakeBlocked() {
	for i, s := range c.blocked {
		s.out.blocked = false
		s.writeWait.signal()
		c.blocked[i] = nil
	}
	c.blocked = c.blocked[:0]
}

// giveBack gives bytes back to the window of the connection. The caller holds c.mu.
func (c *Conn) giveBack(n int) {
	less := min(n, c.extra)
	c.extra -= less
	c.returned += n - less
	if c.returned > 0 && c.returned >= min(ConnWindow/4, c.own) { // little is worth a frame when less is left
		c.open(c.returned)
		c.returned = 0
	}
}

// feed gives the connection more of a window when other streams hold all of it and readers wait: those who do not read, slow
// clients of a server for instance, stop nobody but themselves. It is taken back as soon as anything is read. The caller
// holds c.mu.
func (c *Conn) feed() {
	if c.own < http2.MaxFrame && c.starving > 0 && c.extra < c.config.Streams*StreamWindow {
		c.extra += StreamWindow
		c.open(StreamWindow)
	}
}

// open lets the other side send n bytes more on all streams together. The caller holds c.mu.
func (c *Conn) open(n int) {
	c.own += n
	c.pending = http2.AppendWindowUpdate(c.pending, 0, n)
	c.kick()
}

// forget takes a stream off the connection. The caller holds c.mu.
func (c *Conn) forget(s *Stream) {
	delete(c.streams, s.id)
	if s.out.blocked {
		s.out.blocked = false
		for i, other := range c.blocked {
			if other == s {
				c.blocked[i] = c.blocked[len(c.blocked)-1]
				c.blocked = c.blocked[:len(c.blocked)-1]
				break
			}
		}
	}
	if c.client {
		c.unreserve()
	}
}

// unreserve counts a stream as over. The caller holds c.mu.
func (c *Conn) unreserve() {
	c.running--
	if c.running > 0 || c.ending {
		return
	}
	c.idleAt = time.Now()
	if c.final || c.client && c.retiring {
		c.finish()
	}
}

// fill reads more. An idle connection holds no buffer meanwhile.
func (c *Conn) fill() error {
	c.mu.Lock()
	for len(c.pending) > MaxPending && c.err == nil {
		c.drained.Wait()
	}
	idle, ending, err := c.running == 0, c.ending, c.err
	c.mu.Unlock()
	switch {
	case err != nil:
		return err
	case ending:
		return nil
	}
	if c.r == c.w && idle {
		c.releaseBuffer()
		n, err := c.net.Read(c.small[:])
		if n > 0 {
			c.readAt = time.Now()
			c.buf = readBuffers.Get().(*[]byte)
			c.w = copy(*c.buf, c.small[:n])
			return nil
		}
		return err
	}
	if c.buf == nil {
		c.buf = readBuffers.Get().(*[]byte)
	}
	if c.w == len(*c.buf) {
		c.w = copy(*c.buf, (*c.buf)[c.r:c.w])
		c.r = 0
	}
	n, err := c.net.Read((*c.buf)[c.w:])
	c.w += n
	if n > 0 {
		c.readAt = time.Now()
		return nil
	}
	return err
}

func (c *Conn) releaseBuffer() {
	if c.buf != nil {
		readBuffers.Put(c.buf)
	}
	c.buf, c.r, c.w = nil, 0, 0
}

// need makes n bytes available.
func (c *Conn) need(n int) ([]byte, error) {
	for c.w-c.r < n {
		if c.r == c.w {
			c.r, c.w = 0, 0
		}
		err := c.fill()
		c.mu.Lock()
		ending := c.ending && c.err == nil
		c.mu.Unlock()
		switch {
		case ending:
			return nil, errEnding
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errEnding
		case errors.Is(err, io.EOF) && c.w > c.r:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
	return (*c.buf)[c.r : c.r+n], nil
}

var errEnding = errors.New("ending")

// read takes frames until the connection ends; nil: as it should.
func (c *Conn) read() error {
	if !c.client {
		b, err := c.need(len(http2.Preface))
		if err != nil {
			return unlessEnding(err)
		}
		if string(b) != http2.Preface {
			return &http2.ConnError{Code: http2.ProtocolError, Reason: "not the preface of HTTP/2"}
		}
		c.r += len(http2.Preface)
	}
	for {
		b, err := c.need(http2.FrameHeaderLen)
		if err != nil {
			return unlessEnding(err)
		}
		h := http2.ParseFrameHeader(b)
		if h.Length > http2.MaxFrame {
			return &http2.ConnError{Code: http2.FrameSizeError, Reason: "a frame larger than SETTINGS_MAX_FRAME_SIZE"}
		}
		if b, err = c.need(http2.FrameHeaderLen + h.Length); err != nil {
			return unlessEnding(err)
		}
		c.r += len(b)
		if err = c.frame(h, b[http2.FrameHeaderLen:]); err == nil {
			continue
		}
		var stream *http2.StreamError
		if errors.As(err, &stream) {
			err = c.refuse(h.Stream, stream)
		}
		if err != nil {
			return err
		}
	}
}

func unlessEnding(err error) error {
	if err == errEnding || err == io.EOF {
		return nil
	}
	return err
}

// refuse resets a stream because of what the other side has sent.
func (c *Conn) refuse(id uint32, refused *http2.StreamError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case !c.frames.take():
		return errCalm
	case s != nil && !c.client && !s.out.ended && !c.resets.take():
		return errResets // having a request reset is as good as resetting it (CVE-2025-8671)
	}
	c.pending = http2.AppendReset(c.pending, id, refused.Code)
	c.kick()
	c.noteCut(id)
	if s != nil {
		delete(c.streams, id)
		c.giveUp(s, refused)
	}
	return nil
}

// noteCut remembers a stream that is reset before the other side has ended it. The caller holds c.mu.
func (c *Conn) noteCut(id uint32) {
	c.cut[c.cuts%maxCut] = id
	c.cuts++
}

var (
	errCalm   = &http2.ConnError{Code: http2.EnhanceYourCalm, Reason: "too many frames that bring nothing forward"}
	errResets = &http2.ConnError{Code: http2.EnhanceYourCalm, Reason: "too many streams reset"}
)
