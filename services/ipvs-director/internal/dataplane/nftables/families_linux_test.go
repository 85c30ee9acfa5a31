package nftables

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	nft "github.com/google/nftables"

	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// patience bounds each wait on the network.
const patience = 20 * time.Second

// kinds are a VIP for each family and protocol, with its real servers.
func kinds(n *planetest.Network) map[spec.VIP][]netip.AddrPort {
	all := map[spec.VIP][]netip.AddrPort{}
	for _, protocol := range []spec.Protocol{spec.TCP, spec.UDP} {
		all[spec.VIP{AddrPort: addrPort(planetest.VIP, planetest.VIPPort), Protocol: protocol}] = n.Reals
		all[spec.VIP{AddrPort: addrPort(planetest.VIP6, planetest.VIPPort), Protocol: protocol}] = n.Reals6
	}
	return all
}

// become makes the services of the plane these.
func become(t *testing.T, n *planetest.Network, want ...spec.Service) {
	t.Helper()
	plane := n.Inside(t, Open())
	have, err := plane.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Apply(t.Context(), plan.Diff(spec.Want{Services: want}, have)); err != nil {
		t.Fatal(err)
	}
}

// By each protocol and family the kernel deals as package slots says, and its connections are found, counted and forgotten.
func TestKernelDealsAsCalculated(t *testing.T) {
	n := network(t)
	for vip, reals := range kinds(n) {
		for _, scheduler := range []spec.Scheduler{spec.SH, spec.MH} {
			service := spec.Service{VIP: vip, Scheduler: scheduler}
			keys := make([]steer.Key, len(reals))
			for i, a := range reals {
				service.Reals = append(service.Reals, spec.Real{Address: a, Weight: 1})
				keys[i] = steer.Key{VIP: vip, Real: a}
			}
			become(t, n, service)
			table := slots.Of(service)
			taken := map[steer.Key]uint64{}
			for range 20 {
				var conn net.Conn
				var real netip.AddrPort
				if vip.Protocol == spec.UDP {
					flow := n.Open(t, vip)
					var err error
					if real, err = flow.Ask("who"); err != nil {
						t.Fatalf("%s %s: %v", vip, scheduler, err)
					}
					conn = flow
				} else {
					c, err := n.DialVIP(t, vip)
					if err != nil {
						t.Fatalf("%s %s: %v", vip, scheduler, err)
					}
					conn, real = c, c.Real
				}
				client := netip.MustParseAddrPort(conn.LocalAddr().String())
				if slot, ok := table.Slot(client); !ok || table.Slots[slot] != real {
					t.Errorf("%s %s: %s went to %s, slot %d leads to %s", vip, scheduler, client, real, slot, table.Slots[slot])
				}
				taken[steer.Key{VIP: vip, Real: real}]++
				n.Director.Do(t, func() {
					if found, ok, err := Find(t.Context(), client, vip); err != nil || !ok || found != real {
						t.Errorf("%s: %s has %s; found %s, %t, %v", vip, client, real, found, ok, err)
					}
				})
			}
			n.Director.Do(t, func() {
				open, err := Open().CountOpen(t.Context(), keys)
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range keys {
					if open[key] != taken[key] {
						t.Errorf("%s %s: %d of %s are counted, %d are open", vip, scheduler, open[key], key.Real, taken[key])
					}
				}
				if err := Open().Reset(t.Context(), keys); err != nil {
					t.Fatal(err)
				}
				if open, err = Open().CountOpen(t.Context(), keys); err != nil || open[keys[0]]+open[keys[1]]+open[keys[2]] > 0 {
					t.Errorf("%s %s: after they were forgotten: %v, %v", vip, scheduler, open, err)
				}
			})
		}
	}
}

