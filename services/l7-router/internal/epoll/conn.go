package epoll

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
)

const (
	// lingerTimeout is how long the rest of what a client sends is thrown away before its connection is closed, so that
	// a reset does not destroy the answer on its way (RFC 9112 section 9.6).
	lingerTimeout = 2 * time.Second
	// lingerBytes is the most that is thrown away.
	lingerBytes = 1 << 20
	// maxSteps is how many steps a connection makes before others have their turn.
	maxSteps = 64
)

// phase is what a client's connection is doing.
type phase uint8

const (
	idle       phase = iota // it waits for the first byte of a request
	reading                 // a part of a request's head has come
	carrying                // a request is under way: carry.go
	queueing                // a request waits for a server that has a free slot: queue.go
	answering               // an answer in the router's own name is being sent
	lingering               // that was the last answer; what still comes is thrown away
	holding                 // the client is made to wait for an answer in the router's own name
	announcing              // it waits for a PROXY header
	closed
)

// conn is one client connection. While it is idle this is all the memory that it takes.
type conn struct {
	sock
	loop     *loop
	listener *front.Listener
	counted  *front.Frontend // that counts it; the listener may move to another
	address  string          // of the client, without the port
	accepted int64           // when
	timer    timer
	flight   *flight // borrowed while anything is under way
	source   uint16  // the client's port
	phase    phase
	queued   bool // it is in loop.again
	retiring bool // it ends after the request under way
	lastOne  bool // but idle it waits for one more request before
	queuedUp bool // it has waited in the queue of a listener that is given up, and still has its one request
	left     int  // how much is still thrown away when lingering
	held     *held
	via      *proxyproto.Header // what a PROXY header has named; nil: the connection's own ends
}

// flight is what a connection needs while anything is under way on it.
type flight struct {
	head    http1.Head
	request exchange.Request
	front   *exchange.Frontend
	// up.in holds what the client has sent, down.in what the server has.
	up, down stream
	// Where the heads for the server (request.Head) and for the client are made.
	toServer, toClient *buffer
	// keep: the client's connection goes on after an answer of the router's own.
	keep bool
	carriage
}

func (l *loop) newFlight() *flight {
	f := l.flights.pop()
	if f == nil {
		f = &flight{}
		f.up.loop, f.down.loop = l, l
	}
	f.up.in, f.toServer, f.toClient = l.borrow(), l.borrow(), l.borrow()
	f.reset()
	return f
}

// reset makes f ready for another request.
func (f *flight) reset() {
	f.head.Reset(http1.Request)
	f.request.ToHead = false // what the request before was does not matter to a refusal of this one
	f.carriage = carriage{}
}

// rest gives everything back that an idle connection does not need.
func (c *conn) rest() {
	f := c.flight
	if f == nil {
		return
	}
	c.settle()
	c.flight = nil
	f.up.rest()
	f.down.rest()
	c.loop.giveBack(f.toServer)
	c.loop.giveBack(f.toClient)
	f.toServer, f.toClient, f.front, f.request.Backend, f.request.Head = nil, nil, nil, nil, nil
	f.carriage = carriage{}
	c.loop.flights.push(f)
}

// who tells whose requests are counted and logged.
func (c *conn) who() exchange.Who {
	return exchange.Who{Address: c.address, Port: c.source, Accepted: c.accepted, Shard: c.loop.index}
}

// await makes c wait for a request. first: it has had none yet.
func (c *conn) await(first bool) {
	c.phase = idle
	spec := &c.listener.Frontend().Current().Spec
	timeout := spec.TimeoutKeepAlive
	if first {
		timeout = spec.TimeoutRequest
	}
	c.loop.wheel.set(&c.timer, c.loop.now+int64(timeout))
}

// ready makes steps until it has to wait.
func (c *conn) ready() {
	for range maxSteps {
		if !c.step() {
			return
		}
	}
	c.loop.later(c)
}

// step reports whether another may follow at once.
func (c *conn) step() bool {
	switch c.phase {
	case idle, reading:
		return c.readHead()
	case carrying:
		return c.carry()
	case queueing:
		return c.next()
	case answering:
		return c.answer()
	case lingering:
		c.discard()
	case announcing:
		return c.announce()
	case holding:
		if c.gone() {
			c.close()
		}
	}
	return false
}

// readHead reads a request's head and begins the request when it is complete.
func (c *conn) readHead() bool {
	if c.flight == nil {
		if !c.readable {
			return false
		}
		c.flight = c.loop.newFlight()
		in := c.flight.up.in
		n, err := c.read(in.b)
		if err != 0 || n == 0 {
			c.rest()
			if err != unix.EAGAIN {
				c.close()
			}
			return false
		}
		in.w = n
		c.flight.request.Await(c.listener.Frontend().Current(), c.who(), c.loop.now)
	}
	f := c.flight
	for {
		complete, err := f.head.Parse(f.up.in.bytes())
		if complete {
			return c.begin()
		}
		var refused *http1.Error
		if errors.As(err, &refused) {
			return c.refuse(refused.Status, false)
		}
		if c.phase == idle {
			c.phase = reading
			front := c.listener.Frontend().Current()
			c.loop.wheel.set(&c.timer, c.loop.now+int64(front.Spec.TimeoutRequest))
		}
		if !c.readable {
			return false
		}
		f.up.in = c.loop.grown(f.up.in)
		n, errno := c.read(f.up.in.room())
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 || n == 0 {
			c.close()
			return false
		}
		f.up.in.w += n
	}
}

