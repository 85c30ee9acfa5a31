package pool

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/proxyproto"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// TestCheckWithProxyHeader: a server that expects a header gets one from a check too, and it names nobody.
func TestCheckWithProxyHeader(t *testing.T) {
	t.Parallel()
	for version, length := range map[spec.SendProxy]int{spec.SendProxyNone: 0, spec.SendProxyV1: 15, spec.SendProxyV2: 16} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b := make([]byte, 1024)
			n, _ := c.Read(b)
			if n == length { // the request comes by itself
				m, _ := c.Read(b[n:])
				n += m
			}
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			got <- string(b[:n])
		}()
		c := &spec.Check{Kind: spec.CheckHTTP, HTTP: spec.HTTPCheck{Method: "GET", Path: "/"}, Timeout: 20 * time.Second}
		dial := dialer(&spec.Server{SendProxy: version}, c)
		if r := check.Through(t.Context(), dial, netip.MustParseAddrPort(l.Addr().String()), c); r.Code != check.Layer7OK {
			t.Errorf("version %d: %+v", version, r)
		}
		sent := <-got
		h, n, err := proxyproto.Parse([]byte(sent))
		if version == spec.SendProxyNone {
			n, err = 0, nil
		}
		if n != length || err != nil || h.Known() || sent[length:length+6] != "GET / " {
			t.Errorf("version %d: %q", version, sent)
		}
	}
}
