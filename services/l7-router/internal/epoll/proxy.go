package epoll

import (
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// announce reads the PROXY header that a connection begins with. What is none ends it without an answer, as the document of
// the protocol wants.
func (c *conn) announce() bool {
	if c.flight == nil {
		if !c.readable {
			return false
		}
		c.flight = c.loop.newFlight()
	}
	in := c.flight.up.in
	for {
		h, n, err := proxyproto.Parse(in.bytes())
		if err != nil {
			c.close()
			return false
		}
		if n > 0 {
			in.consume(n)
			return c.announced(h)
		}
		if !c.readable {
			return false
		}
		n, errno := c.read(in.room())
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 || n == 0 {
			c.close()
			return false
		}
		in.w += n
	}
}

// announced goes on to the first request, which may have come together with the header.
func (c *conn) announced(h proxyproto.Header) bool {
	if h.Known() {
		c.via = &h
		c.address, c.source = h.Source.Addr().String(), h.Source.Port()
	}
	wait := c.timer.at // shorter than usual when the address is being given up
	empty := c.flight.up.empty()
	if empty {
		c.rest()
	} else {
		c.flight.request.Await(c.listener.Frontend().Current(), c.who(), c.loop.now)
	}
	c.await(true)
	if c.queuedUp {
		c.loop.wheel.set(&c.timer, wait)
	}
	return !empty || c.readable
}

// ends are the two ends of the client's connection, or those that a PROXY header has named.
func (c *conn) ends() proxyproto.Header {
	if c.via != nil {
		return *c.via
	}
	return proxyproto.Header{Source: tcp.RemoteAddress(int(c.fd)), Destination: tcp.LocalAddress(int(c.fd))}
}

// introduce tells a server with a PROXY header who the client is. It is the first that is written to a connection, so the
// kernel takes all of it, and the request follows at once.
func (c *conn) introduce() bool {
	b := c.loop.borrow()
	defer c.loop.giveBack(b)
	header := b.b[:0]
	if c.flight.server.Spec.SendProxy == spec.SendProxyV1 {
		header = proxyproto.AppendV1(header, c.ends())
	} else {
		header = proxyproto.AppendV2(header, c.ends())
	}
	return unix.Sendto(int(c.flight.upstream.fd), header, unix.MSG_NOSIGNAL|unix.MSG_MORE, nil) == nil
}
