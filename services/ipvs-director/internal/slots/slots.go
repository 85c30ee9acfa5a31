// Package slots answers: which real server does a new connection get on a plane that deals by a table? Pure: the same
// service makes the same table on every node, so that a director which takes over from another sends the middle of a
// connection where its beginning went.
package slots

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Choice says what chooses among the slots.
type Choice uint8

// The choices.
const (
	// InTurn: each new connection takes the next slot.
	InTurn Choice = iota
	// BySource: the address of the client.
	BySource
	// ByConnection: the address and the port of the client.
	ByConnection
)

// Table is how the new connections of one service are dealt.
type Table struct {
	Choice Choice
	// Slots holds the real server of each slot. Empty: nobody may take a connection.
	Slots []netip.AddrPort
	// Seed of the hash, never 0. It follows from the VIP: two services deal the same clients differently.
	Seed uint32
}

// Of makes the table of a service.
//
// rr and wrr deal in turn. sh and mh deal by hash over a Maglev table, and so do lc and wlc, some of whose slots are lent: the
// kernel's tables do not know how many connections are open; see Level.
func Of(s spec.Service) Table {
	reals := weighed(s)
	switch s.Scheduler {
	case spec.SH:
		return Table{Choice: BySource, Slots: maglev(reals), Seed: seed(s.VIP)}
	case spec.MH:
		return Table{Choice: ByConnection, Slots: maglev(reals), Seed: seed(s.VIP)}
	case spec.LC, spec.WLC:
		table := Table{Choice: ByConnection, Slots: maglev(reals), Seed: seed(s.VIP)}
		for _, l := range effective(s, table.Slots) {
			table.Slots[l.Slot] = l.To
		}
		return table
	default:
		return Table{Slots: turns(reals)}
	}
}

// Slot returns the slot of a client's connection; false when the table deals in turn, or to nobody.
func (t Table) Slot(client netip.AddrPort) (int, bool) {
	if t.Choice == InTurn || len(t.Slots) == 0 {
		return 0, false
	}
	return scale(jhash(t.Key(client), t.Seed), len(t.Slots)), true
}

// Key is what of a client is hashed: the address and, by connection, the port, as they lie in the registers of nf_tables.
func (t Table) Key(client netip.AddrPort) []byte {
	address := client.Addr().AsSlice()
	if t.Choice == BySource {
		return address
	}
	return binary.BigEndian.AppendUint32(address, uint32(client.Port())<<16)
}

// weighed are the real servers of a service with the weights that its scheduler sees.
func weighed(s spec.Service) []spec.Real {
	if s.Scheduler.Weighs() {
		return s.Reals
	}
	return alike(s.Reals)
}

// alike gives everybody who takes connections the same weight.
func alike(reals []spec.Real) []spec.Real {
	same := make([]spec.Real, len(reals))
	for i, r := range reals {
		same[i] = r
		same[i].Weight = min(r.Weight, 1)
	}
	return same
}

func seed(vip spec.VIP) uint32 {
	h := fnv.New32a()
	_, _ = h.Write(bytesOf(vip.AddrPort)) // it cannot fail
	if vip.Protocol != spec.TCP {
		_, _ = h.Write([]byte{byte(vip.Protocol)})
	}
	return h.Sum32() | 1
}

func bytesOf(a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port())
}
