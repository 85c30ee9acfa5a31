// Package warden answers: who takes the addresses away when the agent no longer can?
//
// Two processes of one program: the warden, which is the parent and does nothing but listen, and the agent, its only
// child, which tells it what it holds and that it lives. When the agent dies or falls silent for as long as its peers
// would wait before they take over, the warden removes the addresses. It keeps no other state, opens no port and reads no
// configuration, so that little can go wrong in it.
package warden

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// op is what a record says.
type op uint8

const (
	// opBeat: the instance lives.
	opBeat op = iota + 1
	// opHold: the instance lives, and holds an address.
	opHold
	// opRelease: it does no longer.
	opRelease
)

// recordLength is the length of every record.
const recordLength = 40

// record is one message of the agent to the warden.
type record struct {
	op op
	// router tells the instances apart: the virtual router identifier, and v6 for the one of IPv6 that may share it.
	router router
	// index of the network card, with opHold and opRelease.
	index int
	// address, with opHold and opRelease.
	address netip.Addr
	// patience is how long the warden waits for the next beat, with opBeat and opHold.
	patience time.Duration
	// stamp is when the record was made, by the clock of the machine.
	stamp time.Duration
}

// router is an instance.
type router struct {
	id uint8
	v6 bool
}

// put writes the record.
func (r record) put(b *[recordLength]byte) {
	*b = [recordLength]byte{byte(r.op), r.router.id}
	if r.router.v6 {
		b[2] = 1
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(r.index))
	binary.LittleEndian.PutUint64(b[8:], uint64(r.patience))
	binary.LittleEndian.PutUint64(b[16:], uint64(r.stamp))
	if r.address.IsValid() {
		raw := r.address.As16()
		copy(b[24:], raw[:])
	}
}

// read is the inverse of put; false: no record of ours.
func read(b []byte) (record, bool) {
	if len(b) != recordLength || op(b[0]) < opBeat || op(b[0]) > opRelease {
		return record{}, false
	}
	return record{
		op: op(b[0]), router: router{id: b[1], v6: b[2] == 1},
		index:    int(binary.LittleEndian.Uint32(b[4:])),
		patience: time.Duration(binary.LittleEndian.Uint64(b[8:])),
		stamp:    time.Duration(binary.LittleEndian.Uint64(b[16:])),
		address:  netip.AddrFrom16([16]byte(b[24:])).Unmap(),
	}, true
}
