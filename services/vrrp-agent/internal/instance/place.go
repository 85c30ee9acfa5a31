package instance

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/election"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// look compares the network with what the instance needs: its port, and its addresses there or not there.
func (i *instance) look() {
	view := i.network.View()
	port, err := view.Find(i.order.local.Addresses, i.order.local.Network)
	if err != nil {
		i.fail(causeCard, err.Error())
		i.hangUp()
		return
	}
	if i.wire != nil && !port.Same(i.port) {
		i.fail(causeCard, "network card "+i.port.Name+" has been replaced by "+port.Name)
		i.hangUp()
	}
	if i.wire == nil {
		if err := i.settle(port); err != nil {
			i.fail(causeCard, err.Error())
			i.retry.Reset(retryPause)
			return
		}
		i.mend(causeCard)
		return
	}
	port = i.worn(port)
	moved := port.MAC != i.port.MAC || port.Router != i.port.Router
	i.port = port
	if moved {
		i.build()
	}
	if i.port.Worn != 0 && !slices.ContainsFunc(view.Cards, func(c nic.Card) bool { return c.Index == i.port.Worn && c.Up == (i.state == fsm.Master) }) {
		err := i.wear() // somebody has removed it, or switched it
		if i.state != fsm.Master {
			i.switchOff()
		} else if err == nil {
			err = i.switchOn()
		}
		i.refuse(err)
		i.checkRefused()
	}
	if i.state == fsm.Master {
		i.putBack(view)
		i.putBackRoutes()
		if moved {
			i.sendFrames(announceCopies)
		}
	} else {
		i.takeOffRoutes()
		i.takeOff(view)
	}
}

// settle takes the port for the instance.
func (i *instance) settle(port nic.Port) error {
	wire, err := i.network.Listen(port)
	if err != nil {
		return err
	}
	i.port, i.wire = i.worn(port), wire
	if err := i.wear(); err != nil {
		i.wire = nil
		return errors.Join(err, wire.Close())
	}
	i.readable, i.closeWire = make(chan struct{}), make(chan struct{})
	i.build()
	i.listenForClaims()
	readable, closed := i.readable, i.closeWire
	i.goroutine.Go(func() {
		for wire.Wait() == nil {
			select {
			case readable <- struct{}{}:
			case <-closed:
				return
			}
		}
	})
	return nil
}

// hangUp leaves the port.
func (i *instance) hangUp() {
	if i.wire == nil {
		return
	}
	close(i.closeWire)
	if err := i.wire.Close(); err != nil {
		i.log.Warn("close the sockets", zap.Error(err))
	}
	i.wire, i.readable = nil, nil
	i.doff()
}

// card is the name of the card that the instance is on, and own the card's address; empty without one.
func (i *instance) card() string {
	if i.wire == nil {
		return ""
	}
	return i.port.Name
}

func (i *instance) own() netip.Addr {
	if i.wire == nil {
		return netip.Addr{}
	}
	return i.port.Source
}

// take makes an order the present one.
func (i *instance) take(o order) {
	i.order = o
	for node := range i.agents {
		if !slices.ContainsFunc(o.local.Peers, func(p spec.Peer) bool { return p.Node == node }) {
			delete(i.agents, node)
		}
	}
	i.build()
	if i.wire != nil {
		i.watchClaims()
	}
}

// build prepares everything that follows from the order and the port.
func (i *instance) build() {
	l := i.order.local
	i.config = fsm.Config{
		Priority: i.priority(), Interval: l.Interval, MasterInterval: i.config.MasterInterval,
		SkewByInterval: l.Version == packet.V3, Preempt: i.preempt(), Self: i.port.Source,
		First: i.first(),
	}
	i.expect = packet.Expect{
		Version: l.Version, VirtualRouterID: l.VirtualRouterID, Interval: l.Interval, Authentication: i.order.authentication,
		Self: i.port.Source, Also: i.port.Own, Ring: i.order.ring, Signed: l.HMAC.Require,
	}
	for address, d := range i.deaf {
		if d.peer {
			delete(i.deaf, address)
		}
	}
	if l.Unicast {
		for _, p := range l.Peers {
			if len(p.Addresses) > 0 {
				i.deaf[p.Addresses[0]] = deaf{peer: true}
				i.expect.Peers = append(i.expect.Peers, p.Addresses[0])
			}
		}
	}
	i.write()
	i.frames = map[netip.Addr][]byte{}
	for _, address := range l.Addresses {
		i.frames[address] = packet.Announcement(i.port.MAC, address, i.port.Router)
	}
}

