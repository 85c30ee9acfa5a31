package pool

import (
	"net/netip"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// Caller is for whom a connection to a server inside this process is made.
type Caller struct {
	// Address of the client, without the port.
	Address string
	// Frontend that its request came to, as it was then.
	Frontend *spec.Frontend
}

// InsideName is the server's name in logs (HAProxy: <STATS>).
const InsideName = "<STATS>"

// Inside makes a backend with one server that is in this process: dial returns one end of a connected stream socket that
// does not block, which the caller owns from then on, or an error when there are too many.
func Inside(timeout time.Duration, dial func(Caller) (fd int, err error)) *Backend {
	s := spec.Server{Name: InsideName, Address: netip.AddrPortFrom(netip.IPv6Unspecified(), 0), Weight: 1}
	b := &Backend{
		Spec: spec.Backend{Name: InsideName, Servers: []spec.Server{s}, TimeoutConnect: timeout, TimeoutServer: timeout},
		Seen: stats.NewSet(), group: newGroup(),
	}
	l := &live{address: s.Address, text: InsideName, kick: make(chan struct{}, 1), vitals: unchecked, Seen: stats.NewSet(), backend: b, group: b.group}
	l.queue = queue{group: b.group, waiting: &l.Load}
	b.servers = []*Server{{Spec: s, Inside: dial, live: l}}
	l.server = b.servers[0]
	l.weight.Store(1)
	l.balanced.Store(true)
	l.named.Store(true)
	b.refresh()
	return b
}

// SetPage gives the backend of the statistics pages; call it before anything else. It is none of those that Set makes.
func (p *Pool) SetPage(b *Backend) { p.page = b }

// Page returns what SetPage was given, nil: there are no statistics pages.
func (p *Pool) Page() *Backend { return p.page }
