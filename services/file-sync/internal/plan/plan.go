// Package plan answers: which sides of which pairs have to be started or stopped on this node? It is pure.
package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/twotier/twotier/services/file-sync/internal/spec"
)

// Role is which side of a pair a node has.
type Role int

// The roles. A node that has both sides of a pair runs both.
const (
	Source Role = iota + 1
	Target
)

// String names the role for a person.
func (r Role) String() string {
	switch r {
	case Source:
		return "source"
	case Target:
		return "target"
	}
	return "unknown"
}

// Side is one side of a pair, to be run on one node.
type Side struct {
	Role Role
	Pair spec.Pair
}

// String names the side for a person.
func (s Side) String() string {
	if s.Role == Target {
		return fmt.Sprintf("target of pair %s: %s at %s from %s", s.Pair.Name, s.Pair.Target.Path, s.Pair.Address, s.Pair.Source.Node)
	}
	return fmt.Sprintf("source of pair %s: %s to %s at %s", s.Pair.Name, s.Pair.Source.Path, s.Pair.Target.Node, s.Pair.Address)
}

// Is reports whether two sides are the same side of the same pair, whatever their parameters.
func (s Side) Is(o Side) bool { return s.Role == o.Role && s.Pair.Name == o.Pair.Name }

func (s Side) equal(o Side) bool { return s.Role == o.Role && s.Pair.Equal(o.Pair) }

// Sides are the sides that a node has in the pairs, in the order of names, target before source.
func Sides(node string, pairs []spec.Pair) []Side {
	var sides []Side
	for _, p := range pairs {
		if p.Target.Node == node {
			sides = append(sides, Side{Target, p})
		}
		if p.Source.Node == node {
			sides = append(sides, Side{Source, p})
		}
	}
	return sides
}

// Action is what is done to a side.
type Action int

// The actions.
const (
	Stop Action = iota + 1
	Start
)

// Change is one step.
type Change struct {
	Action Action
	Side   Side
}

// String is the change in one line.
func (c Change) String() string {
	if c.Action == Stop {
		return fmt.Sprintf("stop %v of pair %s", c.Side.Role, c.Side.Pair.Name)
	}
	return "start " + c.Side.String()
}

// Diff is the steps from the sides that run to those that are wanted: first the stops, because a new side may need
// an old one's address or folder. A side that changes is stopped and started: it compares everything anew, and does not
// trust what it saw before.
func Diff(want, have []Side) []Change {
	var changes []Change
	for _, h := range have {
		if !slices.ContainsFunc(want, h.equal) {
			changes = append(changes, Change{Stop, h})
		}
	}
	for _, w := range want {
		if !slices.ContainsFunc(have, w.equal) {
			changes = append(changes, Change{Start, w})
		}
	}
	return changes
}

// State is how a running side stands.
type State struct {
	Side         Side
	Connected    bool   // to the other side
	InSync       bool   // nothing is known to differ
	Held         bool   // a comparison wants to delete too much; a person must agree
	Waiting      uint64 // changes not yet acknowledged
	Files, Bytes uint64 // content carried over since the start
	Deletes      uint64 // members deleted since the start
	Skipped      uint64 // members that are not copied, at the last comparison: devices, sockets, pipes
	Unowned      uint64 // times that an owner could not be set
	Refused      uint64 // peers that were not let in
	Error        string // the last error; empty when all is well
}

// Sort puts states into the order of Sides.
func Sort(states []State) {
	slices.SortFunc(states, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Side.Pair.Name, b.Side.Pair.Name), cmp.Compare(b.Side.Role, a.Side.Role))
	})
}
