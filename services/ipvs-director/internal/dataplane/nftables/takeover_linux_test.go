package nftables

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nft "github.com/google/nftables"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/address"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// beat is how often each side of a flow has something to say.
	beat = 200 * time.Millisecond
	// hang bounds the wait for a flow to go on; one that does not is lost. TCP itself needs about a second.
	hang = 20 * time.Second
)

// pair is two directors that could each serve the same VIP: a client and three real servers on one switch each with both.
type pair struct {
	t           testing.TB
	lan, client *netnstest.NS
	directors   [2]*netnstest.NS
	want        spec.Service
}

const gateway = "192.168.60.99"

func newPair(t *testing.T) *pair {
	t.Helper()
	netnstest.Require(t)
	p := &pair{t: t, lan: netnstest.New(t), client: netnstest.New(t)}
	netnstest.Veth(t, p.client, "outer", "10.10.60.1/24", p.lan, "client", "")
	outer, inner := []string{"client"}, []string{}
	for i := range p.directors {
		d := netnstest.New(t)
		p.directors[i] = d
		netnstest.Veth(t, d, "outer", fmt.Sprintf("10.10.60.%d/24", 31+i), p.lan, fmt.Sprintf("outer%d", i), "")
		netnstest.Veth(t, d, "inner", fmt.Sprintf("192.168.60.%d/24", 11+i), p.lan, fmt.Sprintf("inner%d", i), "")
		outer, inner = append(outer, fmt.Sprintf("outer%d", i)), append(inner, fmt.Sprintf("inner%d", i))
		set(t, d, "net/ipv4/ip_forward", "1")
	}
	p.want = spec.Service{VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.MH}
	for i := range 3 {
		real := netnstest.New(t)
		ip := fmt.Sprintf("192.168.60.%d", 71+i)
		netnstest.Veth(t, real, "inner", ip+"/24", p.lan, fmt.Sprintf("real%d", i), "")
		real.Exec(t, "ip", "route", "add", "default", "via", gateway)
		inner = append(inner, fmt.Sprintf("real%d", i))
		at := netip.AddrPortFrom(netip.MustParseAddr(ip), 8080)
		real.Do(t, func() { talk(t, at) })
		p.want.Reals = append(p.want.Reals, spec.Real{Address: at, Weight: 1 + i})
	}
	netnstest.Bridge(t, p.lan, "public", outer...)
	netnstest.Bridge(t, p.lan, "dispatch", inner...)
	return p
}

func set(t testing.TB, ns *netnstest.NS, key, value string) {
	t.Helper()
	ns.Do(t, func() {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

// load gives a director the rules; and be_liberal, without which it believes its own old entries about connections that
// have gone on elsewhere when it takes them back.
func (p *pair) load(director int) {
	p.t.Helper()
	p.directors[director].Do(p.t, func() {
		plane := Open()
		have, err := plane.Observe(p.t.Context())
		if err == nil {
			_, err = plane.Apply(p.t.Context(), plan.Diff(spec.Want{Services: []spec.Service{p.want}}, have))
		}
		if err != nil {
			p.t.Fatal(err)
		}
	})
	set(p.t, p.directors[director], "net/netfilter/nf_conntrack_tcp_be_liberal", "1")
}

// addresses puts gateway and VIP on a director, or takes them away.
func (p *pair) addresses(director int, kind plan.Kind) {
	p.t.Helper()
	p.directors[director].Do(p.t, func() {
		host := address.Host{}
		have, err := host.Observe(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		var want spec.Want
		if kind == plan.AddAddress {
			for _, a := range []string{gateway + "/24", "10.10.60.22/24"} {
				want.Addresses = append(want.Addresses, spec.Address{Prefix: netip.MustParsePrefix(a)})
			}
		}
		for _, change := range plan.Diff(want, plan.Have{Host: have}) {
			if err := host.Apply(p.t.Context(), change); err != nil {
				p.t.Fatal(err)
			}
		}
	})
}

// cut pulls both cables of a director, or plugs them in.
func (p *pair) cut(director int, state string) {
	p.t.Helper()
	for _, side := range []string{"outer", "inner"} {
		p.lan.Exec(p.t, "ip", "link", "set", fmt.Sprintf("%s%d", side, director), state)
	}
}

// The first byte of a connection says who speaks.
const (
	asks   = 'a' // the client counts, the server repeats
	told   = 't' // the server counts
	floods = 'f' // the server counts as fast as it can be read
)

// talk is a real server.
func talk(t testing.TB, at netip.AddrPort) {
	t.Helper()
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	t.Cleanup(func() { cancel(); _ = listener.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // closed
			}
			group.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				defer c.Close()
				first := make([]byte, 1)
				if _, err := io.ReadFull(c, first); err != nil {
					return // the client judges
				}
				switch first[0] {
				case asks:
					_, _ = io.Copy(c, c) // as above
				case told:
					_ = count(ctx, c, beat)
				case floods:
					_ = count(ctx, c, 0)
				}
			})
		}
	})
}

