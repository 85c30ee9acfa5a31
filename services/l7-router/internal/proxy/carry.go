package proxy

import (
	"cmp"
	"errors"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
	"github.com/twotier/twotier/services/l7-router/internal/mux"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// maxInterim is the most interim responses (1xx) before a final one; a server that sends more is not going to answer.
const maxInterim = 32

// errStale: a connection that had been idle was closed before any byte of a response, and the request can be sent again.
var errStale = errors.New("the idle connection was closed")

// errAgain: the server has failed a request that it may have got, and which may go to the next one.
var errAgain = errors.New("the next server is to get it")

var errInterim = errors.New("too many interim responses")

// carry takes one request to a server and the response back. It reports whether the client's connection goes on.
//
// A server that cannot be connected to is passed over at once, each at most once in a request; so the time lost is at
// most one connect timeout for each server. A request of which something may have reached a server goes elsewhere only by
// Request.Again.
func (c *conn) carry(f *exchange.Frontend) bool {
	x := &c.request
	if x.Answer != nil {
		return c.answer(x.Answer)
	}
	keep := x.KeepAlive && x.Minor() > 0 && x.Body.Framing == http1.NoBody && !c.closing()
	for {
		server, gone := c.next()
		switch {
		case gone:
			return false
		case server == nil:
			return c.refuse(503, keep)
		}
		x.Assigned(c.clock()) // it may have waited
		goOn, err := c.give(f, server, keep)
		if err == nil {
			return goOn
		}
	}
}

// give is try, after which the slot of the server is free again, whatever happens.
func (c *conn) give(f *exchange.Frontend, server *pool.Server, keep bool) (goOn bool, err error) {
	defer server.End()
	return c.try(f, server, keep)
}

// refuse answers in the router's own name.
func (c *conn) refuse(status int, keep bool) bool {
	return c.fail(status, keep) && c.lingering(keep)
}

// try carries the request to one server. An error means that the next one is to get it.
func (c *conn) try(f *exchange.Frontend, server *pool.Server, keep bool) (goOn bool, err error) {
	x := &c.request
	if x.Backend.Spec.H2C {
		return c.tryStreams(f, server, keep)
	}
	// A request that cannot be sent again is worth a connection of its own.
	if c.whole() && server.Spec.SendProxy == spec.SendProxyNone {
		if idle, ok := server.Idle().(*sock); ok {
			goOn, err = c.through(f, server, idle, true, keep)
			if err == nil || errors.Is(err, errAgain) {
				return goOn, err
			}
		}
	}
	c.at = 0
	var dialed net.Conn
	if server.Inside != nil {
		dialed, err = c.dialInside(f, server)
	} else {
		dialer := net.Dialer{Timeout: x.Backend.Spec.TimeoutConnect, KeepAlive: tcp.KeepAlive}
		dialed, err = dialer.Dial("tcp", server.Address())
		if err == nil {
			if err = c.introduce(server, dialed); err != nil {
				_ = dialed.Close() // it is broken
			}
		}
	}
	if err != nil {
		server.ConnectFailed(err)
		x.ConnectFailed()
		return false, err
	}
	srv, err := newSock(dialed.(stream))
	if err != nil {
		_ = dialed.Close() // it cannot be used
		return false, err
	}
	srv.server = server.ID()
	return c.through(f, server, srv, false, keep)
}

// dialInside connects to a server inside this process.
func (c *conn) dialInside(f *exchange.Frontend, server *pool.Server) (net.Conn, error) {
	fd, err := server.Inside(pool.Caller{Address: c.client.Address, Frontend: &f.Spec})
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "")
	dialed, err := net.FileConn(file) // a duplicate
	_ = file.Close()                  // nothing was written to it
	return dialed, err
}

// whole reports whether everything of the request under way is here.
func (c *conn) whole() bool {
	body := &c.request.Body
	if c.h2 != nil && body.Framing == http1.Length {
		c.topUp(body.Length)
	}
	return body.Framing == http1.NoBody || body.Framing == http1.Length && body.Length <= int64(len(c.in.bytes()))
}

