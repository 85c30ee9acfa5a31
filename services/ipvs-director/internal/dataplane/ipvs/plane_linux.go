// Package ipvs is the data plane of the kernel's own IP Virtual Server. It is the only importer of the IPVS library,
// and trusts it with little: the library takes a kernel without IPVS for one that has accepted everything (its family
// number is then 0, a message to which the kernel says yes), so the family is asked for before each use.
//
// IPVS has no place for an owner's name. A service of this director bears a mark where IPVS keeps the timeout of
// persistent connections, a field that has no effect on a service without persistence. Services without the mark are
// somebody else's: left alone, unless the desired state names them.
package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/moby/ipvs"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// family is the name of IPVS among the generic netlink families: IPVS_GENL_NAME of include/uapi/linux/ip_vs.h.
	family = "IPVS"
	// mark is the persistence timeout, in seconds, of a service that this director made. See the package comment.
	mark = 0x7474
	// wholeAddress keeps clients apart; 0 would make all of them one.
	wholeAddress = 0xffffffff
	// hashed is IP_VS_SVC_F_HASHED, which the kernel sets itself and hands out.
	hashed = 0x2
	// fallback is IP_VS_SVC_F_SCHED_SH_FALLBACK and ..._MH_FALLBACK: a client whose real server has the weight 0 gets
	// another; without it the client is refused.
	fallback = 0x8
	// portToo is IP_VS_SVC_F_SCHED_MH_PORT: mh hashes the client's port beside its address.
	portToo = 0x10
	// exchangeTimeout bounds one Observe or Apply. The library itself waits without end for a lost reply.
	exchangeTimeout = 10 * time.Second
)

// Plane is the IPVS data plane of the network namespace that its methods are called in. One goroutine at a time.
type Plane struct{}

// Probe tells whether this kernel has IPVS and lets this process use it.
func Probe() dataplane.Report {
	r := dataplane.Report{Name: dataplane.IPVS, Lacks: lacks}
	if err := present(); err != nil {
		r.Reason = err.Error()
		return r
	}
	if err := exchange(context.Background(), func(h *ipvs.Handle) error { _, err := h.GetServices(); return err }); err != nil {
		r.Reason = fmt.Sprintf("IPVS is there, but this process may not use it: %v", err)
		return r
	}
	r.Usable, r.Reason = true, "generic netlink has the family "+family
	return r
}

// lacks are the features that the plane has not.
var lacks = func() spec.Lacks {
	l := spec.Lacks{}
	for _, f := range []spec.Feature{spec.FeatureUDP, spec.FeatureIPv6, spec.FeatureMark, spec.FeaturePersistence, spec.FeatureThresholds,
		spec.FeatureDirect, spec.FeatureIPIP, spec.FeatureGUE, spec.FeatureGRE, spec.FeatureMixedFamilies, spec.SED.Feature(), spec.NQ.Feature(),
		spec.DH.Feature(), spec.LBLC.Feature(), spec.LBLCR.Feature(), spec.FO.Feature(), spec.OVF.Feature(), spec.TWOS.Feature()} {
		l[f] = "the director does not use it there"
	}
	return l
}()

// present asks generic netlink for the family; the kernel loads the module if it has one.
func present() error {
	_, err := netlink.GenlFamilyGet(family)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no IPVS in this kernel: generic netlink has no family %s", family)
	}
	if err != nil {
		return fmt.Errorf("ask generic netlink for the family %s: %w", family, err)
	}
	return nil
}

// Open makes the plane. No service is changed.
func Open() *Plane {
	_ = speak() // a node that does not refuse is no reason not to serve
	return &Plane{}
}

// Close lets go of the kernel. The services stay and go on forwarding.
func (*Plane) Close() error { return nil }

