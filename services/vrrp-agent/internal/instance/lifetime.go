package instance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
)

const (
	// lifetime is how long the kernel keeps an address that the agent does not renew: an agent that is killed or frozen
	// loses its addresses without anybody's help. The kernel counts whole seconds, and looks up to a quarter of a second
	// late (check_lifetime in net/ipv4/devinet.c).
	lifetime = time.Second
	// renewal is the pause between two renewals: a process that waits for the processor has three of them to spare.
	renewal = lifetime / 4
)

// renewed is the result of a renewal.
type renewed struct {
	restored []netip.Addr // those that were not there
	err      error
}

// renew begins the lifetime of the addresses anew. That the instance's goroutine comes by here is what keeps them; the
// calls are made beside it, because the kernel can be busy for longer than an advert interval.
func (i *instance) renew() {
	if len(i.held) == 0 {
		return
	}
	i.life.Reset(renewal)
	i.watched()
	if i.renewing != nil {
		return // the kernel is still at the last one
	}
	worn := i.port.Worn
	index, held, done := i.port.Holder(), slices.Clone(i.held), make(chan renewed, 1)
	i.renewing = done
	i.goroutine.Go(func() {
		var r renewed
		if worn != 0 {
			r.err = i.network.Switch(worn, true) // the warden may have switched it off
		}
		for _, a := range held {
			added, err := i.network.Add(index, a, lifetime)
			if added {
				r.restored = append(r.restored, a)
			}
			r.err = errors.Join(r.err, err)
		}
		done <- r
	})
}

// watched tells the warden what this instance holds.
func (i *instance) watched() {
	for _, r := range i.routes {
		i.guard.HoldRoute(i.order.local.VirtualRouterID, i.order.local.V6(), r, i.patience())
	}
	for _, a := range i.held {
		i.guard.Hold(i.order.local.VirtualRouterID, a.Is6(), i.port.Holder(), a, i.patience())
	}
}

// afterRenewal takes in the result of a renewal.
func (i *instance) afterRenewal(r renewed) {
	if i.state != fsm.Master {
		return // it has ended just now, and the addresses are removed
	}
	i.restored(r.restored)
	err := r.err
	if err != nil && i.port.Worn != 0 { // the card may be gone, and its event still on the way
		err = i.onNewCard()
	}
	if err != nil {
		i.retry.Reset(retryPause)
		i.fail(causeAddresses, err.Error())
	}
}

// awaitRenewal waits for the renewal that is under way: it would bring back what is removed now. Its result is of no
// interest any more.
func (i *instance) awaitRenewal() {
	if i.renewing != nil {
		<-i.renewing
		i.renewing = nil
	}
}

// restored tells of addresses that were put back.
func (i *instance) restored(addresses []netip.Addr) {
	if len(addresses) > 0 {
		i.tamper(tamperRemoved, "put back an address that was removed", zap.Stringers("addresses", addresses), logging.Device(i.port.Name))
		i.announce()
		i.putBackRoutes() // those from the address went with it
	}
}

// wake comes before anything else when the goroutine goes on. A master that finds that it has not run, nor sent an advert,
// for as long as the most impatient backup waits, has been replaced: it lets go and listens first. Where adverts are
// rarer than addresses live, the socket tells of the other one in time.
func (i *instance) wake() {
	now, asleep := time.Now(), i.network.Asleep()
	slept := asleep - i.asleep
	gap := now.Sub(i.awake) + slept
	i.awake, i.asleep = now, asleep
	if i.state != fsm.Master || gap < i.patience() {
		return
	}
	if now.Sub(i.advertised)+slept >= i.othersWait() {
		i.step(fsm.Event{Kind: fsm.HeldUp}, because(fmt.Sprintf("did not run for %v", gap.Round(time.Millisecond))))
	}
}

// settleIn comes when the addresses have been taken from a master that hands over. The kernel can be busy with them for
// longer than other backups wait for an advert, but the old master speaks until it is told, and so nobody has replaced
// this one; after offerSure somebody may have.
func (i *instance) settleIn() {
	now, asleep := time.Now(), i.network.Asleep()
	if now.Sub(i.awake)+asleep-i.asleep >= offerSure {
		i.wake()
		return
	}
	i.awake, i.asleep = now, asleep
	i.send(i.advert, false)
}

// othersWait is how long the most impatient backup waits for an advert of ours.
func (i *instance) othersWait() time.Duration { return i.config.MasterDown() - i.config.Skew() }

// patience is how long this instance may be silent, with its addresses, before something is wrong with it.
func (i *instance) patience() time.Duration { return min(i.othersWait(), lifetime) }

// beat tells the warden that this instance lives.
func (i *instance) beat() {
	i.guard.Beat(i.order.local.VirtualRouterID, i.order.local.V6(), i.patience())
}
