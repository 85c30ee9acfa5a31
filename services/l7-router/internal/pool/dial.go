package pool

import (
	"context"
	"net"
	"net/netip"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// dialer makes the connections of a server's checks begin as those of requests do. A PROXY header names nobody there: the
// router speaks for itself. A check that goes elsewhere than the requests begins with none, as in HAProxy.
func dialer(s *spec.Server, c *spec.Check) check.Dial {
	var header []byte
	version := s.SendProxy
	if c.Address.IsValid() || c.Port != 0 {
		version = spec.SendProxyNone
	}
	switch version {
	case spec.SendProxyNone:
		return check.DialTCP
	case spec.SendProxyV1:
		header = proxyproto.AppendV1(nil, proxyproto.Header{})
	case spec.SendProxyV2:
		header = proxyproto.AppendV2(nil, proxyproto.Header{})
	}
	return func(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
		conn, err := check.DialTCP(ctx, address)
		if err != nil {
			return nil, err
		}
		if _, err := conn.Write(header); err != nil { // the first that is written: the kernel takes all of it
			_ = conn.Close() // it is broken
			return nil, err
		}
		return conn, nil
	}
}