// relay is one request on its way through one connection to a server. It is a part of its conn and used again for the
// next, so that a request allocates nothing.
type relay struct {
	c      *conn
	srv    *sock
	active activity
	up     direction
	down   direction
	// How the client keeps up, with its body and with the response.
	bodyPace, drainPace exchange.Pace
	upStop              atomic.Bool
	downStop            atomic.Bool
	half                atomic.Bool // a tunnel is closed in one direction
	// heard: the server has sent something; passed: an interim response has been passed on.
	heard, passed bool
	// here: everything of the request is, between from and to in c.in, so that it can be sent again.
	here     bool
	from, to int
	// watch is watchClient, cancel is wake.
	watch  func() error
	cancel func()
	// sending ends with the result of the request's body; nil when that has been sent before the response is waited for.
	sending chan error
}

// again reports whether the request could be sent to another server: all of it is here, and nothing of a response has gone
// to the client.
func (r *relay) again() bool { return r.here && !r.passed }

// through sends the request over srv and the response to the client, and takes care of srv. The errors are errStale and
// errAgain.
func (c *conn) through(f *exchange.Frontend, server *pool.Server, srv *sock, reused, keep bool) (goOn bool, err error) {
	x := &c.request
	r := &c.relay
	r.srv, r.sending, r.heard, r.passed = srv, nil, false, false
	var sent time.Time
	if server.Measures() {
		sent = time.Now()
	}
	c.serving.Store(srv)
	defer c.serving.Store(nil)
	at := c.clock()
	c.at = 0
	r.active.touch(at)
	x.Connected(at, reused)
	defer func() {
		x.Record.BytesIn += uint64(max(r.up.put-int64(len(x.Head)), 0))
		x.Record.BytesOut += uint64(r.down.put)
	}()
	r.upStop.Store(false)
	r.downStop.Store(false)
	client, behind := f.Spec.TimeoutClient, x.Backend.Spec.TimeoutServer
	r.up = direction{from: c.sock, to: srv, fromTimeout: client, toTimeout: behind, active: &r.active, at: at, stop: &r.upStop, head: x.Head, fromPace: &r.bodyPace}
	r.down = direction{from: srv, to: c.sock, fromTimeout: behind, toTimeout: client, active: &r.active, at: at, stop: &r.downStop, watch: r.watch, toPace: &r.drainPace}
	limits := &f.Spec.Limits
	r.bodyPace.Begin(at, limits.BodyRate, limits.Grace, limits.TimeoutBody)
	r.drainPace.Begin(at, limits.DrainRate, limits.Grace, 0)

	if c.h2 != nil {
		c.h2.OnEnd(r.cancel)
		defer c.h2.OnEnd(nil)
	}
	in := borrow()
	defer func() { giveBack(in) }()
	r.here = c.whole()
	repeat := reused && r.here
	acked, known := int64(0), false
	if repeat && !x.Repeatable {
		acked, known = srv.acked()
	}
	r.from, r.to = c.in.r, c.in.w // sending takes nothing out of the buffer that a repetition needs
	r.sendRequest()
	status, err := r.awaitResponse(&in)
	if err != nil {
		sendErr := r.stopSending()
		// The server ended its side before its kernel had even got the request. A reset proves nothing: one may come
		// from a server that has read the request, before the acknowledgement has left.
		unread := false
		if known && errors.Is(err, errEnd) {
			now, ok := srv.acked()
			unread = ok && now == acked
		}
		if errors.Is(err, mux.ErrUntouched) && c.whole() {
			repeat, unread = true, true
		}
		_ = srv.Close() // a request without a response: of no further use
		switch {
		case errors.Is(err, errGone):
			return false, nil
		case sendErr != nil && reading(sendErr) && !errors.Is(sendErr, errStopped):
			return c.refuseBody(sendErr), nil
		case c.h2 != nil && errors.Is(err, mux.ErrUntouched) && !c.whole():
			c.h2.EndWith(http2.RefusedStream) // the client has what is needed to send it again
			return false, nil
		case repeat && !r.heard && (x.Repeatable && !errors.Is(err, errSilent) || unread):
			c.in.r, c.in.w = r.from, r.to
			return false, errStale
		}
		server.Failed()
		why := spec.FailureJunk
		switch {
		case errors.Is(err, errSilent):
			why = spec.FailureTimeout
		case !r.heard:
			why = spec.FailureEmpty
		}
		if r.again() && x.Again(why) {
			c.in.r, c.in.w = r.from, r.to
			return false, errAgain
		}
		return c.refuse(status, keep && r.sending == nil), nil
	}
	if !sent.IsZero() {
		server.Answered(time.Since(sent))
	}
	return r.finish(f, server, &in)
}

