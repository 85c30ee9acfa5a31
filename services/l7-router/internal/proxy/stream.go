package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
	"github.com/twotier/twotier/services/l7-router/internal/mux"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// A stream of HTTP/2 is a connection that carries one request. It has a goroutine of its own, as a connection of HTTP/1.1
// has, and everything is done with it that is done with those; only splice(2) is not to be had.

// preface reports whether a connection begins with that of HTTP/2, for which it may have to wait. What has come stays in
// c.in.
func (c *conn) preface(due time.Time) bool {
	_ = c.SetReadDeadline(due) // the read says why it cannot be
	for {
		have := c.in.bytes()
		if len(have) >= len(http2.Preface) {
			return string(have[:len(http2.Preface)]) == http2.Preface
		}
		if !strings.HasPrefix(http2.Preface, string(have)) {
			return false
		}
		c.at = 0
		n, err := c.Read(c.in.room())
		c.in.w += n
		if err != nil && n == 0 {
			return false // reading on says the same
		}
	}
}

// multiplex serves a client that speaks HTTP/2, whose first bytes may be in c.in.
func (c *conn) multiplex() {
	f := &c.listener.Frontend().Current().Spec
	config := mux.Config{
		Serve: c.serveStream, Workers: &c.driver.workers, Streams: f.HTTP2.Streams,
		Request: f.TimeoutRequest, Idle: f.TimeoutKeepAlive, Write: f.TimeoutClient,
	}
	if c.secure != nil && !adequate(c.secure.ConnectionState()) {
		config.Refuse = http2.InadequateSecurity
	}
	c.state.Store(busy)
	if c.via == nil {
		ends := c.ends() // a stream has none to ask
		c.via = &ends
	}
	streams := mux.NewServer(c.sock, config)
	var already []byte
	if c.in != nil {
		already = append(already, c.in.bytes()...)
	}
	c.rest()
	c.streams.Store(streams)
	if c.closing() {
		streams.Retire()
	}
	if err := streams.Run(already); err != nil {
		c.log.Debug("HTTP/2 connection ended", zap.String("client", c.client.Address), zap.Error(err))
	}
}

// adequate reports whether TLS is good enough for HTTP/2: not one of the cipher suites of RFC 9113 appendix A.
func adequate(state tls.ConnectionState) bool {
	if state.Version >= tls.VersionTLS13 {
		return true
	}
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return true
	}
	return false
}

// streamConns holds conns of streams that have ended, so that a request allocates nothing.
var streamConns = sync.Pool{New: func() any {
	c := newConn(&sock{}, nil, exchange.Client{}, nil)
	c.late = c.writeLate
	return c
}}

// writeLate decides whether a write to a stream that is late goes on, as with TLS: half of it may have been sent.
func (s *sock) writeLate(moved int) error {
	d := s.writing
	if d == nil {
		return os.ErrDeadlineExceeded
	}
	d.gave(int64(moved))
	if err := d.afterWrite(os.ErrDeadlineExceeded); err != nil {
		return err
	}
	return d.beforeWrite()
}

// streamSet is the streams of a connection that are being served.
type streamSet struct {
	mu  sync.Mutex // guards all and the place of each
	all []*conn
}

func (s *streamSet) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.place = len(s.all)
	s.all = append(s.all, c)
}

func (s *streamSet) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.all) - 1
	s.all[c.place] = s.all[last]
	s.all[c.place].place = c.place
	s.all[last] = nil
	s.all = s.all[:last]
}

// serving appends the connections to a server that they are being served on.
func (s *streamSet) serving(server uint64, to []*sock) []*sock {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if srv := c.serving.Load(); srv != nil && srv.server == server {
			to = append(to, srv)
		}
	}
	return to
}

// serveStream carries the request of one stream.
func (c *conn) serveStream(s *mux.Stream) {
	one := streamConns.Get().(*conn)
	one.h2, one.driver, one.listener, one.client, one.log = s, c.driver, c.listener, c.client, c.log
	one.who, one.via = c.who, c.via
	one.writing, one.lingers = nil, false
	one.readDue.forget()
	one.writeDue.forget()
	s.OnLate(one.late)
	c.carrying.add(one)
	defer func() {
		c.carrying.remove(one)
		if cause := recover(); cause != nil {
			// One faulty exchange must not take the others down with it; its conn is not used again.
			c.log.Error("stream panicked", zap.Any("panic", cause), zap.StackSkip("stack", 1))
			s.Abort()
			return
		}
		s.OnEnd(nil)
		one.h2 = nil
		streamConns.Put(one)
	}()
	one.serve()
}

// wake has the one who waits for a server look at the client, which has given its stream up.
func (r *relay) wake() { expire(r.srv) }

// passReset has the client's stream end as that of the server has ended.
func (c *conn) passReset(err error) {
	var reset *mux.ResetError
	if c.h2 != nil && errors.As(err, &reset) {
		c.h2.EndWith(reset.Code)
	}
}

// idleStreams is how long a connection to an h2c server is kept without requests. A server that closes one says which
// requests it has not looked at, so this may be long.
const idleStreams = time.Minute

// minUnacknowledged is the least time after which a connection to an h2c server is given up when nothing of what has been
// sent is acknowledged, so that a few lost packets do not end all its requests; else it is timeout_server. Without an end
// requests would be sent for a quarter of an hour where nobody is any more (net.ipv4.tcp_retries2).
const minUnacknowledged = 5 * time.Second

