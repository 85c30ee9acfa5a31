// Package ipvs is the data plane of the kernel's own IP Virtual Server. It is the only importer of the IPVS library, which
// writes services. What the library lacks goes through messages of our own (package ipvsmsg): all reading, and real servers, whose
// families and tunnels it does not know and of which it sends one at a time. The library takes a kernel without IPVS for one
// that has accepted everything (its family number is then 0, a message to which the kernel says yes), so the family is asked
// for before each use.
//
// IPVS has no place for an owner's name. A service of this director bears a mark in flags that the kernel keeps and does not
// look at. Services without the mark are somebody else's: left alone, unless the desired state names them.
package ipvs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/moby/ipvs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/ipvsmsg"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The flags of a service, IP_VS_SVC_F_... of include/uapi/linux/ip_vs.h, and our own.
const (
	// persistent keeps clients on their real servers.
	persistent = 0x1
	// hashed is set by the kernel itself, and handed out.
	hashed = 0x2
	// onePacket deals out each datagram anew.
	onePacket = 0x4
	// fallback (..._SCHED_SH_FALLBACK, ..._SCHED_MH_FALLBACK): a client whose real server has the weight 0 gets another;
	// without it the client is refused.
	fallback = 0x8
	// portToo (..._SCHED_MH_PORT): mh hashes the client's port beside its address.
	portToo = 0x10
	// mark is of a service that this director made; see the package comment.
	mark = 0x74740000
)

// exchangeTimeout bounds one exchange. The library itself waits without end for a lost reply.
const exchangeTimeout = 10 * time.Second

// Plane is the IPVS data plane of the network namespace that its methods are called in. One goroutine at a time.
type Plane struct{}

// Probe tells whether this kernel has IPVS and lets this process use it, and which schedulers it has. The kernel loads those
// that are modules.
func Probe() dataplane.Report {
	r := dataplane.Report{Name: dataplane.IPVS}
	s, err := open()
	if err != nil {
		r.Reason = err.Error()
		return r
	}
	_, err = s.ask(ipvsmsg.AskTimeouts(s.family))
	if err == nil {
		r.Lacks, err = lacks(s)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		r.Reason = fmt.Sprintf("IPVS is there, but this process may not use it: %v", err)
		return r
	}
	r.Usable, r.Reason = true, "generic netlink has the family "+ipvsmsg.Name
	return r
}

// lacks asks for all that a kernel can be built without.
func lacks(s *socket) (spec.Lacks, error) {
	lacks := spec.Lacks{}
	for _, scheduler := range spec.Schedulers {
		_, err := s.ask(ipvsmsg.AskScheduler(s.family, string(scheduler)))
		switch {
		case errors.Is(err, unix.EINVAL): // it is there
		case errors.Is(err, unix.ENOENT):
			lacks[scheduler.Feature()] = "this kernel has no IPVS scheduler " + string(scheduler)
		case errors.Is(err, unix.EAFNOSUPPORT):
			const why = "the IPVS of this kernel has no IPv6"
			lacks[spec.FeatureIPv6], lacks[spec.FeatureMixedFamilies] = why, why
		case err == nil:
			return nil, fmt.Errorf("scheduler %s: the kernel has taken a service without a netmask", scheduler)
		default:
			return nil, fmt.Errorf("scheduler %s: %w", scheduler, err)
		}
	}
	return lacks, nil
}

// Open makes the plane. No service is changed.
func Open() *Plane {
	_ = speak() // a node that does not refuse is no reason not to serve
	return &Plane{}
}

// Close lets go of the kernel. The services stay and go on forwarding.
func (*Plane) Close() error { return nil }

