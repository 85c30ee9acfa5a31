package proxy

import (
	"net"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// announced reads the PROXY header that a connection begins with. It reports false when there is none in time; such a
// connection ends without an answer, as the document of the protocol wants. What comes behind the header stays in c.in, or,
// when it belongs to TLS, where that reads it.
func (c *conn) announced(a *spec.AcceptProxy) bool {
	_ = c.SetReadDeadline(time.Now().Add(a.Timeout)) // the read says why it cannot be
	b := borrow()
	for {
		h, n, err := proxyproto.Parse(b.bytes())
		if err == nil && n == 0 {
			var m int
			m, err = c.stream.Read(b.room())
			b.w += m
			if m > 0 {
				continue
			}
		}
		if err != nil {
			giveBack(b)
			return false
		}
		b.consume(n)
		if h.Known() {
			c.via = &h
			c.client.Address, c.client.Local = h.Source.Addr().String(), h.Destination.String()
			c.who.Address, c.who.Port = c.client.Address, h.Source.Port()
		}
		break
	}
	switch {
	case b.empty():
		giveBack(b)
	case c.listener.TLS:
		c.ahead = b
	default:
		c.in = b
	}
	return true
}

// ends are the two ends of the client's connection, or those that a PROXY header has named.
func (c *conn) ends() (h proxyproto.Header) {
	if c.via != nil {
		return *c.via
	}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		h.Source = a.AddrPort()
	}
	if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
		h.Destination = a.AddrPort()
	}
	return h
}

// introduce tells a server with a PROXY header who the client is, if it wants to know.
func (c *conn) introduce(server *pool.Server, dialed net.Conn) error {
	var header []byte
	switch server.Spec.SendProxy {
	case spec.SendProxyNone:
		return nil
	case spec.SendProxyV1:
		header = proxyproto.AppendV1(header, c.ends())
	case spec.SendProxyV2:
		header = proxyproto.AppendV2(header, c.ends())
	}
	_, err := dialed.Write(header) // the first that is written: the kernel takes all of it
	return err
}
