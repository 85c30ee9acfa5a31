package engine_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/epoll"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// patience bounds every wait of these tests; reaching it is a failure.
const patience = 20 * time.Second

// world is a router with both drivers, and what is wanted of it.
type world struct {
	t      testing.TB
	engine *engine.Engine
	want   spec.State
	stop   func()
	// carrying is what the loops say of whether they carry anything, but what nobody has read in time.
	carrying chan bool
}

// newWorld makes a router with one frontend, main, that listens nowhere yet, and the backend web with one server.
func newWorld(t testing.TB, server string) *world {
	t.Helper()
	log := zap.NewNop()
	p := pool.New(log)
	cleartext, err := epoll.Open(2, log)
	if err != nil {
		t.Fatal(err)
	}
	carrying := make(chan bool, 8)
	cleartext.OnCarrying(func(now bool) {
		select {
		case carrying <- now:
		default:
		}
	})
	w := &world{t: t, carrying: carrying, engine: engine.New(engine.Config{Pool: p, Cleartext: cleartext, Full: proxy.New(log), Log: log})}
	w.want = spec.State{
		Frontends: []spec.Frontend{{
			Name: "main", DefaultBackend: "web",
			TimeoutClient: patience, TimeoutRequest: patience, TimeoutKeepAlive: patience, MaxConn: 1000,
		}},
		Backends: []spec.Backend{{
			Name: "web", TimeoutConnect: patience, TimeoutServer: patience,
			Servers: []spec.Server{{Name: "a", Address: netip.MustParseAddrPort(server), Weight: 1}},
		}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = p.Run(ctx) })
	group.Go(func() { _ = w.engine.Run(ctx) })
	w.stop = func() { cancel(); group.Wait() }
	t.Cleanup(w.stop)
	return w
}

func (w *world) main() *spec.Frontend { return &w.want.Frontends[0] }

// try makes everything as it is wanted, or tells what cannot be made.
func (w *world) try() error {
	for _, change := range plan.Diff(w.want, w.engine.Observe()) {
		if err := w.engine.Do(context.Background(), change); err != nil {
			return err
		}
	}
	if left := plan.Diff(w.want, w.engine.Observe()); len(left) > 0 {
		return fmt.Errorf("still to be done: %v", left)
	}
	return nil
}

func (w *world) apply() {
	w.t.Helper()
	if err := w.try(); err != nil {
		w.t.Fatal(err)
	}
}

// bound is where it listens at one wanted address.
func (w *world) bound(wanted netip.AddrPort) string {
	w.t.Helper()
	for _, b := range w.engine.Bound() {
		if b.Addr() == wanted.Addr() {
			return b.String()
		}
	}
	w.t.Fatalf("does not listen at %v", wanted)
	return ""
}

// Two wanted addresses, at ports that the kernel chooses.
var (
	clear  = netip.MustParseAddrPort("127.0.0.1:0")
	secure = netip.MustParseAddrPort("127.0.0.2:0")
)

// speak makes main speak TLS at secure, with certificates for these names; the first is the default.
func (w *world) speak(ca *certtest.CA, names ...string) {
	f := w.main()
	f.BindTLS = []netip.AddrPort{secure}
	f.TLS = spec.TLS{MinVersion: tls.VersionTLS12, HandshakeTimeout: patience, Tickets: true}
	for _, name := range names {
		cert, key := ca.Issue(w.t, name, "")
		f.TLS.Certificates = append(f.TLS.Certificates, spec.Certificate{CertFile: cert, KeyFile: key})
	}
}

// origin is an HTTP server that tells what it was asked.
func origin(t testing.TB) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			_ = http.NewResponseController(w).EnableFullDuplex()
			if r.ContentLength >= 0 {
				w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
			}
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(w, r.Body)
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			var names []string
			for name := range r.Header {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				if name != "Accept-Encoding" && name != "User-Agent" {
					_, _ = fmt.Fprintf(w, "%s: %s\n", name, r.Header.Get(name))
				}
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// trust makes a client's TLS that trusts a CA and asks for a name.
func trust(t testing.TB, ca *certtest.CA, name string) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: roots, ServerName: name}
}

// client is a connection to the router.
type client struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

func newClient(t testing.TB, c net.Conn) *client {
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{Conn: c, t: t, in: bufio.NewReader(c)}
}

func dial(t testing.TB, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

func dialTLS(t testing.TB, address string, config *tls.Config) *client {
	t.Helper()
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("send %.60q: %v", text, err)
	}
}

func (c *client) response() (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("response: %v", err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatalf("body: %v", err)
	}
	return r, string(body)
}

func (c *client) get(path, fields string) string {
	c.t.Helper()
	c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n")
	r, body := c.response()
	if r.StatusCode != 200 {
		c.t.Errorf("GET %s: %d %s", path, r.StatusCode, body)
	}
	return body
}
