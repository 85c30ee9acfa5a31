package instance

import (
	"fmt"
	"net/netip"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// virtualMAC is the Ethernet address of the instance, if it has one of its own.
func (i *instance) virtualMAC() (mac packet.MAC, has bool) {
	l := i.order.local
	return packet.VirtualMAC(l.VirtualRouterID, l.V6()), l.VirtualMAC
}

// worn is the port with the virtual Ethernet address, and with the card that bears it at present.
func (i *instance) worn(p nic.Port) nic.Port {
	if mac, has := i.virtualMAC(); has {
		p.MAC, p.Worn = mac, i.port.Worn
	}
	return p
}

// wear gets the card with the virtual Ethernet address, if the instance has one.
func (i *instance) wear() error {
	mac, has := i.virtualMAC()
	if !has {
		return nil
	}
	name := fmt.Sprintf("vrrp.%d", i.order.local.VirtualRouterID)
	if i.order.local.V6() {
		name = fmt.Sprintf("vrrp6.%d", i.order.local.VirtualRouterID)
	}
	index, err := i.network.Wear(i.port, name, mac)
	if err != nil {
		return err
	}
	if gone := i.port.Worn; gone != 0 && gone != index { // with what stood on it
		for _, a := range i.held {
			i.guard.Release(i.order.local.VirtualRouterID, a.Is6(), gone, a)
		}
	}
	i.port.Worn = index
	if i.order.local.AdvertsFromCard {
		return nil
	}
	return i.wire.Via(index)
}

// switchOn switches it on: it is on while this node is master and no longer, so that nobody else takes in what is sent to
// the address, and the switch has one place for it. A card that somebody has removed is made anew.
func (i *instance) switchOn() error {
	if i.port.Worn == 0 || i.network.Switch(i.port.Worn, true) == nil {
		return nil
	}
	if err := i.wear(); err != nil {
		return err
	}
	return i.network.Switch(i.port.Worn, true)
}

// onNewCard puts the addresses back together with the card that bears them.
func (i *instance) onNewCard() error {
	if err := i.switchOn(); err != nil {
		return err
	}
	var all []netip.Addr
	for _, a := range i.held {
		added, err := i.network.Add(i.port.Holder(), a, lifetime)
		if err != nil {
			return err
		}
		if added {
			all = append(all, a)
		}
	}
	i.restored(all)
	return nil
}

func (i *instance) switchOff() {
	if i.port.Worn == 0 {
		return
	}
	if err := i.network.Switch(i.port.Worn, false); err != nil {
		i.log.Debug("leave the virtual Ethernet address", logging.Device(i.port.Name), zap.Error(err)) // it is gone
	}
}

// refuse notes an error that puts the instance in fault at the end of the present step.
func (i *instance) refuse(err error) {
	if err != nil {
		i.refused = err
	}
}

// doff gives the card up.
func (i *instance) doff() {
	if i.port.Worn == 0 {
		return
	}
	if err := i.network.Doff(i.port.Worn); err != nil {
		i.log.Warn("remove the card with the virtual Ethernet address", logging.Device(i.port.Name), zap.Error(err))
	}
	i.port.Worn = 0
}