// drainedPriority is the priority of a node that is drained: the lowest that still takes over when nobody else does.
const drainedPriority = 1

// priority is the priority at present.
func (i *instance) priority() uint8 {
	if i.drained {
		return drainedPriority
	}
	sum := 0
	for _, t := range i.trackers {
		sum += t.sum
	}
	return uint8(election.Effective(int(i.order.local.Priority), sum))
}

// preempt tells whether this node takes over from a living master of lower priority.
func (i *instance) preempt() bool {
	return i.order.local.Preempt && !i.stoodBack && !i.drained && i.patient.IsZero()
}

// write prepares the adverts.
func (i *instance) write() {
	l := i.order.local
	i.format = packet.Format{
		Version: l.Version, Authentication: i.order.authentication, Checksum: i.checksum(), Source: i.port.Source,
	}
	if l.HMAC.Send {
		i.format.Ring = i.order.ring
	}
	a := packet.Advertisement{
		VirtualRouterID: l.VirtualRouterID, Priority: i.config.Priority, Interval: l.Interval, Addresses: l.Addresses,
	}
	stop := a
	stop.Priority = packet.PriorityStop
	i.advert, i.resign = a.Append(nil, i.format), stop.Append(nil, i.format)
	for to, d := range i.deaf {
		f := i.format
		f.Source, f.Destination = i.port.From(to), to
		d.advert, d.resign = a.Append(nil, f), stop.Append(nil, f)
		i.deaf[to] = d
	}
}

// checksum is the form that our adverts take: what is ordered, or else what the peers use. A peer that has never been
// heard and peers that disagree get the pseudo-header, as most have it.
func (i *instance) checksum() packet.Checksum {
	switch i.order.local.Checksum {
	case spec.ChecksumPseudoHeader:
		return packet.ChecksumPseudoHeader
	case spec.ChecksumMessage:
		return packet.ChecksumMessage
	}
	for _, form := range i.peers {
		if form == packet.ChecksumPseudoHeader {
			return form
		}
	}
	if len(i.peers) > 0 {
		return packet.ChecksumMessage
	}
	return packet.ChecksumPseudoHeader
}

// learn remembers what the sender's checksum covers.
func (i *instance) learn(r packet.Received) {
	form, known := i.peers[r.From]
	if i.order.local.Version != packet.V3 || known && form == r.Checksum || !known && len(i.peers) >= peersMost {
		return
	}
	i.peers[r.From] = r.Checksum
	i.write()
	i.publish()
}

// hold puts all addresses of the instance on the card. With an error the step ends in fault.
func (i *instance) hold() {
	for _, a := range i.order.local.Addresses {
		if slices.Contains(i.held, a) {
			continue
		}
		i.guard.Hold(i.order.local.VirtualRouterID, a.Is6(), i.port.Holder(), a, i.patience())
		if _, err := i.network.Add(i.port.Holder(), a, lifetime); err != nil {
			i.refused = err
			return
		}
		i.held = append(i.held, a)
		i.life.Reset(renewal)
	}
	i.addRoutes()
	i.publish()
}

