package instance

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// addRoutes makes the routes of the instance. They come behind the addresses, from which they may start. With an error
// the step ends in fault.
func (i *instance) addRoutes() {
	for _, wanted := range i.order.local.Routes {
		r, err := i.route(wanted)
		if err == nil && slices.Contains(i.routes, r) {
			continue
		}
		if err == nil {
			i.guard.HoldRoute(i.order.local.VirtualRouterID, i.order.local.V6(), r, i.patience())
			if _, err = i.network.AddRoute(r); err != nil {
				i.guard.ReleaseRoute(i.order.local.VirtualRouterID, i.order.local.V6(), r)
			}
		}
		if err != nil {
			i.refused = err
			return
		}
		i.routes = append(i.routes, r)
	}
}

// route finds the card of a route.
func (i *instance) route(r spec.Route) (nic.Route, error) {
	if !r.Via.IsValid() || r.Via.Is6() && r.Via.IsLinkLocalUnicast() { // which every card could reach
		return nic.Route{Route: r, Index: i.port.Index}, nil
	}
	port, ok := i.network.View().Toward(r.Via)
	if !ok {
		return nic.Route{}, fmt.Errorf("route %v: no network card has an address in a subnet with %v", r, r.Via)
	}
	return nic.Route{Route: r, Index: port.Index}, nil
}

// removeRoutes takes routes away, before the addresses from which they start.
func (i *instance) removeRoutes(gone func(nic.Route) bool) {
	for _, r := range i.routes {
		if !gone(r) {
			continue
		}
		if _, err := i.network.RemoveRoute(r); err != nil { // the next start tries again
			i.log.Error("remove route", logging.Route(r.String()), zap.Error(err))
		}
		i.guard.ReleaseRoute(i.order.local.VirtualRouterID, i.order.local.V6(), r)
	}
	i.routes = slices.DeleteFunc(slices.Clone(i.routes), gone)
}

// putBackRoutes restores routes that somebody else has removed, or the kernel with a card or an address.
func (i *instance) putBackRoutes() {
	if len(i.held) < len(i.order.local.Addresses) {
		return // they come with the addresses
	}
	for _, r := range i.routes {
		added, err := i.network.AddRoute(r)
		if err != nil {
			i.retry.Reset(retryPause)
			i.fail(causeAddresses, err.Error())
			return
		}
		if added {
			i.tamper(tamperRemovedRoute, "put back a route that was removed", logging.Route(r.String()))
		}
	}
}

// takeOffRoutes removes routes that stand here although this node is not master.
func (i *instance) takeOffRoutes() {
	for _, wanted := range i.order.local.Routes {
		r, err := i.route(wanted)
		if err != nil {
			continue // there is no card that it could be on
		}
		if removed, err := i.network.RemoveRoute(r); err != nil {
			i.log.Error("remove route", logging.Route(r.String()), zap.Error(err))
		} else if removed {
			i.tamper(tamperAddedRoute, "removed a route that the master has", logging.Route(r.String()))
		}
	}
}
