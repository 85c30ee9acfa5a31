package benchtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/address"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	gateway = "192.168.60.99"
	flows   = 30
	beat    = 50 * time.Millisecond // each flow says something this often
	warm    = 10                    // lines before the cut: the synchronisation of IPVS begins with the third packet
	hang    = 30 * time.Second      // a flow that says nothing for so long is lost
)

// BenchmarkTakeover cuts one director off and has another take its addresses at once: how long does an established connection
// hear nothing? In ms, the median of the flows. nftables knows nothing of the other director, ipvs has its synchronisation.
func BenchmarkTakeover(b *testing.B) {
	names := planes(b)
	for range rounds(b) {
		for _, name := range names {
			gaps, lost := takeover(b, name)
			if len(gaps) > 0 {
				say(b, measured{"takeover", name, "gap", gaps[len(gaps)/2]})
			}
			say(b, measured{"takeover", name, "lost", float64(lost)})
		}
	}
}

func takeover(b *testing.B, plane string) (gaps []float64, lost int) {
	lan, client := netnstest.New(b), netnstest.New(b)
	netnstest.Veth(b, client, "outer", "10.10.60.1/24", lan, "client", "")
	outer, inner := []string{"client"}, []string{}
	var directors [2]*netnstest.NS
	for i := range directors {
		d := netnstest.New(b)
		directors[i] = d
		netnstest.Veth(b, d, "outer", fmt.Sprintf("10.10.60.%d/24", 31+i), lan, fmt.Sprintf("outer%d", i), "")
		netnstest.Veth(b, d, "inner", fmt.Sprintf("192.168.60.%d/24", 11+i), lan, fmt.Sprintf("inner%d", i), "")
		outer, inner = append(outer, fmt.Sprintf("outer%d", i)), append(inner, fmt.Sprintf("inner%d", i))
		set(b, d, "net/ipv4/ip_forward", "1")
	}
	service := spec.Service{VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.MH}
	for i := range 3 {
		real := netnstest.New(b)
		ip := fmt.Sprintf("192.168.60.%d", 71+i)
		netnstest.Veth(b, real, "inner", ip+"/24", lan, fmt.Sprintf("real%d", i), "")
		real.Exec(b, "ip", "route", "add", "default", "via", gateway)
		inner = append(inner, fmt.Sprintf("real%d", i))
		at := netip.AddrPortFrom(netip.MustParseAddr(ip), 8080)
		real.Do(b, func() { echo(b, at) })
		service.Reals = append(service.Reals, spec.Real{Address: at, Weight: 1})
	}
	netnstest.Bridge(b, lan, "public", outer...)
	netnstest.Bridge(b, lan, "dispatch", inner...)
	for i, d := range directors {
		d.Do(b, func() {
			var p planetest.Plane = open[plane]()
			if _, err := p.Apply(b.Context(), plan.Diff(spec.Want{Services: []spec.Service{service}}, plan.Have{})); err != nil {
				b.Fatal(err)
			}
		})
		if plane == dataplane.NFTables {
			set(b, d, "net/netfilter/nf_conntrack_tcp_be_liberal", "1")
		} else {
			d.Exec(b, "ipvsadm", "--start-daemon", []string{"master", "backup"}[i], "--mcast-interface", "inner")
		}
	}
	hold(b, directors[0])

	// Each flow notes when it heard something for the first time after the cut.
	var cut time.Time
	var mu sync.Mutex // guards cut, gaps and lost
	var ready, ended sync.WaitGroup
	for range flows {
		var conn net.Conn
		var err error
		client.Do(b, func() { conn, err = net.DialTimeout("tcp4", service.VIP.String(), hang) })
		if err != nil {
			b.Fatal(err)
		}
		ready.Add(1)
		ended.Go(func() {
			defer func() { _ = conn.Close() }()
			lines := bufio.NewReader(conn)
			ticker := time.NewTicker(beat)
			defer ticker.Stop()
			for i := 0; ; i++ {
				if i == warm {
					ready.Done()
				}
				asked := time.Now()
				_ = conn.SetDeadline(asked.Add(hang)) // an open connection takes it
				_, err := fmt.Fprintln(conn, i)
				if err == nil {
					_, err = lines.ReadString('\n')
				}
				mu.Lock()
				after := !cut.IsZero() && time.Now().After(cut)
				if err != nil {
					lost++
				} else if after && asked.After(cut.Add(-beat)) {
					gaps = append(gaps, float64(time.Since(cut).Microseconds())/1000)
				}
				done := err != nil || after && asked.After(cut.Add(-beat))
				mu.Unlock()
				if done {
					if i < warm {
						ready.Done()
					}
					return
				}
				<-ticker.C
			}
		})
	}
	ready.Wait()
	if plane == dataplane.IPVS {
		synchronised(b, directors[1])
	}
	mu.Lock()
	for _, side := range []string{"outer0", "inner0"} {
		lan.Exec(b, "ip", "link", "set", side, "down")
	}
	cut = time.Now()
	mu.Unlock()
	hold(b, directors[1])
	ended.Wait()
	slices.Sort(gaps)
	return gaps, lost
}

// hold gives a director the addresses, and tells the network.
func hold(b *testing.B, d *netnstest.NS) {
	b.Helper()
	d.Do(b, func() {
		host := address.Host{}
		have, err := host.Observe(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		want := spec.Want{Addresses: []spec.Address{{Prefix: netip.MustParsePrefix(gateway + "/24")}, {Prefix: netip.MustParsePrefix("10.10.60.22/24")}}}
		for _, change := range plan.Diff(want, plan.Have{Host: have}) {
			if err := host.Apply(b.Context(), change); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// synchronised waits until the backup has all flows.
func synchronised(b *testing.B, d *netnstest.NS) {
	b.Helper()
	deadline := time.After(hang)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if known := strings.Count(d.Exec(b, "ipvsadm", "-Lcn"), "10.10.60.22:80"); known >= flows {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			b.Fatal("the backup has not heard of all connections")
		}
	}
}

func set(b *testing.B, ns *netnstest.NS, key, value string) {
	b.Helper()
	ns.Do(b, func() {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			b.Fatal(err)
		}
	})
}

// echo repeats what it hears until the benchmark ends.
func echo(b *testing.B, at netip.AddrPort) {
	b.Helper()
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.Cleanup(func() { cancel(); _ = listener.Close(); running.Wait() })
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
				_, _ = io.Copy(conn, conn) // the client judges
			})
		}
	})
}
