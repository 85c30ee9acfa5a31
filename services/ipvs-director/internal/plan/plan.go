// Package plan answers: what has to be done so that what is there becomes what is wanted? The answer is an ordered
// list of changes, one printable line each, empty when there is nothing to do.
package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Have is what the node has, as read from its kernel.
type Have struct {
	Services []Service
	Host     Host
	// Tuning is what the plane has once; nil: it has nothing to tune.
	Tuning *Tuning
	// Damage tells why the plane's own objects in the kernel do not form a state that it could have made, such as
	// "chain prerouting: rule 1 is not ours". Empty = sound. A damaged plane is rebuilt whole.
	Damage string
	// Counted is when the counters of Services were read; zero: at this look.
	Counted time.Time
}

// Service is one virtual service as the kernel has it.
type Service struct {
	VIP         spec.VIP
	Scheduler   spec.Scheduler
	Persistence spec.Persistence
	OnePacket   bool
	Reals       []Real
	// Lent are its slots that others have than the weights say, in the order of the slots; see package slots.
	Lent []spec.Loan
	// Foreign: the kernel has it, but this director did not put it there. It is left alone unless it is wanted.
	Foreign bool
	// Drift tells what else than scheduler, persistence and real servers is not as we make it. Empty = nothing.
	Drift string
}

// Real is one real server as the kernel has it.
type Real struct {
	spec.Real
	// Drift tells what else than what spec.Real says is not as we make it. Empty = nothing.
	Drift string
	// Active is the number of established connections; nil when the plane does not count them.
	Active *uint64
	// Total is the number of new connections since the real server was added or the plane was rebuilt. IPVS adds up its
	// counters every 2 s.
	Total uint64
	// Traffic is what has passed since then; nil when the plane does not count it.
	Traffic *Traffic
}

// Traffic is what has passed to a real server, and from it. With direct routing and tunnels nothing comes back this way.
type Traffic struct {
	PacketsIn, PacketsOut, BytesIn, BytesOut uint64
}

// Host is what the node's own network stack has.
type Host struct {
	// Forwarding is net.ipv4.ip_forward: without it no packet passes through the node.
	Forwarding bool
	Addresses  []HostAddress
}

// HostAddress is one IPv4 address on one network card.
type HostAddress struct {
	Prefix netip.Prefix
	// Card is the index of the network card; CardName is its name, for people.
	Card     int
	CardName string
	// Ours: it bears this director's mark.
	Ours bool
}

// Kind says what a change does.
type Kind int

// The kinds of changes, in the order in which they are done. At no moment between two of them is a service without
// a real server that it has before and after: what takes connections is made first, what no longer shall is taken
// away last. Addresses come after the rules, because a segment to an address without rules is answered with a reset.
const (
	// Rebuild throws the plane's own objects away and makes Services anew, as one transaction.
	Rebuild Kind = iota
	// AddService makes a service without real servers.
	AddService
	// SetService sets scheduler and persistence of a service, makes it ours and mends its drift.
	SetService
	// AddReal adds a real server.
	AddReal
	// SetReal sets all about a real server but its address, and mends its drift.
	SetReal
	// Lend says which slots of a service others have than the weights say, on a plane that deals by a table.
	Lend
	// AddAddress puts an address on a network card.
	AddAddress
	// RemoveAddress takes an address away.
	RemoveAddress
	// RemoveReal takes a real server away.
	RemoveReal
	// RemoveService takes a service away, with what real servers it still has.
	RemoveService
	// SetTimeouts sets when connections are forgotten.
	SetTimeouts
	// StopSync stops a daemon of synchronisation, StartSync starts one. They come last: a director without it serves all the same.
	StopSync
	StartSync

	kinds int = iota // how many there are
)

// Change is one step from have to want.
type Change struct {
	Kind Kind
	// VIP names the service; for all kinds on services but Rebuild.
	VIP spec.VIP
	// Scheduler and Persistence are the wanted ones, for AddService and SetService; Old and OldPersistence those there, for
	// SetService.
	Scheduler, Old              spec.Scheduler
	Persistence, OldPersistence spec.Persistence
	// OnePacket of the service, for AddService and SetService.
	OnePacket bool
	// Real is the wanted real server, for AddReal and SetReal; for RemoveReal the one there.
	Real spec.Real
	// OldReal is the one there, for SetReal.
	OldReal spec.Real
	// Lent are the wanted loans of the service, for Lend; OldLent those there.
	Lent, OldLent []spec.Loan
	// Address is the address with its subnet length, for AddAddress and RemoveAddress.
	Address netip.Prefix
	// Card is the network card for Address; 0 for AddAddress when the node has no card in the subnet: the step then
	// fails with ErrNoCard.
	Card int
	// CardName is its name, for people.
	CardName string
	// Reason is the drift or damage that the change mends. Empty when it needs no reason.
	Reason string
	// Services are all wanted services, for Rebuild.
	Services []spec.Service
	// Timeouts are the wanted ones, for SetTimeouts.
	Timeouts spec.Timeouts
	// Daemon is the one to start, which needs a network card (ErrNoCard), or to stop.
	Daemon Daemon
}

