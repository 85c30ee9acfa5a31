package proxy

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/mux"
	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
)

const (
	// lingerTimeout is how long the rest of what a client sends is thrown away before its connection is closed, so that
	// a reset does not destroy the answer on its way (RFC 9112 section 9.6).
	lingerTimeout = 2 * time.Second
	// lingerBytes is the most that is thrown away.
	lingerBytes = 1 << 20
)

// What a client's connection is doing.
const (
	busy int32 = iota
	idle
	closed
)

// conn is one client connection, owned by the goroutine of serve.
type conn struct {
	*sock
	driver   *Driver
	listener *front.Listener
	client   exchange.Client
	via      *proxyproto.Header // what a PROXY header has named; nil: the connection's own ends
	log      *zap.Logger

	head    http1.Head
	request exchange.Request
	relay   relay
	turn    waiter

	// Borrowed while a request is under way, nil while idle: what the client has sent, and where the heads for the server
	// (request.Head) and for the client (out) are made.
	in, toServer, toClient *buffer
	out                    []byte

	who exchange.Who
	// at is the clock as the goroutine of serve has read it last, 0: it may have waited since.
	at int64

	state    atomic.Int32
	retiring atomic.Bool
	lastOne  atomic.Bool          // but idle it waits for one more request before
	lingers  bool                 // there is an answer that linger is to keep from being destroyed
	unfit    atomic.Bool          // it would not be let in now: not even a first request is waited for
	serving  atomic.Pointer[sock] // the connection to a server that a request is under way on
	// streams is what carries its requests once it speaks HTTP/2.
	streams  atomic.Pointer[mux.Conn]
	carrying streamSet
	place    int // of a stream, in the carrying of its connection
}

func newConn(s *sock, l *front.Listener, client exchange.Client, log *zap.Logger) *conn {
	c := &conn{sock: s, listener: l, client: client, log: log, turn: make(waiter, 1)}
	c.request.Waker = c.turn
	c.relay.c = c
	c.relay.watch = c.relay.watchClient
	c.relay.cancel = c.relay.wake
	return c
}

// serve carries requests until the connection ends.
func (c *conn) serve() {
	defer func() {
		c.settle() // when something has panicked
		c.rest()
		_ = c.Close() // whatever had to be said has been said
	}()
	if a := &c.listener.Frontend().Current().Spec.AcceptProxy; a.Wanted() && c.h2 == nil && !c.announced(a) {
		return
	}
	if c.listener.TLS && c.h2 == nil && !c.handshake() {
		return
	}
	if c.secure != nil && c.secure.ConnectionState().NegotiatedProtocol == "h2" {
		c.multiplex()
		return
	}
	for first := true; ; first = false {
		f := c.listener.Frontend().Current()
		timeout := f.Spec.TimeoutKeepAlive
		if first {
			timeout = f.Spec.TimeoutRequest
		}
		if !c.await(timeout, first) {
			return
		}
		f = c.listener.Frontend().Current()
		begun := c.begun()
		due := epoch.Add(time.Duration(begun) + f.Spec.TimeoutRequest)
		c.at = begun
		if first && f.Spec.HTTP2.Cleartext && c.secure == nil && c.h2 == nil && c.preface(due) {
			c.multiplex()
			return
		}
		c.request.Await(f, c.who, begun)
		if status := c.readHead(due); status != 0 {
			if status > 0 {
				c.fail(status, false)
				c.settle()
				c.linger()
			}
			c.settle()
			return
		}
		c.request.Record.BytesIn = uint64(c.head.Len())
		if c.request.Record.Head == 0 {
			c.request.Record.Head = c.clock() // it was here
		}
		if c.toServer == nil {
			c.toServer, c.toClient = borrow(), borrow()
			c.request.Head, c.out = c.toServer.b[:0], c.toClient.b[:0]
		}
		c.request.Begin(f, &c.head, &c.client)
		c.in.consume(c.head.Len())
		goOn := c.carry(f)
		c.settle()
		if !goOn {
			if c.lingers { // when the request and its server are done with
				c.linger()
			}
			return
		}
		if c.in.empty() {
			c.rest()
		}
	}
}

// begun is when the first byte of the request under way was here.
func (c *conn) begun() int64 {
	if c.h2 != nil {
		return int64(c.h2.Received().Sub(epoch))
	}
	return now()
}

// clock is about now.
func (c *conn) clock() int64 {
	if c.at == 0 {
		c.at = now()
	}
	return c.at
}

// rest gives everything back that an idle connection does not need.
func (c *conn) rest() {
	giveBack(c.in)
	giveBack(c.toServer)
	giveBack(c.toClient)
	c.in, c.toServer, c.toClient, c.request.Head, c.out = nil, nil, nil, nil, nil
}

// closing reports whether the connection has to end after the request under way.
func (c *conn) closing() bool { return c.retiring.Load() }

