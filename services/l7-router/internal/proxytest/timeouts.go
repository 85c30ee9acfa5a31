package proxytest

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// testTunnelTimeouts: a tunnel has a timeout of its own instead of those of client and server, and what is left of it when
// one side has ended has others. Whoever is silent for longer finds the connection closed.
func testTunnelTimeouts(t *testing.T, open Open) {
	t.Parallel()
	const short, pause = 100 * time.Millisecond, 400 * time.Millisecond
	type limits struct{ client, server, clientFin, serverFin, tunnel time.Duration }
	waitForEnd := func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, onlyReader{c}) }
	for _, test := range []struct {
		name   string
		limits limits
		server func(c *net.TCPConn)
		client func(c *client)
		cut    bool // the router ends it, otherwise the server does, after "late"
	}{
		{"a silent tunnel ends by its own timeout", limits{patience, patience, 0, 0, short}, waitForEnd, func(*client) {}, true},
		{"without one, by the longer of the others", limits{short, short / 2, 0, 0, 0}, waitForEnd, func(*client) {}, true},
		{"a tunnel may be silent for longer than a client or a server", limits{short, short, short, short, patience}, func(c *net.TCPConn) {
			<-time.After(pause)
			_, _ = io.WriteString(c, "late")
		}, func(*client) {}, false},
		{"a server that goes on after the client's end", limits{patience, patience, 0, short, patience}, waitForever, func(c *client) { _ = c.CloseWrite() }, true},
		{"and one that answers in time", limits{short, short, short, patience, short}, func(c *net.TCPConn) {
			waitForEnd(c)
			<-time.After(pause)
			_, _ = io.WriteString(c, "late")
		}, func(c *client) { _ = c.CloseWrite() }, false},
		{"a client that stays after the server's end", limits{patience, patience, short, 0, patience}, func(c *net.TCPConn) {
			_ = c.CloseWrite()
			waitForEnd(c)
		}, func(c *client) {
			if _, err := c.in.ReadByte(); err != io.EOF {
				t.Errorf("the server's end: %v", err)
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ended := newTell()
			address := rawOrigin(t, func(c *net.TCPConn) {
				defer ended.now()
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				test.server(c)
			})
			b := backend("web", server("a", address))
			b.TimeoutServer, b.TimeoutServerFin, b.TimeoutTunnel = patience, test.limits.serverFin, test.limits.tunnel
			w := newWorld(t, open, b)
			f := &w.want.Frontends[0]
			f.TimeoutClient, f.TimeoutClientFin = test.limits.client, test.limits.clientFin
			w.want.Backends[0].TimeoutServer = test.limits.server
			w.apply()
			c := dial(t, w.address())
			c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != 101 {
				t.Fatalf("%v %v", r, err)
			}
			test.client(c)
			got, _ := io.ReadAll(c.in) // a reset is an end too
			if late := string(got) == "late"; late == test.cut {
				t.Errorf("got %q, cut: want %t", got, test.cut)
			}
			ended.wait(t, "the server's connection ends")
		})
	}
}

// waitForever reads until the connection is over in both directions.
func waitForever(c *net.TCPConn) {
	_, _ = io.Copy(io.Discard, onlyReader{c})
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
		<-time.After(time.Second) // and is silent
	}
}

// testLingerTimeout: who does not close after a last answer is waited for no longer than timeout_client_fin.
func testLingerTimeout(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open)
	w.want.Frontends[0].TimeoutClientFin = 50 * time.Millisecond
	w.apply()
	c := dial(t, w.address())
	c.send("nonsense\r\n\r\n")
	if r, _ := c.response("GET"); r.StatusCode != 400 {
		t.Errorf("%d", r.StatusCode)
	}
	if _, err := c.in.ReadByte(); err != io.EOF {
		t.Fatal(err)
	}
	for { // until the router has closed the other direction too
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}
