package check

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
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
	http := spec.Check{Kind: spec.CheckHTTP, HTTP: spec.HTTPCheck{Method: "GET", Path: "/healthz"}, Timeout: patience}
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

// TestExpect: what is expected of responses, of which all are here at once.
// TestPhrase: what a server says of its status is told as text, whatever bytes it is.
func TestPhrase(t *testing.T) {
	t.Parallel()
	c := spec.Check{Kind: spec.CheckHTTP, HTTP: spec.HTTPCheck{Method: "GET", Path: "/"}, Timeout: patience}
	at := server(t, "HTTP/1.1 503 Indispon\xedvel "+strings.Repeat("x", 10000)+"\r\n\r\n")
	r := Do(t.Context(), at, &c)
	if want := "status 503 Indispon\uFFFDvel xxx"; r.Code != Layer7Status || !strings.HasPrefix(r.Reason, want) || len(r.Reason) > 200 {
		t.Errorf("got %+.300v, want it to begin with %q, and to be short", r, want)
	}
}

func TestExpect(t *testing.T) {
	t.Parallel()
	status := func(from, to int) spec.Expect { return spec.Expect{Statuses: []spec.StatusRange{{From: from, To: to}}} }
	not := func(e spec.Expect) spec.Expect { e.Not = true; return e }
	text := func(s string) spec.Expect { return spec.Expect{Body: s} }
	regex := func(s string) spec.Expect { return spec.Expect{Regex: spec.Regex{Regexp: regexp.MustCompile(s)}} }
	plain := "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-State: ok\r\nX-State: good\r\n\r\nall right"
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n5\r\nright\r\n0\r\n\r\n"
	tests := []struct {
		name     string
		response string
		check    spec.HTTPCheck
		want     Code
	}{
		{"a range", plain, spec.HTTPCheck{Expect: []spec.Expect{status(200, 299)}}, Layer7OK},
		{"another status", plain, spec.HTTPCheck{Expect: []spec.Expect{status(204, 204)}}, Layer7Status},
		{"not this status", plain, spec.HTTPCheck{Expect: []spec.Expect{not(status(200, 200))}}, Layer7Status},
		{"a bad status that is expected", "HTTP/1.1 503 Busy\r\n\r\n", spec.HTTPCheck{Expect: []spec.Expect{status(503, 503)}}, Layer7OK},
		{"text", plain, spec.HTTPCheck{Expect: []spec.Expect{text("right")}}, Layer7OK},
		{"text in chunks", chunked, spec.HTTPCheck{Expect: []spec.Expect{text("all right")}}, Layer7OK},
		{"text up to the end", "HTTP/1.0 200 OK\r\n\r\nall right", spec.HTTPCheck{Expect: []spec.Expect{text("right")}}, Layer7OK},
		{"no such text", plain, spec.HTTPCheck{Expect: []spec.Expect{text("wrong")}}, Layer7Response},
		{"text that must not be", plain, spec.HTTPCheck{Expect: []spec.Expect{not(text("right"))}}, Layer7Response},
		{"text beyond what is looked at", "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", MaxBody) + "right", spec.HTTPCheck{Expect: []spec.Expect{text("right")}}, Layer7Response},
		{"a body that ends too early", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nright", spec.HTTPCheck{Expect: []spec.Expect{text("right")}}, Layer7Response},
		{"a regular expression", chunked, spec.HTTPCheck{Expect: []spec.Expect{regex("^all r.*t$")}}, Layer7OK},
		{"a field", plain, spec.HTTPCheck{Expect: []spec.Expect{{Header: "x-state"}}}, Layer7OK},
		{"a field's second value", plain, spec.HTTPCheck{Expect: []spec.Expect{{Header: "X-State", HeaderValue: "good"}}}, Layer7OK},
		{"a field's other value", plain, spec.HTTPCheck{Expect: []spec.Expect{{Header: "X-State", HeaderValue: "bad"}}}, Layer7Status},
		{"all of them", plain, spec.HTTPCheck{Expect: []spec.Expect{status(200, 200), text("all"), text("wrong")}}, Layer7Response},
		{"404 for no new clients", "HTTP/1.1 404 Not Found\r\n\r\n", spec.HTTPCheck{DisableOn404: true}, Layer7Condition},
		{"500 stays bad", "HTTP/1.1 500 Oops\r\n\r\n", spec.HTTPCheck{DisableOn404: true}, Layer7Status},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := spec.Check{Kind: spec.CheckHTTP, Timeout: patience, HTTP: test.check}
			c.HTTP.Method, c.HTTP.Path = "GET", "/"
			if r := Do(context.Background(), server(t, test.response), &c); r.Code != test.want {
				t.Errorf("got %+v, want %s", r, test.want)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("172.16.0.88:80")
	tests := []struct {
		check spec.HTTPCheck
		want  string
	}{
		{spec.HTTPCheck{Method: "OPTIONS", Path: "/"}, "OPTIONS / HTTP/1.1\r\nConnection: close\r\nHost: 172.16.0.88:80\r\nUser-Agent: twotier-probe\r\n\r\n"},
		{
			spec.HTTPCheck{Method: "POST", Path: "/a?b", Host: "www", Old: true, Headers: []spec.Header{{Name: "X-A", Value: "b"}}, Body: "ping"},
			"POST /a?b HTTP/1.0\r\nHost: www\r\nUser-Agent: twotier-probe\r\nX-A: b\r\nContent-Length: 4\r\n\r\nping",
		},
	}
	for _, test := range tests {
		if got := string(request(at, &test.check)); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// TestElsewhere: another address and port are checked.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	at := server(t, "HTTP/1.1 200 OK\r\n\r\n")
	c := spec.Check{Kind: spec.CheckHTTP, Timeout: patience, Address: at.Addr(), Port: at.Port(), HTTP: spec.HTTPCheck{Method: "GET", Path: "/"}}
	if r := Do(context.Background(), netip.MustParseAddrPort("192.0.2.1:1"), &c); r.Code != Layer7OK {
		t.Errorf("got %+v", r)
	}
}

// TestUnmade: what this side lacks is told apart from what is wrong with the server.
func TestUnmade(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]bool{
		syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOBUFS: true, syscall.EADDRNOTAVAIL: false, syscall.ECONNREFUSED: false,
	} {
		dial := func(context.Context, netip.AddrPort) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", errno)}
		}
		got := Through(t.Context(), dial, netip.MustParseAddrPort("192.0.2.1:80"), &spec.Check{Kind: spec.CheckTCP, Timeout: time.Second})
		if got.Unmade != want || got.Code.Good() {
			t.Errorf("%v: %+v, want unmade %t", errno, got, want)
		}
	}
}
