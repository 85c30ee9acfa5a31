package check

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// patience bounds every check that is to end by itself.
const patience = 20 * time.Second

// server answers each connection with text, after the head of a request has come, and hangs up; without text it is silent.
func server(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				var request strings.Builder
				for b := make([]byte, 1024); !strings.Contains(request.String(), "\r\n\r\n"); {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					request.Write(b[:n])
				}
				if text == "" {
					_, _ = c.Read(make([]byte, 1)) // until the check gives up
					return
				}
				_, _ = io.WriteString(c, text)
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestDo(t *testing.T) {
	t.Parallel()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(dead.Addr().String())
	_ = dead.Close()
	http := spec.Check{Kind: spec.CheckHTTP, Method: "GET", Path: "/healthz", Timeout: patience}
	soon := http
	soon.Timeout = 50 * time.Millisecond
	tests := []struct {
		name   string
		at     netip.AddrPort
		check  spec.Check
		code   Code
		status int
	}{
		{"connects", server(t, ""), spec.Check{Kind: spec.CheckTCP, Timeout: patience}, Layer4OK, 0},
		{"nobody there", nobody, spec.Check{Kind: spec.CheckTCP, Timeout: patience}, Layer4Refused, 0},
		{"nobody there for a request", nobody, http, Layer4Refused, 0},
		{"good", server(t, "HTTP/1.1 200 OK\r\n\r\n"), http, Layer7OK, 200},
		{"redirects are good", server(t, "HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n"), http, Layer7OK, 302},
		{"interim first", server(t, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"), http, Layer7OK, 204},
		{"interim for ever", server(t, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 40)), http, Layer7Response, 0},
		{"not found", server(t, "HTTP/1.1 404 Not Found\r\n\r\n"), http, Layer7Status, 404},
		{"fails", server(t, "HTTP/1.1 500 Oops\r\n\r\n"), http, Layer7Status, 500},
		{"another protocol", server(t, "SSH-2.0-OpenSSH\r\n\r\n"), http, Layer7Response, 0},
		{"half a head", server(t, "HTTP/1.1 200 OK\r\n"), http, Layer7Response, 0},
		{"silent", server(t, ""), soon, Layer7Timeout, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := Do(context.Background(), test.at, &test.check)
			if r.Code != test.code || r.Status != test.status || r.Reason == "" || r.Code.Description() == "" {
				t.Errorf("got %+v, want %s and status %d", r, test.code, test.status)
			}
		})
	}
}
