package proxytest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testServerBecomesDeaf has the connection to an h2c server lead nowhere any more, without an end that could be noticed, as
// after a firewall has forgotten it: requests must not go on being sent there.
func testServerBecomesDeaf(t *testing.T, open Open) {
	t.Parallel()
	var mu sync.Mutex
	var conns []net.Conn
	s := httptest.NewUnstartedServer(named("a"))
	s.Config.Protocols = prior()
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateNew {
			conns = append(conns, c)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(func() { // it does not hear that they are closed
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	b := backend("web", server("a", addressOf(s)))
	b.H2C, b.TimeoutServer = true, 300*time.Millisecond
	w := newWorld(t, open, b)
	if r, body := dial(t, w.address()).get("/"); body != "a" {
		t.Fatalf("got %d %q", r.StatusCode, body)
	}
	mu.Lock()
	for _, c := range conns {
		if err := deafen(c.(*net.TCPConn)); err != nil {
			t.Error(err)
		}
	}
	mu.Unlock()
	for end := time.Now().Add(patience); ; {
		r, body := dial(t, w.address()).get("/")
		if body == "a" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still %d after %v", r.StatusCode, patience)
		}
	}
}

// deafen has the kernel drop whatever comes to a connection.
func deafen(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // 0 bytes are let through
	var wrong error
	if err := raw.Control(func(fd uintptr) {
		wrong = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	}); err != nil {
		return err
	}
	if wrong != nil {
		return fmt.Errorf("SO_ATTACH_FILTER: %w", wrong)
	}
	return nil
}
