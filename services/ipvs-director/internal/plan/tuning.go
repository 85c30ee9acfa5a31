package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Tuning is what a plane has once on a node.
type Tuning struct {
	// Timeouts are in force.
	Timeouts spec.Timeouts
	// Daemons of synchronisation run.
	Daemons []Daemon
}

// Daemon tells other directors of connections, or listens to them. It can be compared.
type Daemon struct {
	// Master tells; else it listens.
	Master bool
	// CardName is the network card that it does so by; empty where it cannot run.
	CardName string
	Group    spec.SyncGroup
	// Network is that of the card, for people; for StartSync only.
	Network netip.Prefix
}

func (d Daemon) String() string {
	s := "listening to connections of others"
	if d.Master {
		s = "telling others of connections"
	}
	if d.CardName == "" {
		return fmt.Sprintf("%s: no network card has an address in %s", s, d.Network)
	}
	return fmt.Sprintf("%s on %s, %s", s, d.CardName, d.Group)
}

// tuning plans what the plane has once. What is not said is left alone.
func tuning(want spec.Tuning, have Have) (changes []Change) {
	if have.Tuning == nil {
		return nil // whoever wants something has been refused
	}
	if timeouts := want.Timeouts.Or(have.Tuning.Timeouts); timeouts != have.Tuning.Timeouts {
		changes = append(changes, Change{Kind: SetTimeouts, Timeouts: timeouts})
	}
	if want.Sync == nil {
		return changes
	}
	for _, of := range []struct{ master, wanted bool }{{true, want.Sync.Master}, {false, want.Sync.Backup}} {
		d := Daemon{Master: of.master, Group: want.Sync.Group, CardName: cardIn(want.Sync.Network, have.Host.Addresses)}
		at := slices.IndexFunc(have.Tuning.Daemons, func(h Daemon) bool { return h.Master == of.master })
		running := at >= 0
		right := running && of.wanted && have.Tuning.Daemons[at] == d
		if running && !right && !(of.wanted && d.CardName == "") { // one that runs on a wrong card is better than none
			changes = append(changes, Change{Kind: StopSync, Daemon: have.Tuning.Daemons[at]})
		}
		if of.wanted && !right {
			d.Network = want.Sync.Network
			changes = append(changes, Change{Kind: StartSync, Daemon: d})
		}
	}
	return changes
}

// cardIn is the network card with an address in the network, which nobody moves: not one of ours. The lowest card wins.
func cardIn(network netip.Prefix, have []HostAddress) string {
	var best HostAddress
	for _, h := range have {
		if !h.Ours && network.Contains(h.Prefix.Addr()) && (best.Card == 0 || h.Card < best.Card) {
			best = h
		}
	}
	return best.CardName
}
