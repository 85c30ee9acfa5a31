package planetest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// clients gives the client two more addresses, and returns three: of the last byte, the first two are alike in the first bit, and the
// third is not.
func (r *run) clients(first string, bits int) (all []netip.Addr) {
	r.t.Helper()
	n := r.world.Network
	base := netip.MustParseAddr(first)
	all = append(all, base)
	for _, last := range []byte{2, 130} {
		raw := base.AsSlice()
		raw[len(raw)-1] = last
		a, _ := netip.AddrFromSlice(raw)
		args := []string{"address", "add", fmt.Sprintf("%s/%d", a, bits), "dev", "outer"}
		if a.Is6() {
			args = append(args, "nodad")
		}
		n.Client.Exec(r.t, "ip", args...)
		all = append(all, a)
	}
	return all
}

// at is where a connection of a client goes.
func (r *run) at(client netip.Addr, vip spec.VIP) netip.AddrPort {
	r.t.Helper()
	c, err := r.world.Network.DialFrom(r.t, client, vip)
	if err != nil {
		r.t.Fatalf("connect from %s to %s: %v", client, vip, err)
	}
	return c.Real
}

func persists(_ *testing.T, r *run) {
	r.persists(netip.MustParseAddr(VIP), r.clients("10.10.60.1", 24), r.world.Network.Reals)
}

func persists6(_ *testing.T, r *run) {
	r.persists(netip.MustParseAddr(VIP6), r.clients("2001:db8:10::1", 64), r.world.Network.Reals6)
}

func (r *run) persists(address netip.Addr, clients []netip.Addr, reals []netip.AddrPort) {
	r.t.Helper()
	vip := spec.VIP{AddrPort: netip.AddrPortFrom(address, VIPPort)}
	r.world.Network.Director.Do(r.t, func() {
		// IPVS keeps clients on a drained real server without it. Other planes have no such setting.
		const setting = "/proc/sys/net/ipv4/vs/expire_quiescent_template"
		if err := os.WriteFile(setting, []byte("1"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
	})
	service := func(scheduler spec.Scheduler, weights ...int) spec.Service {
		s := weighted(vip, scheduler, reals, weights...)
		s.Persistence = spec.Persistence{Timeout: time.Hour, Prefix: address.BitLen()}
		return s
	}
	r.become(service(spec.WRR, 1, 1, 1))
	where := map[netip.Addr]netip.AddrPort{}
	taken := map[netip.AddrPort]bool{}
	for _, c := range clients {
		where[c] = r.at(c, vip)
		taken[where[c]] = true
	}
	if len(taken) != 3 {
		r.t.Errorf("three clients in turn went %v", where)
	}
	stay := func(what string) {
		r.t.Helper()
		for range 3 {
			for _, c := range clients {
				if real := r.at(c, vip); real != where[c] {
					r.t.Errorf("%s: %s was at %s and is at %s", what, c, where[c], real)
				}
			}
		}
	}
	stay("once more")
	r.become(service(spec.WRR, 9, 1, 1))
	stay("with other weights")
	r.become(service(spec.SH, 1, 1, 1))
	stay("with another scheduler")
	if err := r.plane.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.plane = r.world.Open()
	r.become(service(spec.WRR, 1, 1, 2))
	stay("after a restart")

	weights := []int{1, 1, 1}
	for i, real := range reals {
		if real == where[clients[0]] {
			weights[i] = 0
		}
	}
	r.become(service(spec.WRR, weights...))
	moved := r.at(clients[0], vip)
	if moved == where[clients[0]] {
		r.t.Errorf("%s is at %s, which is drained", clients[0], moved)
	}
	where[clients[0]] = moved
	stay("after the drain")
	r.become(service(spec.WRR, 1, 1, 1))
	stay("when it is back")
	r.become(weighted(vip, spec.WRR, reals, 1, 1, 1))
	taken = map[netip.AddrPort]bool{}
	for range 3 {
		taken[r.at(clients[0], vip)] = true
	}
	if len(taken) != 3 {
		r.t.Errorf("without persistence three connections in turn went %v", taken)
	}
}

func prefixes(t *testing.T, r *run) {
	clients := r.clients("10.10.60.1", 24)
	s := r.service(VIPPort, spec.WRR, 1, 1, 1)
	s.Persistence = spec.Persistence{Timeout: time.Hour, Prefix: 25}
	r.become(s)
	one, other, third := r.at(clients[0], s.VIP), r.at(clients[1], s.VIP), r.at(clients[2], s.VIP)
	if one != other || one == third {
		t.Errorf("alike in 25 bits: %s at %s, %s at %s; not so: %s at %s", clients[0], one, clients[1], other, clients[2], third)
	}
	s.Persistence.Prefix = 24
	r.become(s)
	one, other, third = r.at(clients[0], s.VIP), r.at(clients[1], s.VIP), r.at(clients[2], s.VIP)
	if one != other || one != third {
		t.Errorf("alike in 24 bits: at %s, %s and %s", one, other, third)
	}
}
