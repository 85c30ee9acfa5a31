package planetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
)

// The addresses of the test network.
const (
	VIP      = "10.10.60.22"
	VIPPort  = 80
	VIP2Port = 81
	realPort = 8080
	// patience bounds every wait on the network. It is far above what is ever needed; no test measures it.
	patience = 20 * time.Second
)

// Network is a client, a director with the VIP on its outer side, and real servers behind it whose default route is
// the director: each in a namespace of its own.
type Network struct {
	Client, Director *netnstest.NS
	// Reals are the addresses of the real servers, each answering with its own address and then echoing lines.
	Reals []netip.AddrPort
	// Servers are their namespaces.
	Servers []*netnstest.NS
}

// NewNetwork lays the cables and starts the real servers.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	netnstest.Require(t)
	n := &Network{Client: netnstest.New(t), Director: netnstest.New(t)}
	netnstest.Veth(t, n.Client, "outer", "10.10.60.1/24", n.Director, "outer", "10.10.60.21/24")
	n.Director.Exec(t, "ip", "address", "add", VIP+"/24", "dev", "outer")
	n.Director.Do(t, func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	for i := range 3 {
		real := netnstest.New(t)
		inner := fmt.Sprintf("192.168.%d", 60+i)
		netnstest.Veth(t, real, "inner", inner+".78/24", n.Director, fmt.Sprintf("inner%d", i), inner+".99/24")
		real.Exec(t, "ip", "route", "add", "default", "via", inner+".99")
		address := netip.MustParseAddrPort(fmt.Sprintf("%s.78:%d", inner, realPort))
		real.Do(t, func() { serve(t, address) })
		n.Reals, n.Servers = append(n.Reals, address), append(n.Servers, real)
	}
	return n
}

// serve answers each connection with the server's own address and echoes lines until the test ends.
func serve(t testing.TB, address netip.AddrPort) {
	t.Helper()
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = listener.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			running.Go(func() {
				defer stop()
				defer func() { _ = conn.Close() }()
				_, _ = fmt.Fprintln(conn, address)
				_, _ = io.Copy(conn, conn) // ends with the connection; the client judges
			})
		}
	})
}

// Conn is a client's connection to a VIP.
type Conn struct {
	net.Conn
	lines *bufio.Reader
	// Real is the real server that took it, as it named itself.
	Real netip.AddrPort
}

// Dial connects from the client to a port of the VIP and reads who answers.
func (n *Network) Dial(t testing.TB, port int) (*Conn, error) {
	t.Helper()
	var conn net.Conn
	var err error
	n.Client.Do(t, func() { conn, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", VIP, port), patience) })
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &Conn{Conn: conn, lines: bufio.NewReader(conn)}
	name, err := c.line()
	if err != nil {
		return nil, err
	}
	c.Real, err = netip.ParseAddrPort(name)
	return c, err
}

// Echo sends a line through the connection and fails the test unless it comes back.
func (c *Conn) Echo(t testing.TB, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatalf("send on the connection to %s: %v", c.Real, err)
	}
	got, err := c.line()
	if err != nil {
		t.Fatalf("read on the connection to %s: %v", c.Real, err)
	}
	if got != line {
		t.Fatalf("connection to %s: got %q, want %q", c.Real, got, line)
	}
}

func (c *Conn) line() (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	s, err := c.lines.ReadString('\n')
	return strings.TrimSpace(s), err
}

// Inside makes every call of a plane in the director's namespace.
func (n *Network) Inside(t testing.TB, p Plane) Plane { return inside{t: t, ns: n.Director, plane: p} }

type inside struct {
	t     testing.TB
	ns    *netnstest.NS
	plane Plane
}

func (i inside) Observe(ctx context.Context) (have plan.Have, err error) {
	i.ns.Do(i.t, func() { have, err = i.plane.Observe(ctx) })
	return have, err
}

func (i inside) Apply(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	i.ns.Do(i.t, func() { done, err = i.plane.Apply(ctx, changes) })
	return done, err
}

func (i inside) Close() error { return i.plane.Close() }