// Observe lists the services for TCP, UDP and marks. Others are not looked at.
func (*Plane) Observe(ctx context.Context) (have plan.Have, err error) {
	s, err := enter()
	if err != nil {
		return have, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return observe(ctx, s)
}

func observe(ctx context.Context, s *socket) (have plan.Have, err error) {
	listed, err := list(ctx, s.ask, ipvsmsg.AskServices(s.family), ipvsmsg.ParseService)
	if err != nil {
		return have, fmt.Errorf("list IPVS services: %w", err)
	}
	for _, l := range listed {
		service, ok := seen(l)
		if !ok {
			continue
		}
		reals, err := list(ctx, s.ask, ipvsmsg.AskDestinations(s.family, l), ipvsmsg.ParseDestination)
		if err != nil {
			return have, fmt.Errorf("list real servers of %s: %w", service.VIP, err)
		}
		for _, d := range reals {
			service.Reals = append(service.Reals, seenReal(d))
		}
		slices.SortFunc(service.Reals, func(a, b plan.Real) int { return a.Address.Compare(b.Address) })
		have.Services = append(have.Services, service)
	}
	slices.SortFunc(have.Services, func(a, b plan.Service) int { return a.VIP.Compare(b.VIP) })
	have.Tuning, err = tuning(ctx, s)
	return have, err
}

// seen is what a service of the kernel is in our words; false: none that could be ours.
func seen(l ipvsmsg.Service) (s plan.Service, ok bool) {
	s = plan.Service{VIP: spec.VIP{AddrPort: l.VIP, Mark: l.Mark}, Scheduler: spec.Scheduler(l.Scheduler), OnePacket: l.Flags&onePacket != 0,
		Foreign: l.Flags&mark != mark}
	whole := 32
	if l.Family == ipvsmsg.IPv6 {
		whole = 128
		s.VIP.Mark6 = l.Mark != 0
	}
	switch {
	case l.Mark != 0 || l.Protocol == unix.IPPROTO_TCP:
	case l.Protocol == unix.IPPROTO_UDP:
		s.VIP.Protocol = spec.UDP
	default:
		return s, false
	}
	if l.Flags&persistent != 0 {
		s.Persistence = spec.Persistence{Timeout: time.Duration(l.Timeout) * time.Second, Prefix: l.PrefixLength}
	} else if l.PrefixLength != whole {
		s.Drift = fmt.Sprintf("netmask of %d bits", l.PrefixLength)
	}
	if flags := l.Flags &^ (persistent | hashed | onePacket | mark); flags != schedulerFlags(s.Scheduler) {
		s.Drift = fmt.Sprintf("flags 0x%x", flags)
	}
	if l.Engine != "" {
		s.Drift = "persistence engine " + l.Engine
	}
	return s, true
}

// seenReal is what a real server of the kernel is in our words.
func seenReal(d ipvsmsg.Destination) plan.Real {
	active := uint64(d.Active)
	r := plan.Real{
		Real:   spec.Real{Address: d.Address, Weight: int(d.Weight), Upper: d.Upper, Lower: d.Lower},
		Active: &active, Total: d.Statistics.Connections,
		Traffic: &plan.Traffic{PacketsIn: d.Statistics.PacketsIn, PacketsOut: d.Statistics.PacketsOut, BytesIn: d.Statistics.BytesIn, BytesOut: d.Statistics.BytesOut},
	}
	switch d.Forwarding {
	case ipvsmsg.Masquerade:
	case ipvsmsg.Direct:
		r.Forward.Method = spec.Direct
	case ipvsmsg.Tunnelled:
		r.Forward = spec.Forward{Method: spec.ByTunnel, Tunnel: spec.TunnelType(d.Tunnel.Kind), Port: d.Tunnel.Port}
		switch {
		case d.Tunnel.Kind > ipvsmsg.GRE:
			r.Drift = fmt.Sprintf("tunnel type %d", d.Tunnel.Kind)
			r.Forward = spec.Forward{}
		case d.Tunnel.Flags == ipvsmsg.Checksum:
			r.Forward.Checksum = spec.WholeChecksum
		case d.Tunnel.Flags == ipvsmsg.RemoteChecksum:
			r.Forward.Checksum = spec.RemoteChecksum
		case d.Tunnel.Flags != 0:
			r.Drift = fmt.Sprintf("tunnel flags %d", d.Tunnel.Flags)
		}
	default:
		r.Drift = fmt.Sprintf("forwarding method %d", d.Forwarding)
	}
	return r
}

const (
	// changesPerExchange keeps one exchange far below its time, also where everything is slow.
	changesPerExchange = 1000
	// realsPerDatagram bounds those that are sent together; what is refused of them has room in the buffer of the socket.
	realsPerDatagram = 100
)

// Apply does the changes in their order; IPVS has no transactions. Real servers of which the same is asked go to the kernel
// together: after an error those of them that follow are done all the same, and nothing else.
func (p *Plane) Apply(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for n := 0; n < len(changes); n += changesPerExchange {
		made, err := p.applySome(ctx, changes[n:min(n+changesPerExchange, len(changes))])
		if err != nil {
			return slices.Concat(changes[:n], made), err
		}
	}
	return changes, nil
}

// applySome does changes in one exchange.
func (*Plane) applySome(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	err = exchange(ctx, func(k kernel) error {
		done, err = k.apply(ctx, changes)
		return err
	})
	return done, err
}

// Remove takes away the services with this director's mark, as a director that now uses another plane must. A kernel
// without IPVS is no error.
func (p *Plane) Remove(ctx context.Context) error {
	have, err := p.Observe(ctx)
	if errors.Is(err, errNoIPVS) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = p.Apply(ctx, plan.Diff(spec.Want{}, have))
	return err
}

// kernel is both ways to speak to it.
type kernel struct {
	library *ipvs.Handle
	socket  *socket
}

// exchange runs f with handles of its own: one that has lost a reply never recovers.
func exchange(ctx context.Context, f func(kernel) error) (err error) {
	s, err := enter()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
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
	if err := f(kernel{library: h, socket: s}); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return ctx.Err()
}

// apply does changes in their order.
func (k kernel) apply(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	for n := 0; n < len(changes); {
		if err := ctx.Err(); err != nil {
			return changes[:n], err
		}
		if alike := realsAlike(changes[n:]); alike > 0 {
			if made, err := k.reals(changes[n : n+alike]); err != nil {
				return slices.Concat(changes[:n], made), err
			}
			n += alike
			continue
		}
		if err := k.one(ctx, changes[n]); err != nil {
			return changes[:n], fmt.Errorf("%s: %w", changes[n], err)
		}
		n++
	}
	return changes, nil
}

// orders are the commands for the changes of real servers.
var orders = map[plan.Kind]uint8{
	plan.AddReal: ipvsmsg.NewDestination, plan.SetReal: ipvsmsg.SetDestination, plan.RemoveReal: ipvsmsg.DeleteDestination,
}

// realsAlike is how many changes at the beginning ask the same of real servers. None of them can do harm when one before was refused.
// A weight that grows and one that shrinks are not the same.
func realsAlike(changes []plan.Change) (n int) {
	alike := func(a, b plan.Change) bool { return a.Kind == b.Kind && shrinks(a) == shrinks(b) }
	if orders[changes[0].Kind] == 0 {
		return 0
	}
	for n < min(len(changes), realsPerDatagram) && alike(changes[0], changes[n]) {
		n++
	}
	return n
}

func shrinks(c plan.Change) bool { return c.Kind == plan.SetReal && c.Real.Weight < c.OldReal.Weight }

// reals does changes of one kind together. What is done already is no error.
func (k kernel) reals(changes []plan.Change) (done []plan.Change, err error) {
	requests := make([]ipvsmsg.Request, 0, len(changes))
	for _, c := range changes {
		requests = append(requests, k.order(orders[c.Kind], c))
	}
	refused, err := k.socket.order(requests)
	if err != nil {
		return nil, fmt.Errorf("%s and %d more: %w", changes[0], len(changes)-1, err)
	}
	for i, c := range changes {
		refusal := refused[i]
		switch {
		case c.Kind == plan.RemoveReal:
			refusal = unless(refusal, unix.ENOENT, unix.ESRCH) // ESRCH: there is no such service
		case c.Kind == plan.AddReal && errors.Is(refusal, unix.EEXIST):
			_, refusal = k.socket.ask(k.order(ipvsmsg.SetDestination, c))
		case c.Kind == plan.SetReal && errors.Is(refusal, unix.ENOENT):
			_, refusal = k.socket.ask(k.order(ipvsmsg.NewDestination, c))
		}
		switch {
		case refusal == nil:
			done = append(done, c)
		case err == nil:
			err = fmt.Errorf("%s: %w", c, refusal)
		}
	}
	return done, err
}

func (k kernel) order(command uint8, c plan.Change) ipvsmsg.Request {
	return ipvsmsg.ChangeDestination(k.socket.family, command, identity(c.VIP), message(c.Real))
}

// one does one change of another kind than real servers. What is done already is no error: EEXIST for an addition, ESRCH for a
// removal.
func (k kernel) one(ctx context.Context, c plan.Change) error {
	switch c.Kind {
	case plan.Rebuild:
		have, err := observe(ctx, k.socket)
		if err != nil {
			return err
		}
		_, err = k.apply(ctx, plan.Diff(spec.Want{Services: c.Services}, have))
		return err
	case plan.AddService, plan.SetService:
		s := service(c.Service())
		err := k.library.NewService(s)
		if errors.Is(err, unix.EEXIST) {
			update := func() error { return k.library.UpdateService(s) }
			if c.Old != c.Scheduler {
				err = silently(update)
			} else {
				err = update()
			}
		}
		switch {
		case errors.Is(err, unix.ENOENT):
			return fmt.Errorf("%w: this kernel has no IPVS scheduler %s: %w", dataplane.ErrLacks, c.Scheduler, err)
		case errors.Is(err, unix.EAFNOSUPPORT):
			return fmt.Errorf("%w: the IPVS of this kernel has no IPv6: %w", dataplane.ErrLacks, err)
		}
		return err
	case plan.RemoveService:
		return unless(k.library.DelService(service(c.Service())), unix.ESRCH)
	case plan.SetTimeouts:
		return k.setTimeouts(c.Timeouts)
	case plan.StartSync:
		return k.startSync(ctx, c.Daemon)
	case plan.StopSync:
		return k.stopSync(ctx, c.Daemon)
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

// service is one in the words of the library.
func service(of spec.Service) *ipvs.Service {
	vip, persistence := of.VIP, of.Persistence
	s := &ipvs.Service{AddressFamily: unix.AF_INET, SchedName: string(of.Scheduler), Flags: mark | schedulerFlags(of.Scheduler), FWMark: vip.Mark}
	if of.OnePacket {
		s.Flags |= onePacket
	}
	if vip.Mark == 0 {
		s.Address, s.Port, s.Protocol = vip.Addr().AsSlice(), vip.Port(), unix.IPPROTO_TCP
		if vip.Protocol == spec.UDP {
			s.Protocol = unix.IPPROTO_UDP
		}
	}
	if persistence != (spec.Persistence{}) {
		s.Flags |= persistent
		s.Timeout = uint32(persistence.Timeout / time.Second)
	}
	// What of a client's address counts: all of it without persistence, or all clients would be one.
	bits := persistence.Prefix
	switch {
	case vip.Is6() && bits == 0:
		bits = 128
	case bits == 0:
		bits = 32
	}
	if vip.Is6() {
		s.AddressFamily, s.Netmask = unix.AF_INET6, uint32(bits)
	} else {
		s.Netmask = netmask(bits)
	}
	return s
}

// netmask is that of so many bits of an IPv4 address, in network byte order as the kernel has it.
func netmask(bits int) uint32 { return binary.NativeEndian.Uint32(net.CIDRMask(bits, 32)) }

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

// identity is what a service is found by, in the words of the messages.
func identity(vip spec.VIP) ipvsmsg.Service {
	s := ipvsmsg.Service{Family: ipvsmsg.IPv4, Mark: vip.Mark, VIP: vip.AddrPort, Protocol: unix.IPPROTO_TCP}
	if vip.Is6() {
		s.Family = ipvsmsg.IPv6
	}
	if vip.Protocol == spec.UDP {
		s.Protocol = unix.IPPROTO_UDP
	}
	return s
}

// message is a real server in the words of the messages.
func message(r spec.Real) ipvsmsg.Destination {
	return ipvsmsg.Destination{
		Address: r.Address, Weight: uint32(r.Weight), Upper: r.Upper, Lower: r.Lower, Forwarding: methods[r.Forward.Method],
		Tunnel: ipvsmsg.Tunnel{Kind: ipvsmsg.TunnelKind(r.Forward.Tunnel), Port: r.Forward.Port, Flags: checksums[r.Forward.Checksum]},
	}
}

var methods = map[spec.Method]ipvsmsg.Forwarding{
	spec.Masquerade: ipvsmsg.Masquerade, spec.Direct: ipvsmsg.Direct, spec.ByTunnel: ipvsmsg.Tunnelled,
}

var checksums = map[spec.TunnelChecksum]ipvsmsg.TunnelFlags{
	spec.NoChecksum: 0, spec.WholeChecksum: ipvsmsg.Checksum, spec.RemoteChecksum: ipvsmsg.RemoteChecksum,
}
