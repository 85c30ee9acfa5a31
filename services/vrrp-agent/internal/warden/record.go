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

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
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
	// opHoldRoute: the instance lives, and has a route.
	opHoldRoute
	// opReleaseRoute: it has it no longer.
	opReleaseRoute
)

// recordLength is the length of every record.
const recordLength = 76

// record is one message of the agent to the warden.
type record struct {
	op op
	// router tells the instances apart: the virtual router identifier, and v6 for the one of IPv6 that may share it.
	router router
	// index of the network card, with opHold and opRelease, and of the route's.
	index int
	// address, with opHold and opRelease.
	address netip.Addr
	// route, with opHoldRoute and opReleaseRoute.
	route spec.Route
	// patience is how long the warden waits for the next beat, except with releases.
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
	if !r.route.Destination.IsValid() {
		return
	}
	b[3] = byte(r.route.Destination.Bits())
	for at, a := range [...]netip.Addr{r.route.Via, r.route.Destination.Addr(), r.route.Source} {
		if a.IsValid() {
			raw := a.As16()
			copy(b[24+16*at:], raw[:])
		}
	}
	binary.LittleEndian.PutUint32(b[72:], r.route.Metric)
}

// read is the inverse of put; false: no record of ours.
func read(b []byte) (record, bool) {
	if len(b) != recordLength || op(b[0]) < opBeat || op(b[0]) > opReleaseRoute {
		return record{}, false
	}
	r := record{
		op: op(b[0]), router: router{id: b[1], v6: b[2] == 1},
		index:    int(binary.LittleEndian.Uint32(b[4:])),
		patience: time.Duration(binary.LittleEndian.Uint64(b[8:])),
		stamp:    time.Duration(binary.LittleEndian.Uint64(b[16:])),
	}
	if r.op != opHoldRoute && r.op != opReleaseRoute {
		r.address = netip.AddrFrom16([16]byte(b[24:])).Unmap()
		return r, true
	}
	r.route = spec.Route{
		Via: address(b[24:]), Destination: netip.PrefixFrom(netip.AddrFrom16([16]byte(b[40:])).Unmap(), int(b[3])),
		Source: address(b[56:]), Metric: binary.LittleEndian.Uint32(b[72:]),
	}
	return r, r.route.Destination.IsValid()
}

// address reads an address that may be missing.
func address(b []byte) netip.Addr {
	if a := netip.AddrFrom16([16]byte(b)).Unmap(); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}
