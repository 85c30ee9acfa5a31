package planetest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/address"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// look is how often a change is looked after.
	look = 200 * time.Millisecond
	// hang bounds the wait for a flow to go on; one that does not is lost. TCP itself needs about a second.
	hang = 20 * time.Second
	// notice is how long it takes until somebody notices that a director is gone; what was on its way is heard meanwhile.
	notice = 500 * time.Millisecond
	// stall is how long after the cut a flow that has heard nothing new has stalled.
	stall = 3 * time.Second
)

// beat is how often each side of a flow has something to say. The one processor of User Mode Linux carries both ends of all flows and
// what lies between them: 1,000 of them five times a second leave it no time when the machine has other work, and what waits for it looks
// like a loss.
func beat() time.Duration {
	if UML.Inside() {
		return 600 * time.Millisecond
	}
	return 200 * time.Millisecond
}

// Pair is two directors that could each serve the same VIP: a client and three real servers on one switch each with both.
type Pair struct {
	t   testing.TB
	lan *netnstest.NS
	// Client is the namespace of the client.
	Client *netnstest.NS
	// Directors are their namespaces.
	Directors [2]*netnstest.NS
	// Want is the service that both have.
	Want spec.Service
}

const gateway = "192.168.60.99"

// NewPair lays the cables and starts the real servers.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	netnstest.Require(t)
	p := &Pair{t: t, lan: host(t), Client: host(t)}
	netnstest.Veth(t, p.Client, "outer", "10.10.60.1/24", p.lan, "client", "")
	outer, inner := []string{"client"}, []string{}
	for i := range p.Directors {
		d := host(t)
		p.Directors[i] = d
		netnstest.Veth(t, d, "outer", fmt.Sprintf("10.10.60.%d/24", 31+i), p.lan, fmt.Sprintf("outer%d", i), "")
		netnstest.Veth(t, d, "inner", fmt.Sprintf("192.168.60.%d/24", 11+i), p.lan, fmt.Sprintf("inner%d", i), "")
		outer, inner = append(outer, fmt.Sprintf("outer%d", i)), append(inner, fmt.Sprintf("inner%d", i))
		d.Set(t, "net/ipv4/ip_forward", "1")
	}
	p.Want = spec.Service{VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.MH}
	for i := range 3 {
		real := host(t)
		ip := fmt.Sprintf("192.168.60.%d", 71+i)
		netnstest.Veth(t, real, "inner", ip+"/24", p.lan, fmt.Sprintf("real%d", i), "")
		real.Gateway(t, gateway)
		inner = append(inner, fmt.Sprintf("real%d", i))
		at := netip.AddrPortFrom(netip.MustParseAddr(ip), 8080)
		real.Do(t, func() { talk(t, at) })
		p.Want.Reals = append(p.Want.Reals, spec.Real{Address: at, Weight: 1 + i})
	}
	netnstest.Bridge(t, p.lan, "public", outer...)
	netnstest.Bridge(t, p.lan, "dispatch", inner...)
	return p
}

// Addresses puts gateway and VIP on a director, or takes them away.
func (p *Pair) Addresses(director int, kind plan.Kind) {
	p.t.Helper()
	p.Directors[director].Do(p.t, func() {
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

// Cut pulls both cables of a director, or plugs them in.
func (p *Pair) Cut(director int, state string) {
	p.t.Helper()
	for _, side := range []string{"outer", "inner"} {
		p.lan.Exec(p.t, "ip", "link", "set", fmt.Sprintf("%s%d", side, director), state)
	}
}

// The first byte of a connection says who speaks.
const (
	Asks   = 'a' // the client counts, the server repeats
	Told   = 't' // the server counts
	Floods = 'f' // the server counts as fast as it can be read
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
				case Asks:
					_, _ = io.Copy(c, c) // as above
				case Told:
					_ = count(ctx, c, beat())
				case Floods:
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
		if !Wait(ctx, max(pause, 5*time.Millisecond)) {
			return ctx.Err()
		}
	}
}

// Wait waits, and tells whether the context lasted as long.
func Wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Stream is one connection of the client. What it hears counts up without a gap, or err says what it heard.
type Stream struct {
	kind  byte
	conn  net.Conn
	heard atomic.Uint64
	err   error // set before over is closed; errWrong, or how the connection ended
	over  chan struct{}
}

// Streams opens n connections of a kind, which talk until the context ends.
func (p *Pair) Streams(ctx context.Context, group *sync.WaitGroup, kind byte, n int) []*Stream {
	p.t.Helper()
	var all []*Stream
	for range n {
		f := &Stream{kind: kind, over: make(chan struct{})}
		var err error
		p.Client.Do(p.t, func() { f.conn, err = net.DialTimeout("tcp4", p.Want.VIP.String(), hang) })
		if err != nil {
			p.t.Fatal(err)
		}
		if _, err := f.conn.Write([]byte{kind}); err != nil {
			p.t.Fatal(err)
		}
		group.Go(func() { f.listen(ctx) })
		if kind == Asks {
			group.Go(func() { _ = count(ctx, f.conn, beat()) }) // listen hears of it
		}
		all = append(all, f)
	}
	return all
}

func (f *Stream) listen(ctx context.Context) {
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
			f.err = fmt.Errorf("%w: word %d is %d", errWrong, n, got)
			return
		}
		f.heard.Store(n)
	}
}

