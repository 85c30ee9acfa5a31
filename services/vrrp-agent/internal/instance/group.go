package instance

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
)

// group is the instances of this node that move together (keepalived: vrrp_sync_group). Each tells the others what it
// does, and they follow: a master makes masters, one that steps down takes the others with it, and the fault of one is
// the fault of all.
type group struct {
	name string

	mu      sync.Mutex // protects what follows
	members []*instance
	faults  map[string]string // of the members, by their names
	masters map[string]bool   // the members that are master, or are about to follow one
	move    move
}

func newGroup(name string) *group {
	return &group{name: name, faults: map[string]string{}, masters: map[string]bool{}}
}

// move is a handover that is under way: with whom, and until when that may be believed.
type move struct {
	node  string
	until time.Time
}

// begin notes a handover of one member, in which the others take part.
func (g *group) begin(m move) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.move = m
}

// current is the handover of the group.
func (g *group) current() move {
	if g == nil {
		return move{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.move
}

// pull is what one member of a group wants of the others.
type pull struct {
	kind pullKind
	from string // the instance
	node string // with pullOffer
}

type pullKind uint8

const (
	// pullMaster: it has become master.
	pullMaster pullKind = iota
	// pullDown: it is master no longer.
	pullDown
	// pullFaults: its faults have begun or ended.
	pullFaults
	// pullOffer: it is being handed over.
	pullOffer
)

// pullsMost bounds what waits for an instance. A pull that finds no room is made up for by the next look at the faults,
// and by VRRP.
const pullsMost = 16

// causeGroup begins the cause of a fault that is another member's; its name follows.
const causeGroup = "sync group: "

func (g *group) join(i *instance) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = append(g.members, i)
}

// leave takes the instance out. What was wrong with it is no concern of the others any more.
func (g *group) leave(i *instance) {
	g.mu.Lock()
	g.members = slices.DeleteFunc(g.members, func(m *instance) bool { return m == i })
	delete(g.faults, i.name)
	delete(g.masters, i.name)
	g.mu.Unlock()
	g.pull(i, pull{kind: pullFaults, from: i.name})
}

// note keeps whether an instance is master.
func (g *group) note(i *instance, master bool) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.masters[i.name] = master
}

// follows tells whether what another member has said of itself still holds, and notes that this one does the same. What it
// said may have waited while it changed its mind; two that follow each other's past never come to rest.
func (g *group) follows(i *instance, from string, master bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.masters[from] != master {
		return false
	}
	g.masters[i.name] = master
	return true
}

// pull tells all others.
func (g *group) pull(from *instance, p pull) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		if m == from {
			continue
		}
		select {
		case m.pulls <- p:
		default:
		}
	}
}

// fault notes what is wrong with an instance, "" for nothing, and tells the others.
func (g *group) fault(i *instance, reason string) {
	if g == nil {
		return
	}
	g.mu.Lock()
	if reason == "" {
		delete(g.faults, i.name)
	} else {
		g.faults[i.name] = reason
	}
	g.mu.Unlock()
	g.pull(i, pull{kind: pullFaults, from: i.name})
}

// others returns the faults of the other members.
func (g *group) others(i *instance) map[string]string {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	all := maps.Clone(g.faults)
	delete(all, i.name)
	return all
}

// hears tells whether another member hears its master: then the node of that master lives.
func (g *group) hears(i *instance) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	return slices.ContainsFunc(g.members, func(m *instance) bool {
		return m != i && now.UnixNano() < m.hears.Load()
	})
}

// pulled does what another member wants.
func (i *instance) pulled(p pull) {
	switch p.kind {
	case pullMaster:
		if i.ready() && i.group.follows(i, p.from, true) {
			defer func() { i.group.note(i, i.state == fsm.Master) }()
			i.step(fsm.Event{Kind: fsm.Invited}, because(fmt.Sprintf("instance %s of sync group %s is master", p.from, i.group.name)))
		}
	case pullDown:
		if i.state != fsm.Master {
			return
		}
		if i.offer != nil {
			i.follow = true // it is being handed over itself
			return
		}
		if !i.group.follows(i, p.from, false) {
			return
		}
		defer func() { i.group.note(i, i.state == fsm.Master) }()
		i.step(fsm.Event{Kind: fsm.Resign}, because(fmt.Sprintf("instance %s of sync group %s is master no longer", p.from, i.group.name)))
	case pullFaults:
		i.syncFaults()
	case pullOffer:
		if i.state == fsm.Master && i.offer == nil && i.agents[p.node] != nil {
			i.makeOffer(p.node, func(string, error) {})
		}
	}
}

// syncFaults makes the faults of the other members ours.
func (i *instance) syncFaults() {
	others := i.group.others(i)
	for cause := range maps.Clone(i.faults) {
		if name, ok := groupCause(cause); ok && others[name] == "" {
			i.mend(cause)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		i.fail(causeGroup+name, fmt.Sprintf("instance %s of sync group %s: %s", name, i.group.name, others[name]))
	}
}

func groupCause(cause string) (name string, ok bool) {
	if len(cause) > len(causeGroup) && cause[:len(causeGroup)] == causeGroup {
		return cause[len(causeGroup):], true
	}
	return "", false
}

// ownFault tells the group what is wrong with this instance itself.
func (i *instance) ownFault() {
	if i.group == nil {
		return
	}
	own := ""
	for _, cause := range slices.Sorted(maps.Keys(i.faults)) {
		if _, others := groupCause(cause); !others {
			own = i.faults[cause]
			break
		}
	}
	if own != i.toldFault {
		i.toldFault = own
		i.group.fault(i, own)
	}
}
