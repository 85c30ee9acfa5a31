// Package steer answers: who takes new connections now, and why? It turns what is wanted into what the kernel shall have,
// by what is known of health, drains and open connections. Pure: the clock and the memory are handed in.
package steer

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Key names one real server of one service.
type Key struct {
	VIP  spec.VIP
	Real netip.AddrPort
}

// MarshalText makes keys of what is kept in a file.
func (k Key) MarshalText() ([]byte, error) {
	return []byte(k.VIP.String() + " " + k.Real.String()), nil
}

// UnmarshalText reads what MarshalText has made.
func (k *Key) UnmarshalText(text []byte) (err error) {
	vip, real, _ := strings.Cut(string(text), " ")
	if k.VIP, err = spec.ParseVIP(vip); err == nil {
		k.Real, err = netip.ParseAddrPort(real)
	}
	return err
}

// Health is what the checks say of a real server.
type Health uint8

// The states of health.
const (
	// Unknown: it has not been checked yet.
	Unknown Health = iota
	Up
	Down
)

func (h Health) String() string {
	switch h {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "unknown"
}

// World is what there is at one moment.
type World struct {
	Want spec.Want
	Have plan.Have
	// Health is asked for the real servers of services with a check.
	Health func(Key) Health
	// Open tells how many connections a real server has open, for a plane whose Have does not; nil, or false: it is not known.
	Open func(Key) (uint64, bool)
	Now  time.Time
	// Ceilings: the plane has no thresholds, and real servers that are full are taken out of the balance by what Open tells.
	Ceilings bool
	// Lending: the plane deals lc and wlc by a table; nil: it looks at the open connections itself.
	Lending *Lending
}

// Lending is what decides about the slots that are lent. All directors that could take over from each other have to deal by the same
// table: the one that holds a VIP decides, and the others follow.
type Lending struct {
	// Follow returns the loans of a service that have been told to this director, if it is to have those.
	Follow func(spec.VIP) ([]spec.Loan, bool)
	// Level tells whether this director is to take a step (slots.Level) for a service now: Open is of this moment.
	Level func(spec.VIP) bool
}

// Memory is what has to be kept from one moment to the next, and over a restart. Its zero value remembers nothing.
type Memory struct {
	// Leaving are the real servers that are not wanted any more and are in the kernel.
	Leaving map[Key]Leave `json:"leaving,omitempty"`
	// Lost are the services whose quorum is not met.
	Lost map[spec.VIP]bool `json:"lost,omitempty"`
	// Manners is how each service lets its real servers leave, for the time when the service itself is not wanted any more.
	Manners map[spec.VIP]Manner `json:"manners,omitempty"`
	// Full are the real servers that have as many connections as they may, on a plane without thresholds.
	Full map[Key]bool `json:"full,omitempty"`
	// Held are the VIPs whose address the node has, where there is another director. Whoever makes the course notes it.
	Held map[spec.VIP]bool `json:"held,omitempty"`
	// Warming are the real servers that are spared because they have begun to take connections, and when they did.
	Warming map[Key]time.Time `json:"warming,omitempty"`
}

// Manner is how real servers leave.
type Manner struct {
	Timeout time.Duration `json:"timeout"`
	Reset   bool          `json:"reset,omitempty"`
}

// Leave is one real server that leaves.
type Leave struct {
	// Until is when it is taken away although connections are open.
	Until time.Time `json:"until"`
	// Reset: those are cut then.
	Reset bool `json:"reset,omitempty"`
}

// Course is what shall be.
type Course struct {
	// Services is what the kernel shall have, in the order of VIP.
	Services []spec.Service
	// Reasons says of each real server in Services why it has its weight, and, with an empty Real, of a service what is
	// unusual about it.
	Reasons map[Key]string
	// Leaving and Limited are those whose open connections are to be counted until the next moment: those that leave, and those
	// that may be full.
	Leaving, Limited []Key
	// ByLoad are the real servers whose open connections decide what is lent, for as long as this director decides.
	ByLoad []Key
	// Stepped are the services whose slots were moved a step.
	Stepped []spec.VIP
	// Reset are those whose open connections shall be cut once the kernel gives them no new ones: that left with connections open, if
	// that is wanted, and, for UDP, that left or have died. A client that does not know of any end would send to them for ever.
	Reset []Key
	// Pending are the VIPs of services whose health is not known yet: no address of theirs comes up before.
	Pending map[netip.Addr]bool
	// ServiceLeaves: a whole service is leaving, so that no address may go.
	ServiceLeaves bool
	// Memory is what to remember.
	Memory Memory
}

// Steer sets the course.
func Steer(w World, m Memory) Course {
	s := steering{w: w, have: map[spec.VIP]map[netip.AddrPort]plan.Real{}, lent: map[spec.VIP][]spec.Loan{}, was: m, course: Course{
		Reasons: map[Key]string{}, Pending: map[netip.Addr]bool{},
		Memory: Memory{Leaving: map[Key]Leave{}, Lost: map[spec.VIP]bool{}, Manners: map[spec.VIP]Manner{}, Warming: map[Key]time.Time{}, Full: map[Key]bool{}},
	}}
	for _, h := range w.Have.Services {
		reals := make(map[netip.AddrPort]plan.Real, len(h.Reals))
		for _, r := range h.Reals {
			reals[r.Address] = r
		}
		s.have[h.VIP], s.lent[h.VIP] = reals, h.Lent
	}
	wanted, foreign := map[spec.VIP]bool{}, map[spec.VIP]bool{}
	for _, h := range w.Have.Services {
		foreign[h.VIP] = h.Foreign
	}
	for _, want := range w.Want.Services {
		wanted[want.VIP] = true
		if foreign[want.VIP] && want.Foreign != spec.Adopt {
			s.foreign(want)
			continue
		}
		s.service(want)
	}
	for _, have := range w.Have.Services {
		if !wanted[have.VIP] && !have.Foreign {
			s.leavingService(have)
		}
	}
	slices.SortFunc(s.course.Services, func(a, b spec.Service) int { return a.VIP.Compare(b.VIP) })
	return s.course
}

type steering struct {
	w World
	// have are the real servers that the kernel has, by VIP and address.
	have map[spec.VIP]map[netip.AddrPort]plan.Real
	// lent are the loans of the services in the kernel.
	lent   map[spec.VIP][]spec.Loan
	was    Memory
	course Course
}

// service decides about one wanted service.
func (s *steering) service(want spec.Service) {
	s.course.Memory.Manners[want.VIP] = Manner{want.DrainTimeout, want.ResetAfterDrain}
	have := s.have[want.VIP]
	now := want
	now.Reals = nil

	// Who could take connections, and who of them lives?
	var could, lives []spec.Real
	down, unknown := map[netip.AddrPort]bool{}, false
	for _, r := range want.Reals {
		if _, drained := s.w.Want.Drains[spec.Drain{Service: want.Name, Real: r.Address}]; drained || r.Weight == 0 {
			continue
		}
		could = append(could, r)
		health := Up
		if want.Check.Kind != spec.CheckNone {
			health = s.w.Health(Key{want.VIP, r.Address})
		}
		if health == Unknown {
			// Until its first check it counts for what the kernel takes it for; what a damaged kernel took it for is not known,
			// and nobody is cut off for that.
			unknown, health = true, Down
			if h, there := have[r.Address]; there && h.Weight > 0 || s.w.Have.Damage != "" {
				health = Up
			}
		}
		if health == Up {
			lives = append(lives, r)
		}
		down[r.Address] = health == Down
	}
	if unknown {
		s.course.Pending[want.VIP.Addr()] = true
	}
	lost := s.lost(want, lives, unknown)
	panics := !lost && want.Panic > 0 && len(lives)*100 < want.Panic*len(could)
	if panics {
		s.reason(want.VIP, netip.AddrPort{}, "panic: %d of %d live, health is ignored", len(lives), len(could))
	}

	for _, r := range want.Reals {
		reason, drained := s.w.Want.Drains[spec.Drain{Service: want.Name, Real: r.Address}]
		switch {
		case drained && reason != "":
			s.reason(want.VIP, r.Address, "no new connections: drained (%s)", reason)
		case drained:
			s.reason(want.VIP, r.Address, "no new connections: drained")
		case r.Weight == 0:
			s.reason(want.VIP, r.Address, "no new connections: its weight is 0")
		case lost:
			s.reason(want.VIP, r.Address, "no new connections: the quorum is not met")
		case down[r.Address] && !panics:
			s.reason(want.VIP, r.Address, "no new connections: its checks fail, or it has not been checked")
			if have[r.Address].Weight > 0 && want.VIP.Protocol == spec.UDP {
				s.course.Reset = append(s.course.Reset, Key{want.VIP, r.Address})
			}
		default:
			s.reason(want.VIP, r.Address, "takes connections")
			now.Reals = append(now.Reals, r)
			continue
		}
		r.Weight = 0
		now.Reals = append(now.Reals, r)
	}
	now.Reals = s.warm(want, now.Reals, panics)
	s.ceilings(want, now.Reals)
	if lost {
		s.reason(want.VIP, netip.AddrPort{}, "the quorum is not met, the sorry server takes all connections")
		s.reason(want.VIP, want.Sorry, "takes connections: sorry server")
		now.Reals = append(now.Reals, spec.Real{Address: want.Sorry, Weight: 1, Forward: want.SorryForward})
	}
	// Those that are not wanted any more take connections until somebody else does or all have been checked.
	var holds func(netip.AddrPort) bool
	if unknown && !slices.ContainsFunc(now.Reals, func(r spec.Real) bool { return r.Weight > 0 }) {
		holds = func(a netip.AddrPort) bool {
			_, drained := s.w.Want.Drains[spec.Drain{Service: want.Name, Real: a}]
			return !drained
		}
	}
	now.Reals = s.leave(want.VIP, now.Reals, holds)
	s.lend(&now)
	s.course.Services = append(s.course.Services, now)
}

// foreign leaves a wanted service alone that somebody else has made; plan has no changes for it.
func (s *steering) foreign(want spec.Service) {
	s.reason(want.VIP, netip.AddrPort{}, "somebody else made it, and it is left alone as wanted")
	s.course.Services = append(s.course.Services, want)
}

// lost decides whether the sorry server of a service takes over. While health is not known nothing changes.
func (s *steering) lost(want spec.Service, lives []spec.Real, unknown bool) bool {
	if !want.Sorry.IsValid() {
		return false
	}
	weight := 0
	for _, r := range lives {
		weight += r.Weight
	}
	was := s.was.Lost[want.VIP]
	lost := was
	switch {
	case was && weight >= want.Quorum+want.Hysteresis:
		lost = false
	case !was && !unknown && weight < want.Quorum-want.Hysteresis:
		lost = true
	}
	if lost {
		s.course.Memory.Lost[want.VIP] = true
	}
	return lost
}

// leavingService keeps a service that is not wanted any more for as long as it has connections.
func (s *steering) leavingService(have plan.Service) {
	reals := s.leave(have.VIP, nil, nil)
	if len(reals) == 0 {
		return
	}
	s.course.ServiceLeaves = true
	s.course.Memory.Manners[have.VIP] = s.was.Manners[have.VIP]
	s.reason(have.VIP, netip.AddrPort{}, "not wanted any more; its open connections are waited for")
	s.course.Services = append(s.course.Services, spec.Service{VIP: have.VIP, Scheduler: have.Scheduler, Persistence: have.Persistence, Reals: reals})
}

// leave adds the real servers that the kernel has, that are not among reals, and that may still have connections. Those that
// holds (nil: none) names keep the weight that they have, and do not leave yet.
func (s *steering) leave(vip spec.VIP, reals []spec.Real, holds func(netip.AddrPort) bool) []spec.Real {
	stays := func(a netip.AddrPort) bool {
		return slices.ContainsFunc(reals, func(r spec.Real) bool { return r.Address == a })
	}
	var going []spec.Real
	for _, address := range s.there(vip) {
		if stays(address) {
			continue
		}
		key := Key{vip, address}
		if h := s.have[vip][address]; holds != nil && h.Weight > 0 && holds(address) {
			s.course.Reasons[key] = "takes connections: not wanted any more, and those that are have not been checked"
			going = append(going, h.Real)
			continue
		}
		leave, known := s.was.Leaving[key]
		if !known {
			manner, ok := s.manner(vip)
			if !ok {
				manner.Timeout = spec.DefaultDrainTimeout
			}
			leave = Leave{Until: s.w.Now.Add(manner.Timeout), Reset: manner.Reset}
		}
		// Remembered until the kernel has it no more: a removal that fails is tried again, not begun anew.
		s.course.Memory.Leaving[key] = leave
		open, counted := s.open(key)
		switch {
		case known && counted && open == 0 && s.drained(key):
			continue
		case !s.w.Now.Before(leave.Until):
			if leave.Reset || vip.Protocol == spec.UDP {
				s.course.Reset = append(s.course.Reset, key)
			}
			continue
		}
		s.course.Leaving = append(s.course.Leaving, key)
		text := "no new connections: not wanted any more"
		if counted {
			text += fmt.Sprintf(", %d open", open)
		}
		s.course.Reasons[key] = text + ", until " + leave.Until.UTC().Format(time.RFC3339)
		gone := s.have[vip][address].Real // with its forwarding; nothing of it when the kernel's state is damaged
		gone.Address, gone.Weight = address, 0
		going = append(going, gone)
	}
	reals = append(reals, going...)
	slices.SortFunc(reals, func(a, b spec.Real) int { return a.Address.Compare(b.Address) })
	return reals
}

// manner is how a service lets its real servers leave: as it says, or said when it was wanted.
func (s *steering) manner(vip spec.VIP) (Manner, bool) {
	if m, ok := s.course.Memory.Manners[vip]; ok {
		return m, true
	}
	m, ok := s.was.Manners[vip]
	return m, ok
}

// there are the real servers of a service that may have connections: those in the kernel; those that were leaving, when the
// kernel's state is damaged.
func (s *steering) there(vip spec.VIP) (all []netip.AddrPort) {
	if s.w.Have.Damage != "" {
		for key := range s.was.Leaving {
			if key.VIP == vip {
				all = append(all, key.Real)
			}
		}
	} else {
		all = slices.Collect(maps.Keys(s.have[vip]))
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// drained: the kernel gives it no new connections.
func (s *steering) drained(key Key) bool {
	h, there := s.have[key.VIP][key.Real]
	return there && h.Weight == 0
}

// open tells how many connections a real server has.
func (s *steering) open(key Key) (uint64, bool) {
	if h := s.have[key.VIP][key.Real]; h.Active != nil {
		return *h.Active, true
	}
	if s.w.Open == nil {
		return 0, false
	}
	return s.w.Open(key)
}

func (s *steering) reason(vip spec.VIP, real netip.AddrPort, format string, args ...any) {
	s.course.Reasons[Key{vip, real}] = fmt.Sprintf(format, args...)
}