// sendRequest sends head and body. A body that has not come whole is sent by a goroutine of its own, because a server
// may answer before it has read all.
func (r *relay) sendRequest() {
	if r.c.whole() {
		// An error shows when the response is read: the server may have answered before it closed.
		_ = r.up.stream(r.c.in, r.c.request.Body, false)
		r.down.at = r.up.at
		return
	}
	r.sending = make(chan error, 1)
	go func() { r.sending <- r.sendBody() }()
}

// sendBody is the goroutine of a body that has not come whole.
func (r *relay) sendBody() (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			// One faulty exchange must not take the others down with it.
			r.c.log.Error("sending a body panicked", zap.Any("panic", cause), zap.Stack("stack"))
			err = &failed{reading: true, err: errors.New("panicked")}
		}
		if err != nil && reading(err) {
			_ = r.srv.Close() // wakes the one who waits for the response: there will be none
		}
	}()
	return r.up.stream(r.c.in, r.c.request.Body, false)
}

// watchClient is asked while a server is waited for. A client that closes only its sending side counts as gone too: the
// two look the same from here.
func (r *relay) watchClient() error {
	if r.sending != nil && len(r.sending) == 0 {
		return nil // its body is still being read, and whoever reads notices
	}
	if r.c.ended() {
		return errGone
	}
	return nil
}

// stopSending ends the sending of the body and returns how it ended; nil when it was through.
func (r *relay) stopSending() error {
	if r.sending == nil {
		return nil
	}
	r.upStop.Store(true)
	expire(r.c.sock)
	expire(r.srv)
	err := <-r.sending
	_ = r.c.SetDeadline(time.Time{}) // for the answer; a closed socket has none
	return err
}

// refuseBody answers a body that cannot be sent on; a client that has gone gets no answer.
func (c *conn) refuseBody(err error) bool {
	var refused *http1.Error
	switch {
	case errors.As(err, &refused):
		return c.refuse(refused.Status, false)
	case errors.Is(err, errSilent):
		return c.refuse(408, false)
	}
	return false
}

// awaitResponse reads up to a final response's head, which is left in c.head, and passes interim ones on. With an error
// it returns the status to answer with.
func (r *relay) awaitResponse(in **buffer) (status int, err error) {
	h := &r.c.head
	h.Reset(http1.Response)
	for interim := 0; ; {
		complete, err := h.Parse((*in).bytes())
		if err != nil {
			return 502, err
		}
		if complete {
			if h.Status() >= 200 || h.Status() == 101 {
				return 0, nil
			}
			if interim++; interim > maxInterim {
				return 502, errInterim
			}
			r.passed = true
			r.c.out = r.c.request.Interim(r.c.out[:0], h)
			(*in).consume(h.Len())
			h.Reset(http1.Response)
			if err := r.down.writeAll(r.c.out); err != nil {
				return 0, errGone
			}
			continue
		}
		*in = grown(*in)
		if r.c.h2 != nil && !r.heard {
			runtime.Gosched() // the other streams send first; meanwhile the response may come, which saves a read in vain
		}
		n, err := r.down.readInto((*in).room())
		if err != nil {
			if errors.Is(err, errSilent) {
				return 504, err
			}
			return 502, err
		}
		r.heard = true
		(*in).w += n
	}
}