// streamTries is how often a request that a server has told to be untouched is sent to it again, over another connection.
const streamTries = 3

// streams are the shared connections to one server.
type streams struct {
	mux.Group
	driver *Driver
}

// Retire lets them end with their requests, for good.
func (s *streams) Retire() {
	s.Group.Retire()
	s.driver.mu.Lock()
	defer s.driver.mu.Unlock()
	delete(s.driver.groups, s)
}

// tryStreams carries the request to a server that speaks HTTP/2 in cleartext. An error means that it has not looked at it.
func (c *conn) tryStreams(f *exchange.Frontend, server *pool.Server, keep bool) (goOn bool, err error) {
	x := &c.request
	shared, ok := server.Shared(c.driver.newStreams).(*streams)
	if !ok {
		return false, errStale // of another driver, which the tests may have
	}
	connect := func() (net.Conn, error) {
		dialer := net.Dialer{
			Timeout: x.Backend.Spec.TimeoutConnect, KeepAlive: tcp.KeepAlive,
			Control: func(_, _ string, raw syscall.RawConn) error {
				return tcp.GiveUp(raw, max(x.Backend.Spec.TimeoutServer, minUnacknowledged))
			},
		}
		return dialer.Dial("tcp", server.Address())
	}
	config := mux.Config{Idle: idleStreams, Write: x.Backend.Spec.TimeoutServer}
	for range streamTries {
		c.at = 0 // whoever needs a connection waits for it
		s, fresh, err := shared.Open(connect, config)
		if err != nil {
			server.ConnectFailed(err)
			x.ConnectFailed()
			return false, err
		}
		srv := &sock{h2: s, server: server.ID()}
		s.OnLate(srv.writeLate)
		goOn, err = c.through(f, server, srv, !fresh, keep)
		if err == nil || errors.Is(err, errAgain) {
			return goOn, err
		}
	}
	return false, errStale
}

// topUp takes what has come of a body of that length, if it fits the buffer, without waiting: a request that is here whole is
// sent without a goroutine of its own, and can be sent again.
func (c *conn) topUp(length int64) {
	for {
		room := c.in.room()
		left := int(length) - len(c.in.bytes())
		if left <= 0 || left > len(room) || !c.h2.Buffered() {
			return
		}
		n, err := c.h2.Read(room[:left])
		if err != nil {
			return
		}
		c.in.w += n
	}
}

// plain reports whether it is a TCP connection in cleartext, which the kernel can splice.
func (s *sock) plain() bool { return s.secure == nil && s.h2 == nil }

// SetDeadline is as that of a net.Conn.
func (s *sock) SetDeadline(t time.Time) error {
	defer s.readDue.forget()
	defer s.writeDue.forget()
	if s.h2 != nil {
		return s.h2.SetDeadline(t)
	}
	return s.stream.SetDeadline(t)
}

// SetReadDeadline is as that of a net.Conn.
func (s *sock) SetReadDeadline(t time.Time) error {
	defer s.readDue.forget()
	if s.h2 != nil {
		return s.h2.SetReadDeadline(t)
	}
	return s.stream.SetReadDeadline(t)
}

// SetWriteDeadline is as that of a net.Conn.
func (s *sock) SetWriteDeadline(t time.Time) error {
	defer s.writeDue.forget()
	if s.h2 != nil {
		return s.h2.SetWriteDeadline(t)
	}
	return s.stream.SetWriteDeadline(t)
}

// due is the deadline in force for one direction of a socket, on the clock of now; 0: not known.
type due struct{ at atomic.Int64 }

// forget is called when another deadline has been set, perhaps by another goroutine, or this one has passed.
func (d *due) forget() { d.at.Store(0) }

// serves reports whether it will do for a wait that begins now and is to end then. One that comes earlier than it need, but not
// soon, does: whoever waits looks how long it has been, and waits on. To set one costs as much as to parse a request.
func (d *due) serves(now, then int64) bool {
	at := d.at.Load()
	return at <= then && at-now >= (then-now)/2
}

// readBy has a read end after wait or somewhat earlier. A closed socket has no deadline; the read says so.
func (s *sock) readBy(now int64, wait time.Duration) {
	if then := now + int64(wait); !s.readDue.serves(now, then) {
		_ = s.SetReadDeadline(epoch.Add(time.Duration(then)))
		s.readDue.at.Store(then)
	}
}

// writeBy is readBy for a write.
func (s *sock) writeBy(now int64, wait time.Duration) {
	if then := now + int64(wait); !s.writeDue.serves(now, then) {
		_ = s.SetWriteDeadline(epoch.Add(time.Duration(then)))
		s.writeDue.at.Store(then)
	}
}

// firstStream is readFirst for a stream.
func (s *sock) firstStream() (*buffer, error) {
	b := borrow()
	n, err := s.h2.Read(b.b)
	if n == 0 {
		giveBack(b)
		return nil, err
	}
	b.w = n
	return b, nil
}

// peekStream is peek for a stream.
func (s *sock) peekStream() (n int, err error) {
	switch {
	case s.h2.Buffered():
		return 1, nil
	case s.h2.Ended():
		return 0, syscall.ECONNRESET
	case s.h2.Whole():
		return 0, nil
	}
	return 0, syscall.EAGAIN
}
