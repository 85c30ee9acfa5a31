package epoll

import (
	"cmp"
	"errors"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// maxInterim is the most interim responses (1xx) before a final one; a server that sends more is not going to answer.
const maxInterim = 32

// carriage is one request on its way.
type carriage struct {
	server   *pool.Server
	chosen   int64 // when
	upstream *upstream
	since    int64 // when connecting began, or when a byte last moved in either direction: a side is only silent while both are
	reused   bool  // the connection had been idle
	// For a repetition, which needs the whole request to be here: where its body is in up.in, and, over a connection that had
	// been idle, how much of what went over it the server's kernel had acknowledged before; negative: not known.
	here     bool
	from, to int
	acked    int64
	heard    bool // the server has sent something
	interim  int  // responses
	final    bool // the head of the final response has come
	reply    exchange.Reply
	closing  bool // the client's connection ends in any case
	tunnel   bool // both streams pass on everything, after a 101
	// How the client keeps up, with its body and with the response, and how much of either has been counted.
	bodyPace, drainPace exchange.Pace
	bodyPut, drainPut   int64
}

// begin begins a request whose head is complete.
func (c *conn) begin() bool {
	f := c.flight
	f.front = c.listener.Frontend().Current()
	client := exchange.Client{Address: c.address, Port: c.listener.Bound.Port()}
	if !f.head.HasHost() {
		client.Local = c.ends().Destination.String() // rarely of use, so it is not asked for each connection
	}
	x := &f.request
	x.Head = f.toServer.b[:0]
	x.Record.Head, x.Record.BytesIn = c.loop.now, uint64(f.head.Len())
	x.Begin(f.front, &f.head, &client)
	x.Waker = c
	f.up.in.consume(f.head.Len())
	f.keep = x.KeepAlive && x.Minor() > 0 && x.Body.Framing == http1.NoBody && !c.retiring
	if a := x.Answer; a != nil {
		if a.Hold > 0 && !c.retiring {
			c.hold(a)
			return true // the client may have gone already
		}
		return c.respond(a, a.Hold == 0 && x.KeepAlive && x.Minor() > 0 && !c.retiring && f.skipBody())
	}
	c.phase = carrying
	limits := &f.front.Spec.Limits
	f.bodyPace.Begin(c.loop.now, limits.BodyRate, limits.Grace, limits.TimeoutBody)
	f.drainPace.Begin(c.loop.now, limits.DrainRate, limits.Grace, 0)
	return c.next()
}

// whole reports whether everything of the request is here.
func (f *flight) whole() bool {
	body := &f.request.Body
	return body.Framing == http1.NoBody || body.Framing == http1.Length && body.Length <= int64(len(f.up.in.bytes()))
}

// next turns to the next server. One that cannot be connected to is passed over at once, each at most once in a request;
// so the time lost is at most one connect timeout for each server. A request of which something may have reached a
// server goes elsewhere only by Request.Again.
func (c *conn) next() bool {
	f := c.flight
	for {
		server := f.request.Next()
		switch {
		case server != nil:
		case f.request.Waits():
			return c.wait()
		default:
			return c.refuse(503, f.keep)
		}
		c.phase = carrying
		f.server, f.chosen = server, c.loop.now
		f.request.Assigned(c.loop.now)
		// A request that cannot be sent again is worth a connection of its own.
		if f.whole() {
			if u := c.loop.take(server); u != nil {
				c.use(u, true)
				return true
			}
		}
		if c.dial() {
			return true
		}
	}
}

// dial begins a connection to the server; false when that has failed at once.
func (c *conn) dial() bool {
	f := c.flight
	u, err := c.loop.dial(f.server, pool.Caller{Address: c.address, Frontend: &f.front.Spec})
	if err != nil {
		c.passOver(err)
		return false
	}
	c.use(u, false)
	return true
}

// passOver gives a server up that cannot be connected to; err may be nil.
func (c *conn) passOver(err error) {
	c.flight.server.ConnectFailed(err)
	c.flight.request.ConnectFailed()
	c.dropServer()
}

// dropServer ends what is under way with the server.
func (c *conn) dropServer() {
	f := c.flight
	if f == nil {
		return
	}
	if f.upstream != nil {
		f.upstream.close()
		f.upstream = nil
	}
	f.request.Leave()
	if f.server != nil {
		f.server.End()
		f.server = nil
	}
}

// use makes u the connection that the request goes over.
func (c *conn) use(u *upstream, reused bool) {
	f, x := c.flight, &c.flight.request
	u.conn = c
	f.upstream, f.reused, f.since = u, reused, c.loop.now
	if !u.connecting {
		x.Connected(c.loop.now, reused)
	}
	f.here = f.whole()
	f.from, f.to, f.acked = f.up.in.r, f.up.in.w, -1
	if reused && !x.Repeatable {
		f.acked = u.acked()
	}
	f.up.begin(&c.sock, &u.sock, x.Head, x.Body, false)
	f.up.put = -int64(len(x.Head)) // the client's own head counts, and each byte of the body once
	f.down.begin(&u.sock, &c.sock, nil, http1.Body{}, false)
	f.head.Reset(http1.Response)
	timeout := x.Backend.Spec.TimeoutServer
	if u.connecting {
		timeout = x.Backend.Spec.TimeoutConnect
	}
	c.loop.wheel.set(&c.timer, c.loop.now+int64(timeout))
}

// carry moves whatever can be moved.
func (c *conn) carry() bool {
	f := c.flight
	if f.upstream.connecting {
		if !f.upstream.writable {
			if c.gone() {
				c.close()
			}
			return false
		}
		if f.upstream.failure() != nil {
			c.passOver(nil)
			return c.next()
		}
		f.upstream.connecting = false
		f.since = c.loop.now
		f.request.Connected(c.loop.now, false)
		if f.server.Spec.SendProxy != spec.SendProxyNone && !c.introduce() {
			c.passOver(nil)
			return c.next()
		}
	}
	goOn := c.relay()
	if c.phase == carrying && !goOn {
		if f.up.over && !f.tunnel && c.gone() {
			// A client that closes only its sending side counts as gone too: the two look the same from here.
			c.close()
			return false
		}
		if f.up.moved || f.down.moved {
			f.since, f.up.moved, f.down.moved = c.loop.now, false, false
		}
		if f.up.state == yields || f.down.state == yields {
			c.loop.later(c)
		}
		c.keepPace()
		c.loop.wheel.set(&c.timer, c.due())
	}
	return goOn
}

// keepPace tells what the client has moved, and whether it is waited for.
func (c *conn) keepPace() {
	f, now := c.flight, c.loop.now
	if f.tunnel {
		f.bodyPace, f.drainPace = exchange.Pace{}, exchange.Pace{}
		return
	}
	f.bodyPace.Earn(now, f.up.put-f.bodyPut)
	f.drainPace.Earn(now, f.down.put-f.drainPut)
	f.bodyPut, f.drainPut = f.up.put, f.down.put
	if f.up.state == reads && !f.up.over {
		f.bodyPace.Wait(now)
	} else {
		f.bodyPace.Rest(now)
	}
	if f.down.state == writes {
		f.drainPace.Wait(now)
	} else {
		f.drainPace.Rest(now)
	}
}

// due is when the request has to be looked at although nothing has happened.
func (c *conn) due() int64 {
	f := c.flight
	at := f.since + int64(c.patience())
	for _, pace := range [...]*exchange.Pace{&f.bodyPace, &f.drainPace} {
		if due := pace.Due(); due != 0 {
			at = min(at, due)
		}
	}
	return at
}

// relay moves the request, then the response.
func (c *conn) relay() bool {
	f := c.flight
	if f.tunnel && f.up.body.Framing == http1.UntilClose {
		return c.pass()
	}
	if f.up.state < done {
		if f.up.move() == readFailed {
			return c.bodyFailed()
		}
		// When it cannot be written the reason shows in the response: the server may have answered before it closed.
	}
	if !f.final {
		return c.awaitResponse()
	}
	if f.tunnel {
		// The request's body goes first.
		switch f.up.state {
		case done:
			f.up.begin(&c.sock, &f.upstream.sock, nil, http1.Body{Framing: http1.UntilClose}, false)
			return true
		case writeFailed:
			c.close()
		}
		return false
	}
	if f.down.state < done {
		switch f.down.move() {
		case readFailed:
			return c.cut()
		case writeFailed:
			c.close()
			return false
		}
	}
	if f.down.state == done {
		return c.finish()
	}
	return false
}

// awaitResponse reads up to a final response's head, and passes interim ones on.
func (c *conn) awaitResponse() bool {
	f, h, d := c.flight, &c.flight.head, &c.flight.down
	for {
		switch d.flush() { // an interim response
		case writes:
			d.state = writes
			return false
		case writeFailed:
			c.close()
			return false
		}
		if d.in != nil {
			complete, err := h.Parse(d.in.bytes())
			if err != nil {
				return c.noResponse(502, false)
			}
			if complete {
				if h.Status() >= 200 || h.Status() == 101 {
					return c.answerWith()
				}
				if f.interim++; f.interim > maxInterim {
					return c.noResponse(502, false)
				}
				d.head = f.request.Interim(f.toClient.b[:0], h)
				d.in.consume(h.Len())
				d.ready, d.passed = d.in.r, d.in.r
				h.Reset(http1.Response)
				continue
			}
			d.in = c.loop.grown(d.in)
			d.ready, d.passed = d.in.r, d.in.r
		}
		d.state = reads
		if !f.upstream.readable {
			return false
		}
		if d.in == nil {
			d.in = c.loop.borrow()
			d.ready, d.passed = 0, 0
		}
		n, err := f.upstream.read(d.in.room())
		d.ready, d.passed = d.in.r, d.in.r
		if err == unix.EAGAIN {
			if d.empty() {
				c.loop.giveBack(d.in)
				d.in = nil
			}
			return false
		}
		if err != 0 || n == 0 {
			return c.noResponse(502, err == 0)
		}
		d.in.w += n
		d.moved, f.heard = true, true
	}
}

// noResponse is the end of a request that the server has not answered; ended: it has ended its side in good order.
func (c *conn) noResponse(status int, ended bool) bool {
	f := c.flight
	if f.reused && !f.heard {
		// A request that must not be carried out twice is sent again only if the server ended its side before its kernel
		// had even got it. A reset proves nothing: one may come from a server that has read the request, before the
		// acknowledgement has left.
		unread := ended && f.acked >= 0 && f.upstream.acked() == f.acked
		if f.request.Repeatable && status != 504 || unread {
			f.upstream.close()
			f.upstream = nil
			f.up.in.r, f.up.in.w = f.from, f.to
			return c.dial() || c.next()
		}
	}
	f.server.Failed()
	why := spec.FailureJunk
	switch {
	case status == 504:
		why = spec.FailureTimeout
	case !f.heard:
		why = spec.FailureEmpty
	}
	if f.again() && f.request.Again(why) {
		return c.elsewhere()
	}
	return c.refuse(status, f.keep)
}

// again reports whether the request could be sent to another server: all of it is here, and nothing of a response has gone
// to the client.
func (f *flight) again() bool { return f.here && f.interim == 0 }

// elsewhere sends the request to the next server, after one that may have got it.
func (c *conn) elsewhere() bool {
	f := c.flight
	c.dropServer()
	f.down.rest()
	f.up.in.r, f.up.in.w = f.from, f.to
	f.heard = false
	return c.next()
}

// bodyFailed is the end of a request whose body cannot be sent on.
func (c *conn) bodyFailed() bool {
	f := c.flight
	var refused *http1.Error
	switch {
	case f.final && f.down.state == done:
		return c.linger()
	case f.final:
		return c.cut()
	case errors.As(f.up.err, &refused):
		return c.refuse(refused.Status, false)
	}
	c.close() // a client that has gone gets no answer
	return false
}

// answerWith passes the final response on, whose head has come.
func (c *conn) answerWith() bool {
	f, h := c.flight, &c.flight.head
	f.server.Answered(time.Duration(c.loop.now - f.chosen))
	f.server.Responded(h.Status())
	if f.again() && f.request.AgainAfter(h.Status()) {
		return c.elsewhere()
	}
	// A server that refuses a body which is still coming will not read the rest.
	f.closing = c.retiring || f.up.state != done && h.Status() >= 400
	out, reply, err := f.request.Reply(f.toClient.b[:0], h, f.closing)
	if err != nil {
		return c.refuse(502, false) // nothing can be made of it
	}
	f.request.Responded(c.loop.now)
	f.final, f.reply, f.tunnel = true, reply, reply.Tunnel
	f.down.in.consume(h.Len())
	body := reply.Body
	if f.tunnel {
		body = http1.Body{Framing: http1.UntilClose}
	}
	moved := f.down.moved
	f.down.begin(&f.upstream.sock, &c.sock, out, body, reply.Unchunk)
	f.down.moved = moved
	return true
}

// cut ends a response that cannot be passed on whole.
func (c *conn) cut() bool {
	f := c.flight
	f.request.Record.End(stats.CauseServer, f.request.Phase())
	switch {
	case !f.down.sent && !f.tunnel:
		return c.refuse(502, false) // the very start of the body is bad, and nothing has been sent yet
	case f.reply.Body.Framing == http1.UntilClose || f.reply.Unchunk:
		c.abort() // or the client would take what it has for the whole
	default:
		c.close()
	}
	return false
}

// finish is the end of a response that has been passed on whole.
func (c *conn) finish() bool {
	f := c.flight
	sent := f.up.state == done
	if f.reply.KeepServer && !f.closing && f.up.state < done {
		return false // the server keeps the connection, so it reads the rest
	}
	f.request.Done()
	if sent && f.reply.KeepServer && f.down.empty() {
		c.loop.keep(f.upstream, f.server)
		f.upstream = nil
	}
	c.dropServer() // when it is not kept something is missing, or was too much
	switch {
	case !sent || !f.reply.KeepClient && (!f.up.empty() || c.sendsMore()):
		return c.linger()
	case !f.reply.KeepClient:
		c.close()
		return false
	}
	return c.another()
}

// pass moves both directions of a tunnel until both have ended.
func (c *conn) pass() bool {
	f := c.flight
	for _, s := range [...]*stream{&f.up, &f.down} {
		if s.state >= done {
			continue
		}
		switch s.move() {
		case done:
			_ = s.to.closeWrite() // if it is closed already, the better
			f.since = c.loop.now
		case readFailed, writeFailed:
			c.close()
			return false
		}
	}
	if f.up.state == done && f.down.state == done {
		f.request.Done()
		c.close()
	}
	return false
}

// settle has the request counted.
func (c *conn) settle() {
	f := c.flight
	record := &f.request.Record
	record.BytesIn += uint64(max(f.up.put, 0))
	record.BytesOut += uint64(f.down.put)
	f.up.put, f.down.put = 0, 0
	f.request.Settle(c.loop.now)
}

// limits are how long each side may stay silent. A tunnel that is closed in one direction has limits of its own.
func (c *conn) limits() (client, server time.Duration) {
	f := c.flight
	ahead, behind := &f.front.Spec, &f.request.Backend.Spec
	client, server = ahead.TimeoutClient, behind.TimeoutServer
	if f.tunnel {
		client = cmp.Or(behind.TimeoutTunnel, max(client, server))
		server = client
		if f.up.body.Framing == http1.UntilClose && (f.up.state == done || f.down.state == done) {
			client, server = cmp.Or(ahead.TimeoutClientFin, client), cmp.Or(behind.TimeoutServerFin, server)
		}
	}
	return client, server
}

// patience is how long it may stay as it is.
func (c *conn) patience() time.Duration {
	f := c.flight
	client, server := c.limits()
	wait := time.Duration(math.MaxInt64 / 2)
	switch f.up.state {
	case reads:
		wait = client
	case writes:
		wait = server
	}
	switch f.down.state {
	case reads:
		wait = min(wait, server)
	case writes:
		wait = min(wait, client)
	}
	return wait
}

// overdue ends what has been silent for too long.
func (c *conn) overdue() {
	f := c.flight
	if f.upstream.connecting {
		c.passOver(nil)
		if c.next() {
			c.ready()
		}
		return
	}
	client, server := c.limits()
	quiet := time.Duration(c.loop.now - f.since)
	goOn := false
	record := &f.request.Record
	switch {
	case f.tunnel:
		record.End(stats.CauseServerTimeout, stats.PhaseData)
		c.close()
	case f.up.state == reads && (quiet >= client || f.bodyPace.Over(c.loop.now)):
		switch {
		case !f.final:
			goOn = c.refuse(408, false)
		case f.down.state == done:
			goOn = c.linger()
		default:
			record.End(stats.CauseClientTimeout, f.request.Phase())
			goOn = c.cut()
		}
	case f.down.state == reads && quiet >= server:
		if f.final {
			record.End(stats.CauseServerTimeout, f.request.Phase())
			goOn = c.cut()
		} else {
			goOn = c.noResponse(504, false)
		}
	case f.down.state == writes && (quiet >= client || f.drainPace.Over(c.loop.now)):
		record.End(stats.CauseClientTimeout, f.request.Phase())
		c.close()
	case f.up.state == writes && quiet >= server:
		f.up.state = writeFailed
		goOn = true
	default:
		c.loop.wheel.set(&c.timer, c.due())
	}
	if goOn {
		c.ready()
	}
}