// exchange runs f with a handle of its own: a handle that has lost a reply never recovers.
func exchange(ctx context.Context, f func(*ipvs.Handle) error) error {
	if err := present(); err != nil {
		return fmt.Errorf("%w: %w", dataplane.ErrUnusable, err)
	}
	// The library runs modprobe when it is first used and complains on stderr when there is none, which is so in every
	// container. Here the family is known to be there.
	logrus.SetOutput(io.Discard)
	h, err := ipvs.New("")
	if err != nil {
		return fmt.Errorf("open IPVS: %w", err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	// A closed handle makes the library give up at its next look at the socket.
	stop := context.AfterFunc(ctx, h.Close)
	defer stop()
	if err := f(h); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return ctx.Err()
}

// Observe lists the TCP services on IPv4 addresses. Services by firewall mark and of other protocols are not looked at.
func (*Plane) Observe(ctx context.Context) (have plan.Have, err error) {
	err = exchange(ctx, func(h *ipvs.Handle) error {
		have, err = observe(ctx, h)
		return err
	})
	return have, err
}

func observe(ctx context.Context, h *ipvs.Handle) (have plan.Have, err error) {
	listed, err := h.GetServices()
	if err != nil {
		return have, fmt.Errorf("list IPVS services: %w", err)
	}
	for _, l := range listed {
		if err := ctx.Err(); err != nil {
			return have, err
		}
		vip, ok := addrPort(l.Address, l.Port)
		if !ok || l.Protocol != unix.IPPROTO_TCP || l.FWMark != 0 {
			continue
		}
		s := plan.Service{VIP: spec.VIP{AddrPort: vip}, Scheduler: spec.Scheduler(l.SchedName), Foreign: l.Timeout != mark}
		if flags := l.Flags &^ hashed; flags != schedulerFlags(s.Scheduler) {
			s.Drift = fmt.Sprintf("flags 0x%x", flags)
		} else if l.Netmask != wholeAddress {
			s.Drift = fmt.Sprintf("netmask 0x%08x", l.Netmask)
		}
		reals, err := h.GetDestinations(l)
		if err != nil {
			return have, fmt.Errorf("list real servers of %s: %w", vip, err)
		}
		for _, d := range reals {
			address, ok := addrPort(d.Address, d.Port)
			if !ok {
				continue // only a foreign hand can put an IPv6 real server behind an IPv4 service
			}
			active := uint64(d.ActiveConnections)
			r := plan.Real{Real: spec.Real{Address: address, Weight: d.Weight}, Active: &active, Total: uint64(d.Stats.Connections)}
			if method := d.ConnectionFlags & ipvs.ConnectionFlagFwdMask; method != ipvs.ConnectionFlagMasq {
				r.Drift = fmt.Sprintf("forwarding method %d", method)
			} else if d.UpperThreshold != 0 || d.LowerThreshold != 0 {
				r.Drift = fmt.Sprintf("thresholds %d and %d", d.UpperThreshold, d.LowerThreshold)
			}
			s.Reals = append(s.Reals, r)
		}
		slices.SortFunc(s.Reals, func(a, b plan.Real) int { return a.Address.Compare(b.Address) })
		have.Services = append(have.Services, s)
	}
	slices.SortFunc(have.Services, func(a, b plan.Service) int { return a.VIP.Compare(b.VIP) })
	return have, nil
}

// Apply does the changes one by one; IPVS has no transactions.
func (p *Plane) Apply(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	if err := ctx.Err(); err != nil || len(changes) == 0 {
		return nil, err
	}
	err = exchange(ctx, func(h *ipvs.Handle) error {
		for _, c := range changes {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := dataplane.Check(c, lacks); err != nil {
				return err
			}
			if err := apply(ctx, h, c); err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			done = append(done, c)
		}
		return nil
	})
	return done, err
}

// Remove takes away the services with this director's mark, as a director that now uses another plane must. A kernel
// without IPVS is no error.
func (p *Plane) Remove(ctx context.Context) error {
	if present() != nil {
		return nil
	}
	have, err := p.Observe(ctx)
	if err != nil {
		return err
	}
	_, err = p.Apply(ctx, plan.Diff(spec.Want{}, have))
	return err
}

// apply does one change. What is done already is no error: EEXIST for an addition, ESRCH (no service) and ENOENT (no
// real server) for a removal.
func apply(ctx context.Context, h *ipvs.Handle, c plan.Change) error {
	s := service(c.VIP.AddrPort, c.Scheduler)
	d := destination(c.Real)
	switch c.Kind {
	case plan.Rebuild:
		have, err := observe(ctx, h)
		if err != nil {
			return err
		}
		for _, step := range plan.Diff(spec.Want{Services: c.Services}, have) {
			if err := apply(ctx, h, step); err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
		}
		return nil
	case plan.AddService, plan.SetService:
		err := h.NewService(s)
		if errors.Is(err, unix.EEXIST) {
			update := func() error { return h.UpdateService(s) }
			if c.Old != c.Scheduler {
				err = silently(update)
			} else {
				err = update()
			}
		}
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("this kernel has no IPVS scheduler %s: %w", c.Scheduler, err)
		}
		return err
	case plan.AddReal, plan.SetReal:
		err := h.NewDestination(s, d)
		if errors.Is(err, unix.EEXIST) {
			err = h.UpdateDestination(s, d)
		}
		return err
	case plan.RemoveReal:
		return unless(h.DelDestination(s, d), unix.ENOENT, unix.ESRCH)
	case plan.RemoveService:
		return unless(h.DelService(s), unix.ESRCH)
	default:
		return errors.New("not a change of a service")
	}
}

// unless drops the errors that mean: done already.
func unless(err error, done ...error) error {
	if slices.ContainsFunc(done, func(d error) bool { return errors.Is(err, d) }) {
		return nil
	}
	return err
}

func service(vip netip.AddrPort, scheduler spec.Scheduler) *ipvs.Service {
	return &ipvs.Service{
		Address: vip.Addr().AsSlice(), Port: vip.Port(), Protocol: unix.IPPROTO_TCP, AddressFamily: unix.AF_INET,
		SchedName: string(scheduler), Flags: schedulerFlags(scheduler), Netmask: wholeAddress, Timeout: mark,
	}
}

// schedulerFlags are those that a scheduler needs to do what spec says of it.
func schedulerFlags(s spec.Scheduler) uint32 {
	switch s {
	case spec.SH:
		return fallback
	case spec.MH:
		return fallback | portToo
	}
	return 0
}

func destination(r spec.Real) *ipvs.Destination {
	if !r.Address.IsValid() {
		return nil // the change is not about a real server
	}
	return &ipvs.Destination{
		Address: r.Address.Addr().AsSlice(), Port: r.Address.Port(), AddressFamily: unix.AF_INET,
		Weight: r.Weight, ConnectionFlags: ipvs.ConnectionFlagMasq,
	}
}

func addrPort(ip net.IP, port uint16) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a, port), ok && a.Is4()
}
