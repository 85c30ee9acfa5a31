// Package plan answers: what has to change so that this node runs the wanted instances?
//
// The package is pure.
package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// Have is what there is on this node.
type Have struct {
	// Running instances, in the order of their names.
	Running []Instance
	// Single addresses (/32, /128) on the node's network cards, whoever put them there.
	Single []netip.Addr
	// Marked addresses: those that an agent has put on the cards, in this life or an earlier one.
	Marked []netip.Addr
	// Routes that an agent has made, in this life or an earlier one.
	Routes []nic.Route
}

// Instance is a running instance and how it stands.
type Instance struct {
	// Local is what it was told to do.
	Local spec.Local
	// State it is in.
	State fsm.State
	// Priority at present, with the weights of its trackers.
	Priority uint8
	// Held addresses at present.
	Held []netip.Addr
	// Master is the sender of the last advert heard. Invalid when none was.
	Master netip.Addr
	// Reason for the state.
	Reason string
	// Transitions between states since the start.
	Transitions uint64
	// Sent and Received adverts.
	Sent, Received uint64
	// Mismatched counts the received adverts that named other addresses than ours.
	Mismatched uint64
	// Checksum is the form that our adverts carry at present, with V3.
	Checksum packet.Checksum
	// Peers that were heard and the form that they use, with V3. Not to be changed.
	Peers map[netip.Addr]packet.Checksum
	// History is the last changes of state, the newest last. Not to be changed.
	History []Transition
	// Agents among the peers that have been heard of, in the order of their names.
	Agents []Agent
	// Witnessed counts the times that this node did not take over because the master, which it did not hear, answered.
	Witnessed uint64
	// Claims counts how often another machine was heard to say by ARP that it has an address that this node holds.
	Claims uint64
	// Unheard: it is so at present.
	Unheard bool
	// StoodBack: this node has handed over, and does not take the addresses back while another holds them.
	StoodBack bool
	// Drained: this node holds addresses only if nobody else lives.
	Drained bool
	// Trackers are what the trackers have found, in the order of their names. Not to be changed.
	Trackers []Finding
	// Card that the instance is on, and the card's own address. Empty: none.
	Card string
	Own  netip.Addr
	// Routes at present.
	Routes []nic.Route
	// Dropped packets by reason; the index is a packet.Drop.
	Dropped [packet.Drops]uint64
}

// Transition is a change of state, and why.
type Transition struct {
	At       time.Time
	From, To fsm.State
	Reason   string
	// Priority of this node then, and the master that was heard last.
	Priority uint8
	Master   netip.Addr
	// Adverts that were heard last, the newest last, and what the trackers had found.
	Adverts  []Advert
	Trackers []Finding
}

// Advert is an advert of another node that was taken in.
type Advert struct {
	At       time.Time
	From     netip.Addr
	Priority uint8
}

// Finding is what a tracker has found.
type Finding struct {
	Tracker string
	Well    bool
	// Why it is not well.
	Why string
	// Since when it has been so. Zero: it has not answered yet.
	Since time.Time
	// Adds is what it adds to the priority.
	Adds int
}

// Agent is a peer that speaks to this node beside VRRP.
type Agent struct {
	// Node name.
	Node string
	// Addresses of its cards.
	Addresses []netip.Addr
	// Priority that it has at present.
	Priority uint8
	// Owner: it is master. Ready: it would take over if asked.
	Owner, Ready bool
	// Seen is when it was heard of last.
	Seen time.Time
}

// Kind of a change.
type Kind uint8

const (
	// Stop an instance: it resigns and removes its addresses.
	Stop Kind = iota
	// Clean removes an address that an earlier life of the agent left behind, of a wanted instance or of one that has
	// been moved or deleted since.
	Clean
	// CleanRoute removes a route that an earlier life of the agent left behind.
	CleanRoute
	// Update a running instance; it stays in its state.
	Update
	// Start an instance.
	Start
)

// Change is one thing to do.
type Change struct {
	Kind Kind
	// Local is the instance, as wanted; with Stop as it runs.
	Local spec.Local
	// Address to remove, with Clean.
	Address netip.Addr
	// Route to remove, with CleanRoute.
	Route nic.Route
	// Detail for people: what is different.
	Detail string
}

// String is one line for people.
func (c Change) String() string {
	switch c.Kind {
	case Stop:
		return fmt.Sprintf("stop instance %s: %s", c.Local.Name, c.Detail)
	case Clean:
		if c.Local.Name == "" {
			return fmt.Sprintf("remove %v, left by an earlier run", c.Address)
		}
		return fmt.Sprintf("remove %v of instance %s, left by an earlier run", c.Address, c.Local.Name)
	case CleanRoute:
		return fmt.Sprintf("remove route %v, left by an earlier run", c.Route)
	case Update:
		return fmt.Sprintf("update instance %s: %s", c.Local.Name, c.Detail)
	case Start:
		return fmt.Sprintf("start instance %s: %s", c.Local.Name, c.Detail)
	}
	return fmt.Sprintf("change(%d)", uint8(c.Kind))
}