// A director that knows nothing of a connection, as one that has taken over, takes it up from either side.
func TestKernelTakesUpFromEitherSide(t *testing.T) {
	n := network(t)
	for vip, reals := range kinds(n) {
		at := netip.AddrPortFrom(reals[0].Addr(), 9000)
		service := spec.Service{VIP: vip, Scheduler: spec.MH, Reals: []spec.Real{{Address: at, Weight: 1}}}
		become(t, n, service)
		var client net.Conn
		var say func(string) error // what the server says to the client
		var hear func(int) string  // what it hears
		if vip.Protocol == spec.UDP {
			var server *net.UDPConn
			n.Servers[0].Do(t, func() {
				var err error
				if server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
					t.Fatal(err)
				}
			})
			t.Cleanup(func() { _ = server.Close() })
			client = n.Open(t, vip)
			var peer netip.AddrPort
			say = func(s string) error { _, err := server.WriteToUDPAddrPort([]byte(s), peer); return err }
			hear = func(size int) string {
				buf := make([]byte, size)
				_ = server.SetReadDeadline(time.Now().Add(patience)) // an error shows as silence
				got, from, err := server.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Errorf("%s: the server hears nothing: %v", vip, err)
				}
				peer = from
				return string(buf[:got])
			}
		} else {
			var listener net.Listener
			n.Servers[0].Do(t, func() {
				var err error
				if listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
					t.Fatal(err)
				}
			})
			t.Cleanup(func() { _ = listener.Close() })
			var err error
			n.Client.Do(t, func() { client, err = net.DialTimeout("tcp", vip.AddrPort.String(), patience) })
			if err != nil {
				t.Fatalf("%s: %v", vip, err)
			}
			t.Cleanup(func() { _ = client.Close() })
			server, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = server.Close() })
			say = func(s string) error { _, err := io.WriteString(server, s); return err }
			hear = func(size int) string {
				buf := make([]byte, size)
				_ = server.SetReadDeadline(time.Now().Add(patience)) // an error shows as silence
				if _, err := io.ReadFull(server, buf); err != nil {
					t.Errorf("%s: the server hears nothing: %v", vip, err)
				}
				return string(buf)
			}
		}
		ask := func(text string) {
			if _, err := io.WriteString(client, text); err != nil {
				t.Errorf("%s: %v", vip, err)
			}
			if got := hear(len(text)); got != text {
				t.Errorf("%s: the server heard %q, want %q", vip, got, text)
			}
		}
		tell := func(text string) {
			if err := say(text); err != nil {
				t.Errorf("%s: %v", vip, err)
			}
			buf := make([]byte, len(text))
			_ = client.SetReadDeadline(time.Now().Add(patience)) // an error shows as silence
			if _, err := io.ReadFull(client, buf); err != nil || string(buf) != text {
				t.Errorf("%s: the client heard %q, %v; want %q", vip, buf, err, text)
			}
		}
		forget := func() {
			n.Director.Do(t, func() {
				key := steer.Key{VIP: vip, Real: at}
				if err := Open().Reset(t.Context(), []steer.Key{key}); err != nil {
					t.Fatal(err)
				}
				if open, err := Open().CountOpen(t.Context(), []steer.Key{key}); err != nil || open[key] != 0 {
					t.Fatalf("%s: %d remembered, %v", vip, open[key], err)
				}
			})
		}
		ask("begin")
		for round := range 2 {
			forget()
			tell(fmt.Sprintf("the server first %d", round))
			ask(fmt.Sprintf("and an answer %d", round))
			forget()
			ask(fmt.Sprintf("the client first %d", round))
			tell(fmt.Sprintf("and an answer %d", round))
		}
		if _, err := exec.LookPath("nft"); err != nil {
			testreq.Missing(t, "the nft program: install nftables")
		}
		n.Director.Exec(t, "nft", "list", "ruleset") // 1.0.6 aborts at what it does not understand
		have, err := n.Inside(t, Open()).Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range have.Services {
			// Whoever began, each of 5 questions and 4 answers is counted. TCP says more than that.
			passed := *s.Reals[0].Traffic
			if passed.PacketsIn < 5 || passed.PacketsOut < 4 || vip.Protocol == spec.UDP && (passed.PacketsIn != 5 || passed.PacketsOut != 4) {
				t.Errorf("%s: counted %+v", vip, passed)
			}
		}
	}
}

// Where a client is kept can be asked for, and ends with its time.
func TestKernelPersistenceEnds(t *testing.T) {
	n := network(t)
	s := spec.Service{VIP: vipAt(planetest.VIP, planetest.VIPPort), Scheduler: spec.RR, Persistence: spec.Persistence{Timeout: 2 * time.Second, Prefix: 24}}
	for _, a := range n.Reals {
		s.Reals = append(s.Reals, spec.Real{Address: a, Weight: 1})
	}
	become(t, n, s)
	client := netip.MustParseAddr("10.10.60.1")
	kept := func() (real netip.AddrPort, there bool) {
		t.Helper()
		n.Director.Do(t, func() {
			var err error
			if real, there, err = Remembered(t.Context(), client, s.VIP, s.Persistence.Prefix); err != nil {
				t.Fatal(err)
			}
		})
		return real, there
	}
	if real, there := kept(); there {
		t.Errorf("before its first connection the client is kept at %s", real)
	}
	first, err := n.DialVIP(t, s.VIP)
	if err != nil {
		t.Fatal(err)
	}
	if real, there := kept(); there && real != first.Real { // its time may be up on a slow machine
		t.Errorf("the client is at %s, and kept at %s", first.Real, real)
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); ; <-again.C {
		if _, there := kept(); !there {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the client is kept at %s for ever", first.Real)
		}
	}
	next, err := n.DialVIP(t, s.VIP)
	if err != nil {
		t.Fatal(err)
	}
	if next.Real == first.Real {
		t.Errorf("forgotten, and in turn with others, the client is at %s again", next.Real)
	}
	s.Persistence.Timeout = time.Hour
	become(t, n, s)
	home, err := n.DialVIP(t, s.VIP)
	if err != nil {
		t.Fatal(err)
	}
	// At a real server that is drained it is remembered all the same; at one that is gone it is not, but when that comes back.
	for _, c := range []struct {
		name  string
		reals []spec.Real
		kept  bool
	}{
		{"drained", []spec.Real{{Address: n.Reals[0]}, {Address: n.Reals[1]}, {Address: n.Reals[2]}}, true},
		{"gone", nil, false},
		{"back", s.Reals, true},
	} {
		s.Reals = c.reals
		become(t, n, s)
		if real, there := kept(); there != c.kept || there && real != home.Real {
			t.Errorf("%s: the client of %s is kept at %s: %t", c.name, home.Real, real, there)
		}
	}
	// Whatever somebody else does to it is noticed and mended, and moves no connection.
	for name, edit := range map[string]func(*nft.Conn){
		"takers emptied":            func(c *nft.Conn) { c.FlushSet(layout4.takers(s.VIP)) },
		"rules that remember taken": func(c *nft.Conn) { c.FlushChain(layout4.chain(stickChain(s.VIP, n.Reals[0]))) },
	} {
		n.Director.Do(t, func() {
			conn := openHalf(layout4).conn
			edit(conn)
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
		})
		have, err := n.Inside(t, Open()).Observe(t.Context())
		if err != nil || have.Damage == "" {
			t.Errorf("%s: not noticed: %v, %v", name, have, err)
		}
		become(t, n, s)
		if have, err = n.Inside(t, Open()).Observe(t.Context()); err != nil || have.Damage != "" || len(plan.Diff(spec.Want{Services: []spec.Service{s}}, have)) > 0 {
			t.Errorf("%s: not mended: %v, %v", name, have, err)
		}
	}
	home.Echo(t, "still there")
}