// another goes on to the next request: it may have come already.
func (c *conn) another() bool {
	f := c.flight
	c.settle()
	f.reset()
	if f.up.empty() {
		if c.retiring && !c.lastOne {
			c.close()
			return false
		}
		c.rest()
		c.await(false)
		return c.readable
	}
	f.down.rest()
	c.await(false)
	f.request.Await(c.listener.Frontend().Current(), c.who(), c.loop.now)
	return true
}

// refuse answers with the page of a status. keep: the connection goes on afterwards.
func (c *conn) refuse(status int, keep bool) bool { return c.respond(exchange.Refusal(status), keep) }

// respond answers in the router's own name. keep: the connection goes on afterwards.
func (c *conn) respond(a *exchange.Answer, keep bool) bool {
	c.flight.request.Refused(a.Status)
	return c.say(a, keep)
}

// say sends an answer.
func (c *conn) say(a *exchange.Answer, keep bool) bool {
	f := c.flight
	c.dropServer()
	f.keep = keep
	f.down.rest()
	f.down.to = &c.sock
	f.down.head = a.Append(f.toClient.b[:0], f.request.ToHead, keep)
	c.phase = answering
	c.loop.wheel.set(&c.timer, c.loop.now+int64(lingerTimeout))
	return true
}

// skipBody takes a body that nobody wants out of the way, and reports whether it was all here.
func (f *flight) skipBody() bool {
	if !f.whole() {
		return false
	}
	f.up.in.consume(int(f.request.Body.Length))
	return true
}

// held is an answer that a client waits for.
type held struct {
	answer exchange.Answer
	toHead bool
}

// hold makes the client wait for an answer. Meanwhile the connection needs no more than an idle one, so the request is counted
// now, not when the time is up.
func (c *conn) hold(a *exchange.Answer) {
	c.flight.request.Refused(a.Status)
	c.held = &held{*a, c.flight.request.ToHead}
	c.rest()
	c.phase = holding
	c.loop.wheel.set(&c.timer, c.loop.now+int64(a.Hold))
}

// release ends the waiting.
func (c *conn) release() {
	h := c.held
	c.held = nil
	c.flight = c.loop.newFlight()
	c.flight.request.ToHead = h.toHead
	c.say(&h.answer, false)
	c.ready()
}

// answer sends what respond has made.
func (c *conn) answer() bool {
	f := c.flight
	switch f.down.flush() {
	case done:
		if f.keep {
			return c.another()
		}
		return c.linger()
	case writeFailed:
		c.close()
	}
	return false
}

// linger throws away what the client is still sending, within bounds.
func (c *conn) linger() bool {
	c.dropServer()
	if c.closeWrite() != nil {
		c.close()
		return false
	}
	c.rest()
	c.phase, c.left = lingering, lingerBytes
	timeout := lingerTimeout
	if fin := c.listener.Frontend().Current().Spec.TimeoutClientFin; fin > 0 {
		timeout = min(timeout, fin)
	}
	c.loop.wheel.set(&c.timer, c.loop.now+int64(timeout))
	return true
}

func (c *conn) discard() {
	b := c.loop.borrow()
	defer c.loop.giveBack(b)
	for c.readable {
		n, err := c.read(b.b)
		if err == unix.EAGAIN {
			return
		}
		if c.left -= n; err != 0 || n == 0 || c.left <= 0 {
			c.close()
			return
		}
	}
}

// leave ends c when nothing is under way on it and it is to end. What its client has sent already is served first.
func (c *conn) leave() {
	if c.retiring && c.phase == holding {
		c.release()
		return
	}
	if c.retiring && !c.queuedUp && !c.lastOne && (c.phase == idle || c.phase == announcing) && !c.sendsMore() {
		c.close()
	}
}

// abort closes with a reset.
func (c *conn) abort() {
	c.reset()
	c.close()
}

func (c *conn) close() {
	if c.phase == closed {
		return
	}
	c.dropServer()
	c.rest()
	c.phase = closed
	c.loop.wheel.remove(&c.timer)
	c.loop.shut(&c.sock)
	c.loop.conns--
	c.loop.driver.forget(c)
}

// expired is called when the connection's time is up.
func (c *conn) expired() {
	switch c.phase {
	case reading:
		c.refuse(408, false)
		c.ready()
	case carrying:
		c.overdue()
	case queueing:
		c.flight.request.Late()
		c.refuse(503, c.flight.keep)
		c.ready()
	case holding:
		c.release()
	default:
		c.close()
	}
}
