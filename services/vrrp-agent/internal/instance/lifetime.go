package instance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

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
	if i.renewing != nil {
		return // the kernel is still at the last one
	}
	index, held, done := i.port.Index, slices.Clone(i.held), make(chan renewed, 1)
	i.renewing = done
	i.goroutine.Go(func() {
		var r renewed
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

// afterRenewal takes in the result of a renewal.
func (i *instance) afterRenewal(r renewed) {
	if i.state != fsm.Master {
		return // it has ended just now, and the addresses are removed
	}
	i.restored(r.restored)
	if r.err != nil {
		i.retry.Reset(retryPause)
		i.fail(causeAddresses, r.err.Error())
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
	for _, a := range addresses {
		i.log.Warn("put back an address that was removed", logging.VIP(a.String()), logging.Device(i.port.Name))
	}
	if len(addresses) > 0 {
		i.announce()
	}
}

// wake comes before anything else when the goroutine goes on. A master that finds that it has not run for longer than its
// addresses live, nor sent an advert for as long as the most impatient backup waits, has been replaced: it stands back
// and listens first.
func (i *instance) wake() {
	now := time.Now()
	gap := now.Sub(i.awake)
	i.awake = now
	if i.state != fsm.Master || gap < lifetime {
		return
	}
	if patience := i.config.MasterDown() - i.config.Skew(); now.Sub(i.advertised) >= patience {
		i.step(fsm.Event{Kind: fsm.HeldUp}, fmt.Sprintf("did not run for %v", gap.Round(time.Millisecond)))
	}
}