// retire lets the connection end after the request under way, or at once when there is none.
func (c *conn) retire() {
	c.retiring.Store(true)
	if streams := c.streams.Load(); streams != nil {
		streams.Retire()
		return
	}
	if !c.lastOne.Load() && c.state.CompareAndSwap(idle, closed) {
		c.hangUp()
	}
}

// await waits for the first byte of a request, the first one or a later one on the connection.
func (c *conn) await(timeout time.Duration, first bool) bool {
	if c.in != nil {
		return true // it came together with the request before
	}
	if c.h2 != nil { // a stream begins with its request
		b, err := c.firstStream()
		c.in = b
		return err == nil
	}
	if first && c.closing() && !c.unfit.Load() {
		timeout = min(timeout, lastChance) // and it stays busy: it waited in the queue of a listener given up
	} else {
		c.state.Store(idle)
		if c.closing() && !c.lastOne.Load() {
			return false
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(timeout)) // the read says why it cannot be
	if c.state.Load() == closed {
		return false // and retire may have come before the deadline
	}
	b, err := c.readFirst()
	c.in = b
	c.state.CompareAndSwap(idle, busy)
	return c.state.Load() == busy && err == nil
}

// readHead reads a request's head: 0 when it is complete, a status to refuse it with, or -1 when the client has gone.
func (c *conn) readHead(due time.Time) int {
	c.head.Reset(http1.Request)
	c.request.ToHead = false // what the request before was does not matter to a refusal of this one
	armed := false
	for {
		complete, err := c.head.Parse(c.in.bytes())
		if complete {
			if armed {
				c.at = now()
				c.request.Record.Head = c.at
			}
			return 0
		}
		var refused *http1.Error
		if errors.As(err, &refused) {
			return refused.Status
		}
		c.in = grown(c.in)
		if !armed {
			armed, c.at = true, 0
			_ = c.SetReadDeadline(due) // the read says why it cannot be
		}
		n, err := c.Read(c.in.room())
		c.in.w += n
		switch {
		case n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 408
		default:
			return -1
		}
	}
}

// fail answers with the page of a status. It reports whether the answer could be sent.
func (c *conn) fail(status int, keep bool) bool { return c.respond(exchange.Refusal(status), keep) }

// respond answers in the router's own name. It reports whether the answer could be sent.
func (c *conn) respond(a *exchange.Answer, keep bool) bool {
	c.request.Refused(a.Status)
	c.out = a.Append(c.out[:0], c.request.ToHead, keep)
	c.at, c.writing = 0, nil
	_ = c.SetWriteDeadline(time.Now().Add(lingerTimeout)) // the write says why it cannot be
	n, err := c.Write(c.out)
	c.request.Record.BytesOut += uint64(n)
	return err == nil
}

// answer answers in place of a server. It reports whether the client's connection goes on.
func (c *conn) answer(a *exchange.Answer) bool {
	keep := false
	switch {
	case a.Hold > 0:
		c.rest()
		if !c.hold(a.Hold) {
			return false
		}
	case c.whole():
		c.in.consume(int(c.request.Body.Length)) // nobody wants it
		keep = c.request.KeepAlive && c.request.Minor() > 0 && !c.closing()
	}
	return c.respond(a, keep) && c.lingering(keep)
}

// hold makes the client wait, less long when the router stops. It reports whether the client is still there.
func (c *conn) hold(wait time.Duration) bool {
	c.at = 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for until := time.Now().Add(wait); ; {
		<-timer.C
		left := time.Until(until)
		if c.ended() {
			return false
		}
		if left <= 0 || c.closing() {
			return true
		}
		timer.Reset(min(left, pulse))
	}
}

// settle has the request counted.
func (c *conn) settle() { c.request.Settle(c.clock()) }

// sendsMore reports whether the client has sent more than what has been taken of it.
func (c *conn) sendsMore() bool {
	n, err := c.peek()
	return !c.in.empty() || err == nil && n > 0
}

// lingering notes that the client's connection ends with an answer of which it may not have heard yet, unless it is kept.
func (c *conn) lingering(keep bool) bool {
	c.lingers = !keep
	return keep
}

// linger throws away what the client is still sending, within bounds. Streams too: there are clients (curl 7.88) that lose the
// answer when the stream is reset while they send.
func (c *conn) linger() {
	if c.CloseWrite() != nil {
		return
	}
	if c.in == nil {
		c.in = borrow()
	}
	timeout := lingerTimeout
	if fin := c.listener.Frontend().Current().Spec.TimeoutClientFin; fin > 0 {
		timeout = min(timeout, fin)
	}
	_ = c.SetReadDeadline(time.Now().Add(timeout)) // the read says why it cannot be
	for left := lingerBytes; left > 0; {
		n, err := c.Read(c.in.b)
		if err != nil {
			return
		}
		left -= n
	}
}
