package nftables

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// Connections end, slots move and the clients use their ports again while another director has the VIP. Whoever takes it back and
// remembers the old ones sends the new ones where those were, and they are lost; and it counts as open what is long over. Whoever has
// forgotten them does neither, without be_liberal too.
func TestKernelStaleConnections(t *testing.T) {
	const n, firstPort, patience = 60, 20000, 20 * time.Second
	for _, c := range []struct {
		name    string
		forgets bool
		liberal string
	}{{"remembered", false, "1"}, {"forgotten", true, "1"}, {"forgotten, strict", true, "0"}} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			p.load(0)
			p.load(1)
			p.Addresses(0, plan.AddAddress)
			dial := func(i int) *net.TCPConn {
				var conn net.Conn
				var err error
				dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: firstPort + i}}
				p.Client.Do(t, func() { conn, err = dialer.Dial("tcp4", p.Want.VIP.String()) })
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				if _, err := conn.Write([]byte{planetest.Asks}); err != nil {
					t.Fatal(err)
				}
				return conn.(*net.TCPConn)
			}
			speak := func(conn *net.TCPConn) error {
				_ = conn.SetDeadline(time.Now().Add(patience)) // an open connection takes it
				word := []byte("a word")
				if _, err := conn.Write(word); err != nil {
					return err
				}
				_, err := io.ReadFull(conn, word)
				return err
			}
			all := make([]*net.TCPConn, n)
			for i := range all {
				all[i] = dial(i)
				if err := speak(all[i]); err != nil {
					t.Fatal(err)
				}
			}
			p.Cut(0, "down")
			p.Addresses(0, plan.RemoveAddress)
			p.Addresses(1, plan.AddAddress)
			for _, conn := range all {
				if err := speak(conn); err != nil {
					t.Fatalf("taken over: %v", err)
				}
				_ = conn.SetLinger(0) // a reset, so that the port is free at once
				_ = conn.Close()
			}
			p.weigh(3, 2, 1)
			for i := range all {
				all[i] = dial(i)
				if err := speak(all[i]); err != nil {
					t.Fatalf("opened anew: %v", err)
				}
			}

			p.Directors[0].Set(t, "net/netfilter/nf_conntrack_tcp_be_liberal", c.liberal)
			p.Directors[0].Do(t, func() {
				if !c.forgets {
					return
				}
				if err := new(Kept).Forget(t.Context(), map[spec.VIP]bool{p.Want.VIP: true}); err != nil {
					t.Fatal(err)
				}
			})
			remembered := p.open(0)
			p.Cut(0, "up")
			p.Addresses(1, plan.RemoveAddress)
			p.Addresses(0, plan.AddAddress)
			var lost atomic.Int64
			var group sync.WaitGroup
			for _, conn := range all {
				group.Go(func() {
					if speak(conn) != nil {
						lost.Add(1)
					}
				})
			}
			group.Wait()
			t.Logf("of %d connections %d were lost; of those before, %d counted as open", n, lost.Load(), remembered)
			if c.forgets && (lost.Load() > 0 || remembered > 0 || p.open(0) != n) {
				t.Errorf("%d connections were lost, %d that are over counted as open, and then %d of %d", lost.Load(), remembered, p.open(0), n)
			}
			if !c.forgets && (lost.Load() == 0 || remembered != n) {
				t.Errorf("%d connections were lost, %d that are over counted as open; so there is nothing to forget", lost.Load(), remembered)
			}
		})
	}
}

// What is not for the VIPs is remembered.
func TestKernelForgetNoOthers(t *testing.T) {
	p := newPair(t)
	p.load(0)
	p.Addresses(0, plan.AddAddress)
	var conn net.Conn
	var err error
	p.Client.Do(t, func() { conn, err = net.Dial("tcp4", p.Want.VIP.String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	other := p.Want.VIP
	other.Protocol = spec.UDP
	for _, vips := range []map[spec.VIP]bool{nil, {other: true}, {p.Want.VIP: true}} {
		p.Directors[0].Do(t, func() { err = new(Kept).Forget(t.Context(), vips) })
		if want := uint64(1); err != nil || p.open(0) != want && !vips[p.Want.VIP] || p.open(0) != 0 && vips[p.Want.VIP] {
			t.Errorf("forget %v: %d are open, %v", vips, p.open(0), err)
		}
	}
}

// open counts what a director has open.
func (p *pair) open(director int) (n uint64) {
	p.t.Helper()
	for _, some := range p.counted(director) {
		n += some
	}
	return n
}

// counted is what each real server has open by the word of a director.
func (p *pair) counted(director int) (open map[steer.Key]uint64) {
	p.t.Helper()
	var keys []steer.Key
	for _, r := range p.Want.Reals {
		keys = append(keys, steer.Key{VIP: p.Want.VIP, Real: r.Address})
	}
	p.Directors[director].Do(p.t, func() {
		var err error
		if open, err = Open().CountOpen(p.t.Context(), keys); err != nil {
			p.t.Fatal(fmt.Errorf("count: %w", err))
		}
	})
	return open
}