// Service is the service that the change is about, without real servers, for AddService and SetService.
func (c Change) Service() spec.Service {
	return spec.Service{VIP: c.VIP, Scheduler: c.Scheduler, Persistence: c.Persistence, OnePacket: c.OnePacket}
}

// ErrNoCard means that an address cannot be put anywhere: no network card has an address in its subnet.
var ErrNoCard = fmt.Errorf("no network card of this node has an address in that subnet")

// OnHost tells whether the change is for the node's own network stack instead of the data plane.
func (c Change) OnHost() bool { return c.Kind == AddAddress || c.Kind == RemoveAddress }

// String is the change as people read it in plans, logs and the status.
func (c Change) String() string {
	var s string
	switch c.Kind {
	case Rebuild:
		s = fmt.Sprintf("rebuild the data plane with %d services", len(c.Services))
	case AddService:
		s = fmt.Sprintf("add service %s scheduler %s", c.VIP, c.Scheduler)
		if c.Persistence != (spec.Persistence{}) {
			s += fmt.Sprintf(", persistence %s", c.Persistence)
		}
		if c.OnePacket {
			s += ", each datagram anew"
		}
	case SetService:
		s = fmt.Sprintf("set service %s scheduler %s", c.VIP, c.Scheduler)
		if c.Old != c.Scheduler {
			s += fmt.Sprintf(" (was %s)", c.Old)
		}
		if c.OldPersistence != c.Persistence {
			s += fmt.Sprintf(", persistence %s (was %s)", c.Persistence, c.OldPersistence)
		}
	case AddReal:
		s = fmt.Sprintf("add real server %s %s to %s", c.Real.Address, c.Real, c.VIP)
	case SetReal:
		s = fmt.Sprintf("set real server %s %s of %s", c.Real.Address, c.Real, c.VIP)
		weight := c.OldReal
		weight.Weight = c.Real.Weight
		switch {
		case weight != c.Real:
			s += fmt.Sprintf(" (was %s)", c.OldReal)
		case c.OldReal != c.Real:
			s += fmt.Sprintf(" (was %d)", c.OldReal.Weight)
		}
	case Lend:
		s = fmt.Sprintf("lend %d slots of %s (was %d)", len(c.Lent), c.VIP, len(c.OldLent))
	case RemoveReal:
		s = fmt.Sprintf("remove real server %s from %s", c.Real.Address, c.VIP)
	case RemoveService:
		s = fmt.Sprintf("remove service %s", c.VIP)
	case SetTimeouts:
		s = fmt.Sprintf("set timeouts %s", c.Timeouts)
	case StopSync:
		s = fmt.Sprintf("stop %s", c.Daemon)
	case StartSync:
		s = fmt.Sprintf("start %s", c.Daemon)
	case AddAddress:
		if c.Card == 0 {
			return fmt.Sprintf("add address %s: no network card has an address in %s", c.Address, c.Address.Masked())
		}
		s = fmt.Sprintf("add address %s to %s", c.Address, c.CardName)
	case RemoveAddress:
		s = fmt.Sprintf("remove address %s from %s", c.Address, c.CardName)
	default:
		s = fmt.Sprintf("unknown change %d", int(c.Kind))
	}
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// Diff returns the changes that make have into want, in the order of doing.
func Diff(want spec.Want, have Have) []Change {
	var changes []Change
	if have.Damage != "" {
		changes = append(changes, Change{Kind: Rebuild, Services: want.Services, Reason: have.Damage})
	} else {
		changes = services(want.Services, have.Services)
	}
	changes = append(changes, addresses(want.Addresses, have.Host)...)
	changes = append(changes, tuning(want.Tuning, have)...)
	return inOrder(changes)
}

// inOrder returns the changes by rank, those of one rank as they are. A change is large and there can be tens of thousands, which
// sorting would move again and again.
func inOrder(changes []Change) []Change {
	var next [2 * kinds]int // how many there are before a rank, then where the next one of it goes
	for _, c := range changes {
		next[c.rank()]++
	}
	before := 0
	for rank, n := range next {
		next[rank], before = before, before+n
	}
	ordered := make([]Change, len(changes))
	for _, c := range changes {
		ordered[next[c.rank()]] = c
		next[c.rank()]++
	}
	return ordered
}

// rank is the place of a change in the order of doing: that of its kind, and weights that grow before those that shrink.
func (c Change) rank() int {
	rank := int(c.Kind) * 2
	if c.Kind == SetReal && c.Real.Weight < c.OldReal.Weight {
		rank++
	}
	return rank
}

func services(want []spec.Service, have []Service) (changes []Change) {
	left := make(map[spec.VIP]Service, len(have))
	for _, h := range have {
		left[h.VIP] = h
	}
	for _, w := range want {
		h, there := left[w.VIP]
		delete(left, w.VIP)
		set := Change{Kind: SetService, VIP: w.VIP, Scheduler: w.Scheduler, Old: h.Scheduler, Persistence: w.Persistence, OldPersistence: h.Persistence,
			OnePacket: w.OnePacket, Reason: h.Drift}
		if h.OnePacket != w.OnePacket && set.Reason == "" {
			set.Reason = fmt.Sprintf("each datagram anew: %t", w.OnePacket)
		}
		switch {
		case !there:
			changes = append(changes, Change{Kind: AddService, VIP: w.VIP, Scheduler: w.Scheduler, Persistence: w.Persistence, OnePacket: w.OnePacket})
		case h.Foreign && w.Foreign != spec.Adopt:
			continue
		case h.Foreign:
			set.Reason = "somebody else made it"
			changes = append(changes, set)
		case h.Scheduler != w.Scheduler || h.Persistence != w.Persistence || set.Reason != "":
			changes = append(changes, set)
		}
		changes = reals(changes, w, h)
		if !slices.Equal(w.Lent, h.Lent) {
			changes = append(changes, Change{Kind: Lend, VIP: w.VIP, Lent: w.Lent, OldLent: h.Lent})
		}
	}
	// In the order of have, not of the map: a plan prints the same each time.
	for _, h := range have {
		if _, unwanted := left[h.VIP]; unwanted && !h.Foreign {
			changes = append(changes, Change{Kind: RemoveService, VIP: h.VIP})
		}
	}
	return changes
}

// Refused are the wanted services that somebody else has made and that are not to be wanted beside that.
func Refused(want []spec.Service, have Have) (vips []spec.VIP) {
	for _, h := range have.Services {
		if h.Foreign && slices.ContainsFunc(want, func(w spec.Service) bool { return w.VIP == h.VIP && w.Foreign == spec.RefuseForeign }) {
			vips = append(vips, h.VIP)
		}
	}
	return vips
}

// reals appends what has to be done with the real servers of a service.
func reals(changes []Change, want spec.Service, have Service) []Change {
	left := make(map[netip.AddrPort]Real, len(have.Reals))
	for _, h := range have.Reals {
		left[h.Address] = h
	}
	for _, w := range want.Reals {
		h, there := left[w.Address]
		delete(left, w.Address)
		switch {
		case !there:
			changes = append(changes, Change{Kind: AddReal, VIP: want.VIP, Real: w})
		case h.Real != w || h.Drift != "":
			changes = append(changes, Change{Kind: SetReal, VIP: want.VIP, Real: w, OldReal: h.Real, Reason: h.Drift})
		}
	}
	for _, h := range have.Reals {
		if _, unwanted := left[h.Address]; unwanted {
			changes = append(changes, Change{Kind: RemoveReal, VIP: want.VIP, Real: h.Real})
		}
	}
	return changes
}

// addresses plans the node's own addresses. An address that is there without our mark was put there by somebody
// else: it serves, and it stays when it is no longer wanted.
func addresses(want []spec.Address, have Host) (changes []Change) {
	wanted := make(map[netip.Prefix]bool, len(want))
	for _, w := range want {
		wanted[w.Prefix] = true
		if slices.ContainsFunc(have.Addresses, func(h HostAddress) bool {
			return h.Prefix.Addr() == w.Prefix.Addr() && (!h.Ours || h.Prefix == w.Prefix)
		}) {
			continue
		}
		c := Change{Kind: AddAddress, Address: w.Prefix}
		if card, ok := cardFor(w.Prefix, have.Addresses); ok {
			c.Card, c.CardName = card.Card, card.CardName
		}
		changes = append(changes, c)
	}
	for _, h := range have.Addresses {
		if h.Ours && !wanted[h.Prefix] {
			changes = append(changes, Change{Kind: RemoveAddress, Address: h.Prefix, Card: h.Card, CardName: h.CardName})
		}
	}
	return changes
}

// cardFor finds the network card for a new address: the one that has an address of somebody else's whose subnet
// holds the new one. The longest subnet wins, then the lowest card index.
func cardFor(want netip.Prefix, have []HostAddress) (HostAddress, bool) {
	var best HostAddress
	found := false
	for _, h := range have {
		if h.Ours || !h.Prefix.Masked().Contains(want.Addr()) {
			continue
		}
		if !found || h.Prefix.Bits() > best.Prefix.Bits() || h.Prefix.Bits() == best.Prefix.Bits() && h.Card < best.Card {
			best, found = h, true
		}
	}
	return best, found
}
