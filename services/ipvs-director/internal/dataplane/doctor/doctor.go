// Package doctor answers: what around this director is wrong, so that connections fail although its rules are as wanted? It
// only looks; what it sends is a question in ARP for each VIP and a connection to each real server.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// Patience is how long an answer from the wire is waited for.
	Patience = time.Second
	// ConntrackFull is how full the table of connections may be, in per cent.
	ConntrackFull = 80
	// together bounds how many real servers are asked at a time.
	together = 64
)

// Examine looks at everything, in the network namespace of the calling thread. Findings come in the order of code.
func Examine(ctx context.Context, plane string, have plan.Have) []dataplane.Finding {
	found := slices.Concat(settings(plane, have), conntrack(), cards(have), shared(plane, have))
	ctx, cancel := context.WithTimeout(ctx, 10*Patience)
	defer cancel()
	found = append(found, duplicates(ctx, have)...)
	found = append(found, returns(ctx, have)...)
	slices.SortStableFunc(found, func(a, b dataplane.Finding) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.What, b.What))
	})
	return found
}

// setting is one sysctl that has to have a value.
type setting struct {
	code, key string
	// bad are the values that are wrong.
	bad    []string
	plane  string // only with this plane; empty: with each
	what   string
	remedy string
	// matters tells whether what is there needs it. nil: it always does.
	matters func(plan.Have) bool
}

var allSettings = []setting{
	{"ip_forward", "net/ipv4/ip_forward", []string{"0"}, "", "this node passes no packets on", "sysctl -w net.ipv4.ip_forward=1", nil},
	{"tcp_loose", "net/netfilter/nf_conntrack_tcp_loose", []string{"0"}, dataplane.NFTables,
		"connections that are taken over from another director are not taken up", "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1", nil},
	{"be_liberal", "net/netfilter/nf_conntrack_tcp_be_liberal", []string{"0"}, dataplane.NFTables,
		"connections that went on at another director while both had the VIP hang here", "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1", nil},
	{"expire_nodest_conn", "net/ipv4/vs/expire_nodest_conn", []string{"0"}, dataplane.IPVS,
		"connections to a real server that was taken away hang instead of ending", "sysctl -w net.ipv4.vs.expire_nodest_conn=1", nil},
	{"conn_reuse_mode", "net/ipv4/vs/conn_reuse_mode", []string{"0"}, dataplane.IPVS,
		"a client that uses a port again stays on a drained real server", "sysctl -w net.ipv4.vs.conn_reuse_mode=1", nil},
	{"expire_quiescent_template", "net/ipv4/vs/expire_quiescent_template", []string{"0"}, dataplane.IPVS,
		"a drained real server goes on getting new connections of the clients that persistence has given it", "sysctl -w net.ipv4.vs.expire_quiescent_template=1", persistent},
}

// persistent reports whether a service of this director keeps clients on their real servers.
func persistent(have plan.Have) bool {
	return slices.ContainsFunc(have.Services, func(s plan.Service) bool { return !s.Foreign && s.Persistence != (spec.Persistence{}) })
}

func settings(plane string, have plan.Have) (found []dataplane.Finding) {
	for _, s := range allSettings {
		if s.plane != "" && s.plane != plane || s.matters != nil && !s.matters(have) {
			continue
		}
		value, ok := sysctl(s.key)
		if ok && slices.Contains(s.bad, value) {
			found = append(found, dataplane.Finding{Code: s.code, What: fmt.Sprintf("%s is %s: %s", dotted(s.key), value, s.what), Remedy: s.remedy})
		}
	}
	return found
}

// conntrack looks how full the table of connections is.
func conntrack() []dataplane.Finding {
	count, ok1 := number("net/netfilter/nf_conntrack_count")
	most, ok2 := number("net/netfilter/nf_conntrack_max")
	if !ok1 || !ok2 || !full(count, most) {
		return nil
	}
	return []dataplane.Finding{{Code: "conntrack_full", What: fmt.Sprintf("conntrack knows %d connections and can hold %d: new ones will be refused", count, most),
		Remedy: fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*most)}}
}

// shared looks for real servers behind several services. IPVS keeps the port of the client: when a client uses one port for two of
// these services, the real server cannot tell its connections apart, and the second cuts the first. The nftables plane changes the
// port then.
func shared(plane string, have plan.Have) (found []dataplane.Finding) {
	if plane != dataplane.IPVS {
		return nil
	}
	type real struct {
		protocol spec.Protocol
		address  netip.AddrPort
	}
	first := map[real]spec.VIP{}
	for _, s := range have.Services {
		for _, r := range s.Reals {
			if s.Foreign || s.VIP.Mark != 0 || r.Forward.Method != spec.Masquerade {
				continue
			}
			at := real{s.VIP.Protocol, r.Address}
			other, twice := first[at]
			if !twice {
				first[at] = s.VIP
				continue
			}
			found = append(found, dataplane.Finding{Code: "shared_real_server",
				What:   fmt.Sprintf("real server %s stands behind %s and %s: a client that uses one port for both has its first connection cut", r.Address, other, s.VIP),
				Remedy: "let the real server listen on a port of its own for each service, or use the plane nftables"})
		}
	}
	return found
}

// full reports whether a table of connections has too little room; a limit of 0 is none.
func full(count, most int) bool { return most > 0 && count*100 >= most*ConntrackFull }

// returns connects to each real server from the VIP: the answer has to come back here, so the real server's route to the
// clients must lead through this director.
func returns(ctx context.Context, have plan.Have) (found []dataplane.Finding) {
	held := map[netip.Addr]bool{}
	for _, a := range have.Host.Addresses {
		held[a.Prefix.Addr()] = true
	}
	type pair struct {
		vip  netip.Addr
		real netip.AddrPort
	}
	var pairs []pair
	for _, s := range have.Services {
		for _, r := range s.Reals {
			if held[s.VIP.Addr()] && r.Weight > 0 && !s.Foreign && s.VIP.Protocol == spec.TCP && r.Forward.Method == spec.Masquerade {
				pairs = append(pairs, pair{s.VIP.Addr(), r.Address})
			}
		}
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	room := make(chan struct{}, together)
	for _, each := range pairs {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			if connects(ctx, netip.Addr{}, each.real) && !connects(ctx, each.vip, each.real) {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, dataplane.Finding{Code: "return_path", What: fmt.Sprintf("real server %s answers this node, and not the VIP %s: its answers to clients go another way", each.real, each.vip),
					Remedy: "make the director's inner gateway address the default route of " + each.real.Addr().String()})
			}
		})
	}
	group.Wait()
	return found
}