// Diff returns the changes in the order of doing: stops before all else, so that what they give up is free; then the
// clean-up, which must come before the instances of those addresses stand for election; then updates and starts.
func Diff(want []spec.Local, have Have) []Change {
	var stops, cleans, updates, starts []Change
	running := map[string]spec.Local{}
	for _, r := range have.Running {
		running[r.Local.Name] = r.Local
		w, wanted := find(want, r.Local.Name)
		if !wanted {
			stops = append(stops, Change{Kind: Stop, Local: r.Local, Detail: "no longer wanted on this node"})
		} else if why := restart(r.Local, w); why != "" {
			stops = append(stops, Change{Kind: Stop, Local: r.Local, Detail: why})
			starts = append(starts, start(w))
		} else if what := differences(r.Local, w); len(what) > 0 {
			updates = append(updates, Change{Kind: Update, Local: w, Detail: strings.Join(what, ", ")})
		}
	}
	for _, r := range have.Routes {
		if !slices.ContainsFunc(have.Running, func(i Instance) bool { return slices.Contains(i.Local.Routes, r.Route) }) {
			cleans = append(cleans, Change{Kind: CleanRoute, Route: r})
		}
	}
	for _, w := range want {
		if _, runs := running[w.Name]; runs {
			continue
		}
		for _, a := range w.Addresses {
			if slices.Contains(have.Single, a) && !owned(a, have.Running) {
				cleans = append(cleans, Change{Kind: Clean, Local: w, Address: a})
			}
		}
		starts = append(starts, start(w))
	}
	for _, a := range have.Marked {
		if !owned(a, have.Running) && !slices.ContainsFunc(cleans, func(c Change) bool { return c.Address == a }) {
			cleans = append(cleans, Change{Kind: Clean, Address: a})
		}
	}
	return slices.Concat(stops, cleans, updates, starts)
}

func find(all []spec.Local, name string) (spec.Local, bool) {
	for _, l := range all {
		if l.Name == name {
			return l, true
		}
	}
	return spec.Local{}, false
}

// owned tells whether a running instance looks after the address.
func owned(a netip.Addr, running []Instance) bool {
	return slices.ContainsFunc(running, func(r Instance) bool { return slices.Contains(r.Local.Addresses, a) })
}

func start(l spec.Local) Change {
	return Change{Kind: Start, Local: l,
		Detail: fmt.Sprintf("virtual router %d, priority %d, %v", l.VirtualRouterID, l.Priority, l.Addresses)}
}

// restart tells why an instance cannot go on in its state: with another identity or rhythm it is another virtual router
// to its peers.
func restart(have, want spec.Local) string {
	switch {
	case have.VirtualRouterID != want.VirtualRouterID:
		return fmt.Sprintf("virtual router %d -> %d", have.VirtualRouterID, want.VirtualRouterID)
	case have.V6() != want.V6():
		return fmt.Sprintf("addresses %v -> %v", have.Addresses, want.Addresses)
	case have.Version != want.Version:
		return fmt.Sprintf("VRRP version %d -> %d", have.Version, want.Version)
	case have.VirtualMAC != want.VirtualMAC:
		return fmt.Sprintf("virtual MAC %v -> %v", have.VirtualMAC, want.VirtualMAC)
	case have.AdvertsFromCard != want.AdvertsFromCard:
		return fmt.Sprintf("adverts from the card %v -> %v", have.AdvertsFromCard, want.AdvertsFromCard)
	case have.Unicast != want.Unicast:
		return fmt.Sprintf("unicast %v -> %v", have.Unicast, want.Unicast)
	case have.SyncGroup != want.SyncGroup:
		return fmt.Sprintf("sync group %q -> %q", have.SyncGroup, want.SyncGroup)
	case have.Interval != want.Interval:
		return fmt.Sprintf("advert interval %v -> %v", have.Interval, want.Interval)
	}
	return ""
}

func differences(have, want spec.Local) []string {
	var what []string
	add := func(name string, from, to any) {
		if !reflect.DeepEqual(from, to) {
			what = append(what, fmt.Sprintf("%s %v -> %v", name, from, to))
		}
	}
	add("priority", have.Priority, want.Priority)
	add("addresses", have.Addresses, want.Addresses)
	add("network", have.Network, want.Network)
	add("preempt", have.Preempt, want.Preempt)
	add("spread", have.Spread, want.Spread)
	add("preempt delay", have.PreemptDelay, want.PreemptDelay)
	add("startup delay", have.StartupDelay, want.StartupDelay)
	add("announce refresh", have.Refresh, want.Refresh)
	add("checksum", have.Checksum, want.Checksum)
	add("password file", have.PasswordFile, want.PasswordFile)
	if !reflect.DeepEqual(have.HMAC, want.HMAC) {
		what = append(what, "keys")
	}
	if !reflect.DeepEqual(have.Hooks, want.Hooks) {
		what = append(what, "notify")
	}
	if !reflect.DeepEqual(have.Mail, want.Mail) {
		what = append(what, "mail")
	}
	if !reflect.DeepEqual(have.Peers, want.Peers) {
		what = append(what, "members")
	}
	if !slices.Equal(have.Routes, want.Routes) {
		what = append(what, "routes")
	}
	if !slices.Equal(have.Trackers, want.Trackers) {
		what = append(what, "trackers")
	}
	return what
}
