package main

import (
	"fmt"
	"io"
	"os/exec"
	"sync"
	"testing"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/testreq"
)

// gate holds what passes between an agent and its etcd.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // nil: open
	held int           // how much has come to the closed gate, in reads
}

// shut closes the gate.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.held = make(chan struct{}), 0
}

// release opens it.
func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

// waiting is how much has come to it since it was shut.
func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

func (g *gate) reader(r io.Reader) io.Reader {
	if g == nil {
		return r
	}
	return gated{r, g}
}

// gated is what comes through a gate.
type gated struct {
	io.Reader
	gate *gate
}

func (r gated) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.gate.mu.Lock()
	open := r.gate.open
	if open != nil {
		r.gate.held++
	}
	r.gate.mu.Unlock()
	if open != nil {
		<-open
	}
	return n, err
}

// TestKernelWitnessFast is what etcd is worth to a pair with the default profile, an advert every 30 ms. All networks cut but
// the one to etcd: the master stays the only owner, or is again as soon as the two have heard of each other. The master
// killed, while what the other one asks of etcd is on its way and does not arrive: it is replaced without it, and what
// arrives later changes nothing.
func TestKernelWitnessFast(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	etcd := lastingEtcd(t)
	p := newMachines(t)
	i := witnessed()
	i.AdvertInterval = nil
	g := &gate{}
	t.Cleanup(g.release)
	p.inEtcd(t, etcd, i, g)
	const most = 10
	spared := 0
	var total tally
	for round := range rounds(t, most) {
		before := p.onB.instances(t)["VI_1"]
		since := p.census.mark()
		p.a.cut(t, "all")
		awaitThat(t, fmt.Sprint("take-overs prevented through etcd, round ", round), func() string {
			if now := p.onB.instances(t)["VI_1"]; !now.GetMasterUnheard() || now.GetTakeoversPrevented() < before.GetTakeoversPrevented()+5 {
				return fmt.Sprint(now)
			}
			return ""
		})
		p.census.await(t, p.a.mac(t, "eth0"))
		got := p.census.count(since)
		total.asked, total.nobody, total.one, total.two = total.asked+got.asked, total.nobody+got.nobody, total.one+got.one, total.two+got.two
		if p.onB.instances(t)["VI_1"].GetTransitions() == before.GetTransitions() {
			spared++
		}
		p.a.cut(t, "none")
		awaitThat(t, fmt.Sprint("heard again, round ", round), func() string {
			if now := p.onB.instances(t)["VI_1"]; now.GetMasterUnheard() || now.GetState() != vrrpv1.State_STATE_BACKUP {
				return fmt.Sprint(now)
			}
			return ""
		})
		p.census.await(t, p.a.mac(t, "eth0"))
	}
	t.Logf("all cut but etcd: no second master in %d of %d cuts; %v", spared, rounds(t, most), total)

	for _, held := range []bool{false, true} {
		before := p.onB.instances(t)["VI_1"].GetTransitions()
		since := p.census.mark()
		if held {
			g.shut()
		}
		p.onA.kill(t)
		p.census.await(t, p.b.mac(t, "eth0"))
		if held && g.waiting() == 0 {
			t.Error("nothing was asked of etcd")
		}
		t.Logf("the master killed, what is asked of etcd held %v: %v", held, p.census.count(since))
		g.release()
		// Three intervals, and not a moment for etcd.
		if got := p.onB.instances(t)["VI_1"]; got.GetState() != vrrpv1.State_STATE_MASTER || got.GetTransitions() != before+1 || got.GetReason() != "no advert for 90ms" {
			t.Errorf("held %v: %v", held, got)
		}
		p.onA = p.a.beside(t, etcd, nil)
		p.census.await(t, p.a.mac(t, "eth0"))
		p.acquainted(t)
	}
	p.onA.stop(t)
	p.onB.stop(t)
}
