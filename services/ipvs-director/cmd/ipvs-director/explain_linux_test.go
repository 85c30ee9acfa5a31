package main

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// tuples is how many connections Explain is held against; TWOTIER_TUPLES says otherwise.
func tuples(t *testing.T) int {
	t.Helper()
	n := 1000
	if text := os.Getenv("TWOTIER_TUPLES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

var vip = netip.AddrPortFrom(netip.MustParseAddr(planetest.VIP), planetest.VIPPort)

// from connects from an address and port of the client and returns who answered. The connection is reset at the end, so that
// the port is free again.
func from(t *testing.T, n *planetest.Network, client netip.AddrPort, keep func(net.Conn)) netip.AddrPort {
	t.Helper()
	var conn net.Conn
	var err error
	dialer := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(client)}
	n.Client.Do(t, func() { conn, err = dialer.Dial("tcp4", vip.String()) })
	if err != nil {
		t.Fatalf("from %s: %v", client, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience)) // the read says it
	_ = conn.(*net.TCPConn).SetLinger(0)           // only the port would be taken for longer
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("from %s: %v", client, err)
	}
	if keep != nil {
		keep(conn)
	}
	return netip.MustParseAddrPort(strings.TrimSpace(line))
}

// clients are random tuples of an address and a port, no two the same.
func clients(t *testing.T, n *planetest.Network, count int) (all []netip.AddrPort) {
	t.Helper()
	for i := range 8 {
		n.Client.Exec(t, "ip", "address", "add", fmt.Sprintf("10.10.60.%d/24", 101+i), "dev", "outer")
	}
	seen := map[netip.AddrPort]bool{}
	for len(all) < count {
		c := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 10, 60, byte(101 + rand.N(8))}), uint16(1024+rand.N(64000)))
		if !seen[c] {
			seen[c] = true
			all = append(all, c)
		}
	}
	return all
}

// What Explain says of a connection is where it then goes, and what Simulate says of a change is what then moves.
func TestKernelExplainAndSimulate(t *testing.T) {
	t.Parallel()
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	n := planetest.NewNetwork(t)
	service := func(scheduler string, weights ...int) *directorv1.VirtualService {
		s := &directorv1.VirtualService{Name: "web", Address: planetest.VIP, Port: planetest.VIPPort, Scheduler: scheduler}
		for i, w := range weights {
			s.RealServers = append(s.RealServers, &directorv1.RealServer{
				Address: n.Reals[i].Addr().String(), Port: uint32(n.Reals[i].Port()), Weight: proto.Uint32(uint32(w)),
			})
		}
		return s
	}
	yaml := func(s *directorv1.VirtualService) string {
		text := fmt.Sprintf("kind: virtual-service\nname: web\naddress: %s\nport: %d\nscheduler: %s\nreal_servers:\n", s.GetAddress(), s.GetPort(), s.GetScheduler())
		for _, r := range s.GetRealServers() {
			text += fmt.Sprintf("- {address: %s, port: %d, weight: %d}\n", r.GetAddress(), r.GetPort(), r.GetWeight())
		}
		return text
	}
	d := newDirector(t, n.Director, yaml(service("mh", 3, 1, 2)))
	d.start("--dataplane", dataplane.NFTables)
	d.until("the first good pass", done)
	explain := func(client netip.AddrPort) *directorv1.ExplainResponse {
		t.Helper()
		answer, err := d.client.Explain(t.Context(), &directorv1.ExplainRequest{Client: client.String(), Vip: vip.String()}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	all := clients(t, n, tuples(t))
	taken := map[netip.AddrPort]netip.AddrPort{}
	for i, client := range all {
		said := explain(client)
		real := from(t, n, client, func(net.Conn) {
			if i%50 > 0 {
				return
			}
			if now := explain(client); !now.GetEstablished() || now.GetRealServer() != said.GetRealServer() {
				t.Errorf("%s is connected: %v", client, now)
			}
		})
		if said.GetRealServer() != real.String() || said.GetService() != "web" {
			t.Fatalf("%s went to %s; explained: %v", client, real, said)
		}
		taken[client] = real
	}

	then := service("mh", 3, 1, 0)
	answer, err := d.client.Simulate(t.Context(), &directorv1.SimulateRequest{Object: &directorv1.Object{Kind: &directorv1.Object_VirtualService{VirtualService: then}}})
	if err != nil || len(answer.GetServices()) != 1 {
		t.Fatalf("simulate: %v, %v", answer, err)
	}
	moves, slots := map[string]bool{}, 0
	for _, m := range answer.GetServices()[0].GetMoves() {
		moves[m.GetFrom()+" "+m.GetTo()] = true
		slots += int(m.GetSlots())
	}
	d.want(yaml(then))
	d.until("the change", func(s *commonv1.Status) bool {
		return done(s) && strings.Contains(strings.Join(s.GetLastChanges(), " "), "weight 0")
	})
	// A reset that conntrack has held for a forgery leaves a connection behind, which a new one from the same port follows.
	moved, followed := 0, 0
	for _, client := range all {
		said := explain(client)
		real := from(t, n, client, nil)
		if said.GetRealServer() != real.String() {
			t.Fatalf("%s went to %s after the change; explained: %v", client, real, said)
		}
		if was := taken[client]; said.GetEstablished() && was == real {
			followed++
		} else if was != real {
			moved++
			if !moves[was.String()+" "+real.String()] {
				t.Fatalf("%s moved from %s to %s, and nobody said so: %v", client, was, real, answer)
			}
		} else if was == n.Reals[2] {
			t.Fatalf("%s stays on %s, which has the weight 0", client, was)
		}
	}
	// A slot takes each client with the same chance: five deviations of the binomial distribution.
	p := float64(slots) / float64(answer.GetServices()[0].GetSlots())
	want, bound := p*float64(len(all)), 5*math.Sqrt(p*(1-p)*float64(len(all)))
	if math.Abs(float64(moved)-want) > bound {
		t.Errorf("%d of %d clients moved, want %.0f give or take %.0f: %d slots of %d", moved, len(all), want, bound, slots, answer.GetServices()[0].GetSlots())
	}
	if followed > len(all)/100 {
		t.Errorf("%d of %d clients followed connections that had been reset", followed, len(all))
	}
	t.Logf("%d tuples went as explained before and after the change, %d of them moved as simulated, %d followed a connection", len(all), moved, followed)

	for request, want := range map[*directorv1.ExplainRequest]codes.Code{
		{Client: "10.10.60.1:1", Vip: "10.10.60.22:81"}: codes.NotFound,
		{Client: "10.10.60.1", Vip: "10.10.60.22:80"}:   codes.InvalidArgument,
		{Client: "10.10.60.1:1", Vip: "web"}:            codes.InvalidArgument,
	} {
		if _, err := d.client.Explain(t.Context(), request); status.Code(err) != want {
			t.Errorf("%v: got %v, want %v", request, err, want)
		}
	}
	then.RealServers[0].Address = "s1"
	if _, err := d.client.Simulate(t.Context(), &directorv1.SimulateRequest{Object: &directorv1.Object{Kind: &directorv1.Object_VirtualService{VirtualService: then}}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("simulate with a bad address: %v", err)
	}
}
