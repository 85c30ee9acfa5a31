// Package kept answers: which open connections would a director that takes over send to another real server than theirs, and
// how is it told, and of the slots that are lent? A connection whose slot has moved since it began is at a real server where no hash leads any more. Pure.
package kept

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// Most is how many connections one director tells of.
	Most = 16384
	// PerNote is how many of them fit into one note.
	PerNote = 1024
)

// Ends are the two ends of a connection that the client knows.
type Ends struct {
	Client netip.AddrPort
	VIP    spec.VIP
}

// Flow is an open connection, or a flow of UDP that the kernel remembers.
type Flow struct {
	Ends
	// Real is its real server.
	Real netip.AddrPort
}

// Strays returns the connections that a director would send to another real server, or to none, when it sees the middle of
// them: it knows some of old, and where the others are by the table of their VIP. A table that deals in turn cannot tell
// where a connection is, so that nothing is said of those.
func Strays(flows []Flow, tables map[spec.VIP]slots.Table, known map[Ends]netip.AddrPort) (strays []Flow) {
	for _, f := range flows {
		real, ok := known[f.Ends]
		if !ok {
			table, there := tables[f.VIP]
			if there && table.Choice == slots.InTurn {
				continue
			}
			if slot, found := table.Slot(f.Client); found {
				real = table.Slots[slot]
			}
		}
		if real != f.Real {
			strays = append(strays, f)
		}
	}
	return strays
}

// Encode writes connections into notes of PerNote at most: JSON, the clients by VIP and real server.
func Encode(flows []Flow) (notes [][]byte, err error) {
	for part := range slices.Chunk(flows, PerNote) {
		clients := map[string][]netip.AddrPort{}
		for _, f := range part {
			at := f.VIP.String() + " " + f.Real.String()
			clients[at] = append(clients[at], f.Client)
		}
		note, err := json.Marshal(clients)
		if err != nil {
			return nil, err
		}
		notes = append(notes, note)
	}
	return notes, nil
}

// Decode reads a note. With an error there are no connections.
func Decode(note []byte) (flows []Flow, err error) {
	var clients map[string][]netip.AddrPort
	if err := json.Unmarshal(note, &clients); err != nil {
		return nil, err
	}
	for at, all := range clients {
		var vip, real string
		if _, err := fmt.Sscan(at, &vip, &real); err != nil {
			return nil, fmt.Errorf("want a VIP and a real server, got %q", at)
		}
		f := Flow{}
		if f.VIP, err = spec.ParseVIP(vip); err == nil {
			f.Real, err = netip.ParseAddrPort(real)
		}
		if err != nil {
			return nil, err
		}
		for _, f.Client = range all {
			if !f.Client.IsValid() {
				return nil, fmt.Errorf("%s: a client without an address", at)
			}
			flows = append(flows, f)
		}
	}
	return flows, nil
}
