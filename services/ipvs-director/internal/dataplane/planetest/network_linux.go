package planetest

import (
	"bufio"
	"context"
	"errors"
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
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// The addresses of the test network.
const (
	VIP      = "10.10.60.22"
	VIP6     = "2001:db8:10::22"
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
	// Reals are the addresses of the real servers, each answering with its own address and then echoing lines; a datagram is answered
	// with the address and the datagram. Reals6 are the same by IPv6.
	Reals, Reals6 []netip.AddrPort
	// Servers are their namespaces.
	Servers []*netnstest.NS
}

// NewNetwork lays the cables and starts the real servers.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	netnstest.Require(t)
	n := &Network{Client: host(t), Director: host(t)}
	netnstest.Veth(t, n.Client, "outer", "10.10.60.1/24", n.Director, "outer", "10.10.60.21/24")
	n.Client.Address(t, "outer", "2001:db8:10::1/64")
	for _, prefix := range []string{VIP + "/24", "2001:db8:10::21/64", VIP6 + "/64"} {
		n.Director.Address(t, "outer", prefix)
	}
	for _, setting := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		n.Director.Set(t, "net/"+setting, "1")
	}
	for i := range 3 {
		real, card := host(t), fmt.Sprintf("inner%d", i)
		inner, inner6 := fmt.Sprintf("192.168.%d", 60+i), fmt.Sprintf("2001:db8:%d::", 60+i)
		netnstest.Veth(t, real, "inner", inner+".78/24", n.Director, card, inner+".99/24")
		real.Address(t, "inner", inner6+"78/64")
		n.Director.Address(t, card, inner6+"99/64")
		real.Gateway(t, inner+".99")
		real.Gateway(t, inner6+"99")
		address := netip.MustParseAddrPort(fmt.Sprintf("%s.78:%d", inner, realPort))
		address6 := netip.MustParseAddrPort(fmt.Sprintf("[%s78]:%d", inner6, realPort))
		real.Do(t, func() {
			for _, a := range []netip.AddrPort{address, address6} {
				serve(t, a)
				answer(t, a)
			}
		})
		n.Reals, n.Reals6, n.Servers = append(n.Reals, address), append(n.Reals6, address6), append(n.Servers, real)
	}
	return n
}

// host is a machine of a test network. Its link-local addresses can be used at once: without one the kernel asks for no neighbour by IPv6
// (ndisc_send_ns of net/ipv6/ndisc.c), so that the first packets would wait until duplicate address detection is over.
func host(t testing.TB) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	ns.Set(t, "net/ipv6/conf/default/accept_dad", "0")
	return ns
}

// Pool starts more real servers on the machines of the network, on ports from first on, that do as the others do by TCP.
func (n *Network) Pool(t testing.TB, size, first int) (pool []netip.AddrPort) {
	t.Helper()
	for i := range size {
		server := i % len(n.Servers)
		address := netip.AddrPortFrom(n.Reals[server].Addr(), uint16(first+i/len(n.Servers)))
		n.Servers[server].Do(t, func() { serve(t, address) })
		pool = append(pool, address)
	}
	return pool
}

// serve answers each connection with the server's own address and echoes lines until the test ends.
func serve(t testing.TB, address netip.AddrPort) {
	t.Helper()
	Serve(t, address, address)
}

// Serve is a real server that says the address by which it is known, which may be another than it is asked at, and then echoes lines until
// the test ends.
func Serve(t testing.TB, at, known netip.AddrPort) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
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
				_, _ = fmt.Fprintln(conn, known)
				_, _ = io.Copy(conn, conn) // ends with the connection; the client judges
			})
		}
	})
}

// answer answers each datagram with the server's own address and the datagram until the test ends.
func answer(t testing.TB, address netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { _ = conn.Close(); running.Wait() })
	running.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // else an ICMP error for an earlier answer
				_, _ = conn.WriteToUDPAddrPort(fmt.Appendf(nil, "%s %s", address, buf[:n]), from) // the client judges
			}
		}
	})
}

// Flow is a client's flow of datagrams to a VIP: one socket.
type Flow struct {
	net.Conn
}

// Open makes a socket for datagrams to a VIP.
func (n *Network) Open(t testing.TB, vip spec.VIP) *Flow {
	t.Helper()
	var conn net.Conn
	var err error
	n.Client.Do(t, func() { conn, err = net.Dial("udp", vip.AddrPort.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &Flow{conn}
}

// Ask sends a datagram and tells which real server answered it. One that is lost is sent again.
func (f *Flow) Ask(text string) (real netip.AddrPort, err error) {
	buf := make([]byte, 1500)
	send := true
	for deadline := time.Now().Add(patience); ; {
		if send {
			if _, err := f.Write([]byte(text)); err != nil {
				return real, err
			}
		}
		if err := f.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return real, err
		}
		n, err := f.Read(buf)
		if send = errors.Is(err, os.ErrDeadlineExceeded); send && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return real, err
		}
		who, echo, _ := strings.Cut(string(buf[:n]), " ")
		if echo != text {
			continue // the answer to an earlier one
		}
		return netip.ParseAddrPort(who)
	}
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
	return n.DialVIP(t, spec.VIP{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(VIP), uint16(port))})
}

// DialVIP connects from the client to a VIP and reads who answers.
func (n *Network) DialVIP(t testing.TB, vip spec.VIP) (*Conn, error) {
	t.Helper()
	return n.DialFrom(t, netip.Addr{}, vip)
}

// DialFrom connects from an address of the client to a VIP, from any if it is the zero value.
func (n *Network) DialFrom(t testing.TB, from netip.Addr, vip spec.VIP) (*Conn, error) {
	t.Helper()
	var conn net.Conn
	var err error
	dialer := net.Dialer{Timeout: patience}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	n.Client.Do(t, func() { conn, err = dialer.Dial("tcp", vip.AddrPort.String()) })
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
func (n *Network) Inside(t testing.TB, p Plane) Plane {
	in := inside{t: t, ns: n.Director, plane: p}
	if c, counts := p.(counter); counts {
		return insideCounter{in, c}
	}
	return in
}

// insideCounter is one that counts.
type insideCounter struct {
	inside
	counter counter
}

func (i insideCounter) CountOpen(ctx context.Context, keys []steer.Key) (open map[steer.Key]uint64, err error) {
	i.ns.Do(i.t, func() { open, err = i.counter.CountOpen(ctx, keys) })
	return open, err
}

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
