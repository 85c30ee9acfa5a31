package desired_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// cut is a cable to an etcd that can be cut.
type cut struct {
	t      testing.TB
	target string
	listen string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	pumps    sync.WaitGroup
}

func newCut(t testing.TB, endpoints []string) *cut {
	t.Helper()
	c := &cut{t: t, target: strings.TrimPrefix(endpoints[0], "http://"), listen: "127.0.0.1:0"}
	c.mend()
	t.Cleanup(c.cut)
	return c
}

func (c *cut) endpoints() []string { return []string{"http://" + c.listen} }

// mend makes it whole, at the same address as before.
func (c *cut) mend() {
	c.t.Helper()
	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		c.t.Fatal(err)
	}
	c.listen = listener.Addr().String()
	c.mu.Lock()
	c.listener = listener
	c.mu.Unlock()
	c.pumps.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", c.target)
			if err != nil {
				_ = near.Close()
				continue
			}
			c.mu.Lock()
			if c.listener != listener {
				c.mu.Unlock()
				_, _ = near.Close(), far.Close()
				return
			}
			c.conns = append(c.conns, near, far)
			c.mu.Unlock()
			c.pumps.Go(func() { pump(near, far) })
			c.pumps.Go(func() { pump(far, near) })
		}
	})
}

// pump carries one direction; whichever ends first ends the other.
func pump(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_, _ = to.Close(), from.Close()
}

// cut ends all connections and lets no new one in.
func (c *cut) cut() {
	c.mu.Lock()
	if c.listener != nil {
		_ = c.listener.Close()
		c.listener = nil
	}
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
	c.mu.Unlock()
	c.pumps.Wait()
}