// count writes 1, 2, 3 and so on, eight bytes each; with a pause of 0 many at once.
func count(ctx context.Context, to io.Writer, pause time.Duration) error {
	n, buf := uint64(0), make([]byte, 0, 32<<10)
	for {
		buf = buf[:0]
		for once := true; once || pause == 0 && len(buf) < cap(buf); once = false {
			n++
			buf = binary.BigEndian.AppendUint64(buf, n)
		}
		if _, err := to.Write(buf); err != nil {
			return err
		}
		if !wait(ctx, max(pause, 5*time.Millisecond)) {
			return ctx.Err()
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// flow is one connection of the client. What it hears counts up without a gap, or err says what it heard.
type flow struct {
	kind  byte
	conn  net.Conn
	heard atomic.Uint64
	err   error // set before over is closed
	over  chan struct{}
}

// flows opens n connections of a kind, which talk until the context ends.
func (p *pair) flows(ctx context.Context, group *sync.WaitGroup, kind byte, n int) []*flow {
	p.t.Helper()
	var all []*flow
	for range n {
		f := &flow{kind: kind, over: make(chan struct{})}
		var err error
		p.client.Do(p.t, func() { f.conn, err = net.DialTimeout("tcp4", p.want.VIP.String(), hang) })
		if err != nil {
			p.t.Fatal(err)
		}
		if _, err := f.conn.Write([]byte{kind}); err != nil {
			p.t.Fatal(err)
		}
		group.Go(func() { f.listen(ctx) })
		if kind == asks {
			group.Go(func() { _ = count(ctx, f.conn, beat) }) // listen hears of it
		}
		all = append(all, f)
	}
	return all
}

func (f *flow) listen(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = f.conn.Close() })
	defer stop()
	defer close(f.over)
	in := bufio.NewReader(f.conn)
	word := make([]byte, 8)
	for n := uint64(1); ; n++ {
		if _, f.err = io.ReadFull(in, word); f.err != nil {
			return
		}
		if got := binary.BigEndian.Uint64(word); got != n {
			f.err = fmt.Errorf("word %d is %d", n, got)
			return
		}
		f.heard.Store(n)
	}
}

// lost waits until each flow has heard three more words, and counts those that end or hang.
func lost(all []*flow) (reset, hung map[byte]int) {
	reset, hung = map[byte]int{}, map[byte]int{}
	deadline := time.Now().Add(hang)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	from := make([]uint64, len(all))
	for i, f := range all {
		from[i] = f.heard.Load()
	}
	for i, f := range all {
		for f.heard.Load() < from[i]+3 {
			select {
			case <-f.over:
				reset[f.kind]++
			case <-tick.C:
				if time.Now().Before(deadline) {
					continue
				}
				hung[f.kind]++
			}
			break
		}
	}
	return reset, hung
}

// settled waits until each flow has begun to talk.
func (p *pair) settled(all []*flow) {
	p.t.Helper()
	if reset, hung := lost(all); len(reset)+len(hung) > 0 {
		p.t.Fatalf("before anything has happened, %v flows were reset and %v hung", reset, hung)
	}
}

// The active director's cables are pulled, without a word to the other, and the other takes VIP and gateway: 1000
// established connections go on, half of them continued by the real server first, and 50 more in bulk; and once more when
// the first comes back.
func TestKernelTakeOver(t *testing.T) {
	p := newPair(t)
	p.load(0)
	p.load(1)
	p.addresses(0, plan.AddAddress)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	all := p.flows(ctx, &group, asks, 500)
	all = append(all, p.flows(ctx, &group, told, 500)...)
	all = append(all, p.flows(ctx, &group, floods, 50)...)
	p.settled(all)

	p.cut(0, "down")
	wait(ctx, 500*time.Millisecond) // somebody has to notice; what was on its way is heard
	p.addresses(1, plan.AddAddress)
	if reset, hung := lost(all); len(reset)+len(hung) > 0 {
		t.Errorf("taken over: %v flows were reset and %v hung", reset, hung)
	}

	p.addresses(0, plan.RemoveAddress) // as whoever holds addresses by lease does before it is back
	p.cut(0, "up")
	p.addresses(1, plan.RemoveAddress)
	p.addresses(0, plan.AddAddress)
	if reset, hung := lost(all); len(reset)+len(hung) > 0 {
		t.Errorf("taken back: %v flows were reset and %v hung", reset, hung)
	}
}

// What the take-over owes to the way back and to the guard shows when they are missing.
func TestKernelTakeOverWithoutItsParts(t *testing.T) {
	for _, c := range []struct {
		name string
		// spoil takes something away from the director that takes over.
		spoil func(p *pair)
		// how the connections end that would go on
		reset, hung bool
	}{
		{"without the way back", func(p *pair) {
			p.load(1)
			p.directors[1].Do(p.t, func() {
				conn := openHalf(layout4).conn
				conn.FlushSet(layout4.reverse())
				if err := conn.Flush(); err != nil {
					p.t.Fatal(err)
				}
			})
			p.addresses(1, plan.AddAddress)
		}, false, true},
		{"addresses before rules and guard", func(p *pair) {
			p.addresses(1, plan.AddAddress)
			wait(p.t.Context(), time.Second)
			p.load(1)
		}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			p.load(0)
			p.addresses(0, plan.AddAddress)
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			defer cancel()
			all := append(p.flows(ctx, &group, asks, 50), p.flows(ctx, &group, told, 50)...)
			p.settled(all)
			p.cut(0, "down")
			c.spoil(p)
			reset, hung := lost(all)
			t.Logf("of 100 flows %v were reset and %v hung", reset, hung)
			if (len(reset) > 0) != c.reset || (len(hung) > 0) != c.hung {
				t.Errorf("%v were reset and %v hung; so the part is not what holds them", reset, hung)
			}
		})
	}
}

// With the guard alone, and the rules later, nobody is reset: what no rule claims is dropped, and sent again.
func TestKernelGuardHoldsUntilTheRulesCome(t *testing.T) {
	p := newPair(t)
	p.load(0)
	p.addresses(0, plan.AddAddress)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	all := append(p.flows(ctx, &group, asks, 50), p.flows(ctx, &group, told, 50)...)
	p.settled(all)
	p.cut(0, "down")
	p.load(1)
	l := layout4
	element := []nft.SetElement{serviceElement(p.want.VIP)}
	p.directors[1].Do(t, func() { // the table as it is before the service is in it
		conn := openHalf(layout4).conn
		_ = conn.SetDeleteElements(l.services(), element)
		conn.FlushSet(l.reverse())
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	p.addresses(1, plan.AddAddress)
	wait(ctx, time.Second)
	p.load(1) // mends the table
	if reset, hung := lost(all); len(reset)+len(hung) > 0 {
		t.Errorf("%v flows were reset and %v hung", reset, hung)
	}
}