// finish passes the final response on.
func (r *relay) finish(f *exchange.Frontend, server *pool.Server, in **buffer) (goOn bool, err error) {
	c, h := r.c, &r.c.head
	x := &c.request
	server.Responded(h.Status())
	if r.again() && x.AgainAfter(h.Status()) {
		_ = r.srv.Close() // what it would still send is not wanted
		c.in.r, c.in.w = r.from, r.to
		return false, errAgain
	}
	x.Responded(r.active.last.Load())
	// A server that refuses a body which is still coming will not read the rest.
	closing := c.closing() || r.sending != nil && len(r.sending) == 0 && h.Status() >= 400
	out, reply, err := c.request.Reply(c.out[:0], h, closing)
	c.out = out
	if err != nil {
		_ = r.stopSending() // nothing can be made of it
		_ = r.srv.Close()
		return c.refuse(502, false), nil
	}
	(*in).consume(h.Len())
	if reply.Tunnel {
		r.tunnel(f, in)
		x.Done()
		return false, nil
	}

	r.down.head = out
	err = r.down.stream(*in, reply.Body, reply.Unchunk)
	var sendErr error
	if err != nil || !reply.KeepServer || closing {
		sendErr = r.stopSending()
	} else if r.sending != nil {
		sendErr = <-r.sending // the server keeps the connection, so it reads the rest
	}
	if err == nil && sendErr == nil && reply.KeepServer && (*in).empty() && server.Spec.SendProxy == spec.SendProxyNone {
		server.Keep(r.srv)
	} else {
		_ = r.srv.Close() // something is missing, or was too much, or it is this client's only
	}
	switch {
	case err == nil:
		x.Done()
	case reading(err) && errors.Is(err, errSilent):
		x.Record.End(stats.CauseServerTimeout, x.Phase())
	case reading(err):
		x.Record.End(stats.CauseServer, x.Phase())
	case errors.Is(err, errSilent):
		x.Record.End(stats.CauseClientTimeout, x.Phase())
	}
	switch {
	case err != nil && reading(err) && len(r.down.head) > 0:
		return c.refuse(502, false), nil // the very start of the body is bad, and nothing has been sent yet
	case err != nil && reading(err) && (reply.Body.Framing == http1.UntilClose || reply.Unchunk || c.h2 != nil):
		c.passReset(err)
		c.abort() // or the client would take what it has for the whole
		return false, nil
	case err != nil:
		return false, nil
	case sendErr != nil || !reply.KeepClient && c.h2 == nil && c.sendsMore():
		return c.lingering(false), nil
	}
	if r.sending == nil {
		c.at = r.down.at
	}
	return reply.KeepClient, nil
}

// tunnel passes everything on, both ways, until both sides have ended or nothing has moved for too long.
func (r *relay) tunnel(f *exchange.Frontend, in **buffer) {
	defer func() { _ = r.srv.Close() }() // it belongs to another protocol now
	if r.sending != nil {
		if err := <-r.sending; err != nil {
			return
		}
	}
	ahead, behind := &f.Spec, &r.c.request.Backend.Spec
	quiet := cmp.Or(behind.TimeoutTunnel, max(ahead.TimeoutClient, behind.TimeoutServer))
	client, server := cmp.Or(ahead.TimeoutClientFin, quiet), cmp.Or(behind.TimeoutServerFin, quiet)
	r.half.Store(false)
	for _, d := range []*direction{&r.up, &r.down} {
		d.fromTimeout, d.toTimeout, d.half = quiet, quiet, &r.half
	}
	r.up.fromFin, r.up.toFin, r.down.fromFin, r.down.toFin = client, server, server, client
	r.down.head, r.down.watch = r.c.out, nil
	r.up.fromPace, r.down.toPace = nil, nil
	r.up.at, r.down.at = now(), now()
	// What has been read already goes first, so that a quiet tunnel holds no buffers.
	if r.down.write((*in).bytes()) != nil || r.up.write(r.c.in.bytes()) != nil {
		return
	}
	giveBack(*in)
	*in = nil
	r.c.rest()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.oneWay(&r.up, &r.down)
	}()
	r.oneWay(&r.down, &r.up)
	<-done
}

// oneWay passes one direction on, then tells its end to the other side; an error ends both directions. What is left has
// timeouts of its own.
func (r *relay) oneWay(d, other *direction) {
	err := d.untilEnd()
	if err == nil {
		err = d.to.CloseWrite()
		r.active.touch(now())
		r.half.Store(true)
		_ = other.from.SetReadDeadline(time.Now().Add(other.fromFin)) // on a closed socket nobody waits
		_ = other.to.SetWriteDeadline(time.Now().Add(other.toFin))
	}
	if err != nil && !errors.Is(err, syscall.ENOTCONN) {
		r.upStop.Store(true)
		r.downStop.Store(true)
		expire(r.c.sock)
		expire(r.srv)
	}
}
