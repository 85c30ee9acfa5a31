package proxy

import (
	"net"
	"syscall"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// Break makes every listening socket fail as if by itself.
func (d *Driver) Break() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for a := range d.acceptors {
		_ = a.Close()
	}
}

// Plant gives a server an idle connection of which the news of its end comes too late for the check before use.
func Plant(t testing.TB, c *net.TCPConn, server *pool.Server) {
	s, err := newSock(c)
	if err != nil {
		t.Fatal(err)
	}
	s.peekNow = func(uintptr) { s.peekErr = syscall.EAGAIN }
	server.Keep(s)
}
