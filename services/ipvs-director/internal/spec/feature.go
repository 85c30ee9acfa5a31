package spec

import (
	"fmt"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// Feature is something that a desired object can need of the data plane and that not every plane has. A plane declares what it
// has not; what it has, it does as is said here, or it does not do it at all.
type Feature string

// The features.
const (
	// FeatureUDP: services for UDP.
	FeatureUDP Feature = "udp"
	// FeatureIPv6: services for IPv6.
	FeatureIPv6 Feature = "ipv6"
	// FeatureMark: services by the mark of the packets.
	FeatureMark Feature = "fwmark"
	// FeaturePersistence: a client stays on one real server, by all or some of its address.
	FeaturePersistence Feature = "persistence"
	// FeatureThresholds: a real server is full at a number of connections, and takes new ones again below another.
	FeatureThresholds Feature = "thresholds"
	// FeatureDirect: forwarding by direct routing.
	FeatureDirect Feature = "direct"
	// FeatureIPIP, FeatureGUE and FeatureGRE: forwarding by a tunnel.
	FeatureIPIP Feature = "tunnel-ipip"
	FeatureGUE  Feature = "tunnel-gue"
	FeatureGRE  Feature = "tunnel-gre"
	// FeatureMixedFamilies: a real server of another family than the VIP, by a tunnel.
	FeatureMixedFamilies Feature = "mixed-families"
	// FeatureOnePacket: each datagram is dealt out anew.
	FeatureOnePacket Feature = "one-packet"
	// FeatureTimeouts: when connections are forgotten can be said.
	FeatureTimeouts Feature = "timeouts"
	// FeatureSync: directors tell each other of connections.
	FeatureSync Feature = "connection-sync"
)

// Feature is the need of a service with the scheduler.
func (s Scheduler) Feature() Feature { return Feature("scheduler-" + s) }

// Features are all that there are, in the order in which they are told to people.
var Features = func() []Feature {
	all := []Feature{FeatureUDP, FeatureIPv6, FeatureMark, FeaturePersistence, FeatureThresholds, FeatureDirect, FeatureIPIP, FeatureGUE, FeatureGRE, FeatureMixedFamilies,
		FeatureOnePacket, FeatureTimeouts, FeatureSync}
	for _, s := range Schedulers {
		all = append(all, s.Feature())
	}
	return all
}()

// Need is a field of the desired state that needs a feature.
type Need struct {
	// Field is the path of the field, as in a violation.
	Field   string
	Feature Feature
}

// Lacks says of the features that a plane has not, why not, for people.
type Lacks map[Feature]string

// Refuse names the fields that need what the plane of that name lacks.
func Refuse(needs []Need, plane string, lacks Lacks) (violations []*commonv1.Violation) {
	for _, n := range needs {
		if why, lacking := lacks[n.Feature]; lacking {
			violations = append(violations, &commonv1.Violation{Field: n.Field, Description: fmt.Sprintf("the data plane %s has no %s: %s", plane, n.Feature, why)})
		}
	}
	return violations
}

// Lacking is why a plane cannot have a service; empty: it can. It is for planes, which refuse what nobody has refused before.
// What it is about its real servers is for LackingReal.
func (l Lacks) Lacking(s Service) string { return l.first(serviceNeeds(s)) }

// LackingReal is why a plane cannot have a real server behind a service; empty: it can.
func (l Lacks) LackingReal(vip VIP, r Real) string { return l.first(realNeeds(vip, r)) }

// LackingTuning is why a plane cannot be tuned; empty: it can.
func (l Lacks) LackingTuning(f Feature) string { return l.first([]Feature{f}) }

func (l Lacks) first(features []Feature) string {
	for _, f := range features {
		if why, lacking := l[f]; lacking {
			return fmt.Sprintf("no %s: %s", f, why)
		}
	}
	return ""
}

func serviceNeeds(s Service) (needs []Feature) {
	if s.Scheduler != "" {
		needs = append(needs, s.Scheduler.Feature())
	}
	if s.VIP.Protocol == UDP {
		needs = append(needs, FeatureUDP)
	}
	if s.VIP.Is6() {
		needs = append(needs, FeatureIPv6)
	}
	if s.VIP.Mark != 0 {
		needs = append(needs, FeatureMark)
	}
	if s.Persistence != (Persistence{}) {
		needs = append(needs, FeaturePersistence)
	}
	if s.OnePacket {
		needs = append(needs, FeatureOnePacket)
	}
	return needs
}

func realNeeds(vip VIP, r Real) (needs []Feature) {
	if r.Upper != 0 || r.Lower != 0 {
		needs = append(needs, FeatureThresholds)
	}
	if f := r.Forward.feature(); f != "" {
		needs = append(needs, f)
	}
	if r.Address.Addr().Is6() != vip.Is6() {
		needs = append(needs, FeatureMixedFamilies)
	}
	return needs
}