// errWrong: a byte was not what was sent.
var errWrong = errors.New("a wrong byte")

// Client is the client's end of the connection.
func (f *Stream) Client() netip.AddrPort { return f.conn.LocalAddr().(*net.TCPAddr).AddrPort() }

// Close ends the connection from the client's side.
func (f *Stream) Close() { _ = f.conn.Close() } // twice at the end of a test

// Losses are how many flows of each kind did not come through.
type Losses struct{ Reset, Wrong, Stalled, Hung map[byte]int }

func (l Losses) String() string {
	return fmt.Sprintf("%d were reset, %d had a wrong byte, %d stalled, %d hung for good", sum(l.Reset), sum(l.Wrong), sum(l.Stalled), sum(l.Hung))
}

// None tells whether all have come through.
func (l Losses) None() bool {
	return sum(l.Reset)+sum(l.Wrong)+sum(l.Stalled)+sum(l.Hung) == 0
}

func sum(of map[byte]int) (n int) {
	for _, some := range of {
		n += some
	}
	return n
}

// TakeOver pulls the cables of a director, without a word to the other, has the other one take VIP and gateway when somebody has
// noticed, and tells what has become of the flows.
func (p *Pair) TakeOver(ctx context.Context, from, to int, all []*Stream) Losses {
	p.t.Helper()
	p.Cut(from, "down")
	Wait(ctx, notice)
	return p.through(ctx, all, stall-notice, func() { p.Addresses(to, plan.AddAddress) })
}

// TakeBack plugs the cables of a director in and has it take VIP and gateway back from the other one, which goes on until then.
// before, if it is not nil, is done between the two. Whoever holds addresses by lease has none when it is back.
func (p *Pair) TakeBack(ctx context.Context, from, to int, all []*Stream, before func()) Losses {
	p.t.Helper()
	p.Addresses(to, plan.RemoveAddress)
	p.Cut(to, "up")
	if before != nil {
		before()
	}
	return p.through(ctx, all, stall, func() {
		p.Addresses(from, plan.RemoveAddress)
		p.Addresses(to, plan.AddAddress)
	})
}

// through counts what is lost by a change: those that have heard nothing new when some time is over, and those that never do. The time
// passes in looks, so that a machine that is too busy for them has not all flows stall.
func (p *Pair) through(ctx context.Context, all []*Stream, time time.Duration, change func()) Losses {
	p.t.Helper()
	before := make([]uint64, len(all))
	for i, f := range all {
		before[i] = f.heard.Load()
	}
	change()
	for passed := look; passed <= time; passed += look {
		Wait(ctx, look)
	}
	l := Losses{Wrong: map[byte]int{}, Stalled: map[byte]int{}}
	for i, f := range all {
		if f.heard.Load() == before[i] {
			l.Stalled[f.kind]++
		}
	}
	l.Reset, l.Hung = Lost(all)
	for _, f := range all {
		select {
		case <-f.over:
			if errors.Is(f.err, errWrong) {
				l.Wrong[f.kind]++
				l.Reset[f.kind]--
			}
		default:
		}
	}
	return l
}

// Lost waits until each flow has heard three more words, and counts those that end or hang.
func Lost(all []*Stream) (reset, hung map[byte]int) {
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

// Settled waits until each flow has begun to talk.
func (p *Pair) Settled(all []*Stream) {
	p.t.Helper()
	if reset, hung := Lost(all); len(reset)+len(hung) > 0 {
		p.t.Fatalf("before anything has happened, %v flows were reset and %v hung", reset, hung)
	}
}
