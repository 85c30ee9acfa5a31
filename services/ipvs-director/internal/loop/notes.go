package loop

import (
	"fmt"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// notes are the facts of the status that an operator would otherwise have to ask for.
func notes(wanted string, view View, want spec.Want) (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	chosen := view.Chosen
	if chosen == "" {
		chosen = "none"
	}
	add("data plane %s (asked for: %s)", chosen, wanted)
	for _, r := range view.Reports {
		if !r.Usable {
			add("data plane %s cannot be used: %s", r.Name, r.Reason)
		}
	}
	if !view.Observed {
		return all
	}
	if !view.Have.Host.Forwarding {
		add("net.ipv4.ip_forward is 0: this node passes no packets on")
	}
	if len(want.Services) == 0 {
		add("no virtual service is wanted: health becomes SERVING, and addresses may come, with the first")
	}
	for _, s := range view.Course.Services {
		if reason := view.Course.Reasons[steer.Key{VIP: s.VIP}]; reason != "" {
			add("service %s: %s", s.VIP, reason)
		}
		if !slices.ContainsFunc(s.Reals, func(r spec.Real) bool { return r.Weight > 0 }) {
			add("service %s: no real server takes connections, new ones are refused", s.VIP)
		}
	}
	for _, a := range want.Addresses {
		if view.Course.Pending[a.Prefix.Addr()] {
			add("address %s: waits until the real servers behind it have been checked", a.Prefix)
		}
	}
	for _, h := range view.Have.Services {
		if h.Foreign {
			add("service %s was made by somebody else and is left alone", h.VIP)
		}
	}
	all = append(all, foreignAddresses(want, view.Have.Host)...)
	return all
}

// foreignAddresses names the wanted addresses that are there through somebody else.
func foreignAddresses(want spec.Want, have plan.Host) (all []string) {
	for _, w := range want.Addresses {
		for _, h := range have.Addresses {
			if !h.Ours && h.Prefix.Addr() == w.Prefix.Addr() {
				all = append(all, fmt.Sprintf("address %s on %s was put there by somebody else and will stay when it is no longer wanted", h.Prefix, h.CardName))
			}
		}
	}
	return all
}
