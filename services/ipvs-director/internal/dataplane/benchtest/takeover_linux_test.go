package benchtest

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	flows = 30
	beat  = 50 * time.Millisecond // each flow says something this often
	warm  = 10                    // lines before the cut: the synchronisation of IPVS begins with the third packet
	hang  = 30 * time.Second      // a flow that says nothing for so long is lost
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
	pair := planetest.NewPair(b)
	service, directors := pair.Want, pair.Directors
	for i, d := range directors {
		d.Do(b, func() {
			var p planetest.Plane = open[plane]()
			if _, err := p.Apply(b.Context(), plan.Diff(spec.Want{Services: []spec.Service{service}}, plan.Have{})); err != nil {
				b.Fatal(err)
			}
		})
		if plane == dataplane.NFTables {
			d.Set(b, "net/netfilter/nf_conntrack_tcp_be_liberal", "1")
		} else {
			d.Exec(b, "ipvsadm", "--start-daemon", []string{"master", "backup"}[i], "--mcast-interface", "inner")
		}
	}
	pair.Addresses(0, plan.AddAddress)

	// Each flow notes when it heard something for the first time after the cut.
	var cut time.Time
	var mu sync.Mutex // guards cut, gaps and lost
	var ready, ended sync.WaitGroup
	for range flows {
		var conn net.Conn
		var err error
		pair.Client.Do(b, func() { conn, err = net.DialTimeout("tcp4", service.VIP.String(), hang) })
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write([]byte{planetest.Asks}); err != nil {
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
	pair.Cut(0, "down")
	cut = time.Now()
	mu.Unlock()
	pair.Addresses(1, plan.AddAddress)
	ended.Wait()
	slices.Sort(gaps)
	return gaps, lost
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
