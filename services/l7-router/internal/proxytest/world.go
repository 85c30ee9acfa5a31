package proxytest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"go.uber.org/zap"
)

// patience bounds every wait of these tests; reaching it is a failure.
const patience = 20 * time.Second

// Engine is what every connection driver does.
type Engine interface {
	Do(context.Context, plan.Change) error
	Observe() plan.Have
	Changed() <-chan struct{}
	Run(context.Context) error
}

// Driver is one engine, and what the tests do to its inside.
type Driver struct {
	Engine
	// Address is where it listens; there is one listener, wanted at anyPort.
	Address func() string
	// Break makes that listener fail as if by itself.
	Break func()
	// Plant gives it an idle connection to the first server of the backend web. It has to use it for the next request that may go over one, without
	// having noticed that the server has closed it.
	Plant func(c *net.TCPConn)
}

// Open makes a driver over a pool.
type Open func(testing.TB, *pool.Pool, *zap.Logger) Driver

// world is a router with one frontend, main, and what has been wanted of it so far.
type world struct {
	t      testing.TB
	engine Driver
	pool   *pool.Pool
	want   spec.State
	stop   func() // stops the router and waits for it
}

// anyPort on loopback: the kernel chooses.
var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

func newWorld(t testing.TB, open Open, backends ...spec.Backend) *world {
	t.Helper()
	return newWorldOver(t, open, pool.New(zap.NewNop()), backends...)
}

// newWorldOver is a world over a pool that has been prepared.
func newWorldOver(t testing.TB, open Open, p *pool.Pool, backends ...spec.Backend) *world {
	t.Helper()
	log := zap.NewNop()
	w := &world{t: t, pool: p, engine: open(t, p, log)}
	w.want = spec.State{
		Frontends: []spec.Frontend{{
			Name: "main", Bind: []netip.AddrPort{anyPort}, DefaultBackend: "web",
			TimeoutClient: patience, TimeoutRequest: patience, TimeoutKeepAlive: patience, MaxConn: 1000,
		}},
		Backends: backends,
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = p.Run(ctx) })
	group.Go(func() { _ = w.engine.Run(ctx) })
	w.stop = func() { cancel(); group.Wait() }
	t.Cleanup(w.stop)
	w.apply()
	return w
}

// apply makes everything as it is wanted.
func (w *world) apply() {
	w.t.Helper()
	for _, change := range plan.Diff(w.want, w.engine.Observe()) {
		if err := w.engine.Do(context.Background(), change); err != nil {
			w.t.Fatalf("%s: %v", change, err)
		}
	}
	if left := plan.Diff(w.want, w.engine.Observe()); len(left) > 0 {
		w.t.Fatalf("still to be done: %v", left)
	}
}

// address is where the router listens.
func (w *world) address() string {
	return w.engine.Address()
}

func backend(name string, servers ...spec.Server) spec.Backend {
	return spec.Backend{Name: name, Servers: servers, TimeoutConnect: patience, TimeoutQueue: patience, TimeoutServer: patience}
}

// server is a server at an address, of weight 1, with its name as cookie value.
func server(name, address string) spec.Server {
	return spec.Server{Name: name, Address: netip.MustParseAddrPort(address), Weight: 1, Cookie: name}
}

// origin is an HTTP server that answers with handler.
func origin(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func addressOf(s *httptest.Server) string { return s.Listener.Addr().String() }

// named answers every request with a name, after reading its body.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, name)
	}
}

// rawOrigin is a server that hands each connection to serve and closes it afterwards.
func rawOrigin(t testing.TB, serve func(*net.TCPConn)) string {
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
				serve(c.(*net.TCPConn))
			})
		}
	})
	return l.Addr().String()
}

// deadAddress is an address at which nothing listens.
func deadAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// deafAddress is an address that answers no connect, because its queue is full.
func deafAddress(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	own, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", own.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the queue does not fill")
	return ""
}

// client is one connection to the router.
type client struct {
	*net.TCPConn
	t  testing.TB
	in *bufio.Reader
}

func dial(t testing.TB, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{TCPConn: c.(*net.TCPConn), t: t, in: bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("send %.60q: %v", s, err)
	}
}

// response reads one response, with its body.
func (c *client) response(method string) (*http.Response, string) {
	c.t.Helper()
	r, body, err := c.read(method)
	if err != nil {
		c.t.Fatalf("response to %s: %v", method, err)
	}
	return r, body
}

func (c *client) read(method string) (*http.Response, string, error) {
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

// get asks for a path and reads the answer.
func (c *client) get(path string, fields ...string) (*http.Response, string) {
	c.t.Helper()
	c.send("GET " + path + " HTTP/1.1\r\nHost: example.org\r\n" + lines(fields) + "\r\n")
	return c.response("GET")
}

func lines(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return strings.Join(fields, "\r\n") + "\r\n"
}

// expectClosed checks that the router closes the connection without sending more.
func (c *client) expectClosed() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
		c.t.Errorf("want the end of the connection, got %q %v", rest, err)
	}
}

// tell is a channel that is closed once.
type tell struct {
	once sync.Once
	c    chan struct{}
}

func newTell() *tell { return &tell{c: make(chan struct{})} }

func (s *tell) now() { s.once.Do(func() { close(s.c) }) }

func (s *tell) wait(t testing.TB, what string) {
	t.Helper()
	select {
	case <-s.c:
	case <-time.After(patience):
		t.Fatalf("waited too long: %s", what)
	}
}