// release takes addresses off the card.
func (i *instance) release(addresses []netip.Addr) {
	i.awaitRenewal()
	i.removeRoutes(func(r nic.Route) bool {
		return len(addresses) == len(i.held) || slices.Contains(addresses, r.Source) || !slices.Contains(i.order.local.Routes, r.Route)
	})
	var errs []error
	for _, a := range addresses {
		_, err := i.network.Remove(i.port.Holder(), a)
		i.guard.Release(i.order.local.VirtualRouterID, a.Is6(), i.port.Holder(), a)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil { // the next look tries again, and their time runs out
		i.log.Error("remove addresses", logging.Device(i.port.Name), zap.Error(err))
	}
	i.held = slices.DeleteFunc(slices.Clone(i.held), func(a netip.Addr) bool { return slices.Contains(addresses, a) })
	if len(i.held) == 0 {
		i.again.Stop()
		i.refresh.Stop()
		i.life.Stop()
		i.announced = time.Time{}
	}
	i.publish()
}

// putBack restores addresses that someone else has removed. The view may be older than our own last change; adding what
// is there does nothing.
func (i *instance) putBack(view nic.View) {
	var restored []netip.Addr
	defer func() { i.restored(restored) }()
	for _, a := range i.held {
		if view.On(i.port.Holder(), a) {
			continue
		}
		added, err := i.network.Add(i.port.Holder(), a, lifetime)
		if err != nil {
			i.retry.Reset(retryPause)
			i.fail(causeAddresses, err.Error())
			return
		}
		if added {
			restored = append(restored, a)
		}
	}
}

// takeOff removes addresses that stand here although this node is not master: put there by someone else, or left
// because the kernel refused to remove them. The view may be older than our own last change; removing what is not there
// does nothing.
func (i *instance) takeOff(view nic.View) {
	for _, a := range i.order.local.Addresses {
		if !view.On(i.port.Holder(), a) {
			continue
		}
		removed, err := i.network.Remove(i.port.Holder(), a)
		if err != nil {
			i.log.Error("remove address", logging.VIP(a.String()), logging.Device(i.port.Name), zap.Error(err))
		} else if removed {
			i.tamper(tamperAdded, "removed an address that the master holds", logging.VIP(a.String()), logging.Device(i.port.Name))
		}
	}
}

// announce tells the network where the addresses are, now and once more later, but not in step with a rival who sends
// adverts without end.
func (i *instance) announce() {
	if i.refused != nil {
		return
	}
	if now := time.Now(); i.announced.IsZero() || now.Sub(i.announced) >= announcePause {
		i.announced = now
		i.sendFrames(announceCopies)
	}
	i.again.Reset(announceAgain)
	i.announceLater()
}

// announceLater begins the time until the next refresh anew.
func (i *instance) announceLater() {
	if pause := i.order.local.Refresh; pause > 0 && len(i.held) > 0 {
		i.refresh.Reset(pause)
	}
}

// sendFrames tells the network that many times where the addresses are.
func (i *instance) sendFrames(copies int) {
	if i.wire == nil {
		return
	}
	for range copies {
		for _, a := range i.held {
			if err := i.wire.Announce(i.frames[a]); err != nil {
				i.log.Debug("announce an address", logging.VIP(a.String()), zap.Error(err))
			}
		}
	}
}

// claim is somebody who says to have an address of ours.
type claim struct {
	address netip.Addr
	mac     packet.MAC
}

// listenForClaims begins to hear who says to have the addresses.
func (i *instance) listenForClaims() {
	i.watchClaims()
	wire, closed := i.wire, i.closeWire
	i.goroutine.Go(func() {
		for {
			a, mac, err := wire.Claims()
			if err != nil {
				return
			}
			select {
			case i.claims <- claim{a, mac}:
			case <-closed:
				return
			}
		}
	})
}

func (i *instance) watchClaims() {
	if err := i.wire.Watch(i.order.local.Addresses); err != nil {
		i.log.Warn("claims to the addresses are not heard", logging.Device(i.port.Name), zap.Error(err))
	}
}

// claimed: another machine says to have an address that we hold. It may be one that died without letting go of it, whose
// kernel still answers; those who have heard it are told again whose the address is.
func (i *instance) claimed(c claim) {
	ours := slices.ContainsFunc(i.network.View().Cards, func(card nic.Card) bool { return card.MAC == c.mac })
	if i.state != fsm.Master || !slices.Contains(i.held, c.address) || ours || i.offer != nil {
		return
	}
	if time.Since(i.history[len(i.history)-1].At) < announcePause {
		return // two that have become master at once settle that between them
	}
	i.counters.claims.Add(1)
	if now := time.Now(); now.Sub(i.announced) >= announcePause {
		i.announced = now
		i.log.Warn("another machine claims a virtual address", logging.VIP(c.address.String()), zap.String("mac", net.HardwareAddr(c.mac[:]).String()))
		i.sendFrames(announceCopies)
	}
}
