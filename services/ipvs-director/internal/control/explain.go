package control

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// Explain tells which real server a connection has or would get.
func (d *director) Explain(ctx context.Context, request *directorv1.ExplainRequest) (*directorv1.ExplainResponse, error) {
	client, err := netip.ParseAddrPort(request.GetClient())
	if err != nil {
		return nil, badField("client", "want ADDRESS:PORT, got %q", request.GetClient())
	}
	vip, err := spec.ParseVIP(request.GetVip())
	switch {
	case err != nil:
		return nil, badField("vip", "%v", err)
	case vip.Is6() != client.Addr().Is6():
		return nil, badField("client", "%s is of another family than the VIP", client)
	}
	view, err := d.observed()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(view.Have.Services, func(s plan.Service) bool { return s.VIP == vip })
	if at < 0 {
		return nil, status.Errorf(codes.NotFound, "no service has the VIP %s", vip)
	}
	have := view.Have.Services[at]
	answer := &directorv1.ExplainResponse{Service: name(view.Course.Services, vip)}
	say := func(format string, args ...any) {
		answer.Reasons = append(answer.Reasons, fmt.Sprintf(format, args...))
	}

	real, found, err := d.world.Find(ctx, client, vip)
	told, isTold := view.Kept[kept.Ends{Client: client, VIP: vip}]
	remembered, keeps := netip.AddrPort{}, false
	if err == nil && !found && have.Persistence != (spec.Persistence{}) {
		if remembered, keeps, err = d.world.Remembered(ctx, client.Addr(), vip, have.Persistence.Prefix); keeps && !takes(have, remembered) {
			say("the client is remembered at %s, which takes no new connections", remembered)
			keeps = false
		}
	}
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "the kernel's connections cannot be read: %v", err)
	case found:
		answer.RealServer, answer.Established = real.String(), true
		say("the kernel has this connection; whatever changes, it goes on there")
	case isTold:
		answer.RealServer = told.String()
		say("another director has told of this connection, which began before its slot moved: it goes on there; a new one would be dealt anew")
	case keeps:
		answer.RealServer = remembered.String()
		say("persistence %s: the client is remembered and stays there", have.Persistence)
	case view.Chosen == dataplane.IPVS:
		say("the kernel's scheduler %s decides when the connection is made", have.Scheduler)
	default:
		table := slots.Of(service(have))
		if slot, ok := table.Slot(client); ok {
			answer.RealServer = table.Slots[slot].String()
			say("%s: the hash of the client leads to slot %d of %d", have.Scheduler, slot, len(table.Slots))
		} else if len(table.Slots) > 0 {
			say("%s deals in turn; whose turn it will be is not known before", have.Scheduler)
		} else {
			say("nobody takes new connections: refused")
		}
	}
	if note := view.Course.Reasons[steer.Key{VIP: vip}]; note != "" {
		say("%s", note)
	}
	for _, r := range have.Reals {
		say("%s, weight %d: %s", r.Address, r.Weight, view.Course.Reasons[steer.Key{VIP: vip, Real: r.Address}])
	}
	return answer, nil
}

// Simulate tells what would be different if an object were applied.
func (d *director) Simulate(ctx context.Context, request *directorv1.SimulateRequest) (*directorv1.SimulateResponse, error) {
	if _, err := d.PreviewObject(ctx, request.GetObject()); err != nil {
		return nil, err // it says what is wrong
	}
	view, err := d.observed()
	if err != nil {
		return nil, err
	}
	snapshot, err := d.Imagine([]proto.Message{request.GetObject()}, nil)
	if err != nil {
		return nil, err
	}
	then := d.world.Would(snapshot)
	now := map[spec.VIP]spec.Service{}
	for _, s := range view.Have.Services {
		now[s.VIP] = service(s)
	}
	answer := &directorv1.SimulateResponse{}
	for _, s := range then {
		if moves := compare(now[s.VIP], s, view.Chosen); moves != nil {
			answer.Services = append(answer.Services, moves)
		}
	}
	return answer, nil
}

// compare tells how a service would deal otherwise; nil: as now.
func compare(now, then spec.Service, plane string) *directorv1.ServiceMoves {
	a, b := slots.Of(now), slots.Of(then)
	m := &directorv1.ServiceMoves{Address: then.VIP.String(), Scheduler: string(then.Scheduler), Slots: uint32(len(b.Slots))}
	if moves, comparable := slots.Moves(a, b); comparable && plane == dataplane.NFTables {
		for _, move := range moves {
			m.Moves = append(m.Moves, &directorv1.Move{From: text(move.From), To: text(move.To), Slots: uint32(move.Slots)})
		}
	}
	was, is := a.Shares(), b.Shares()
	if maps.Equal(was, is) && now.Scheduler == then.Scheduler && len(m.GetMoves()) == 0 {
		return nil
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	for _, real := range slices.SortedFunc(maps.Keys(all), netip.AddrPort.Compare) {
		m.Shares = append(m.Shares, &directorv1.Share{RealServer: real.String(), Now: uint32(was[real]), Then: uint32(is[real])})
	}
	return m
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// service is a service of the kernel as it deals.
func service(have plan.Service) spec.Service {
	s := spec.Service{VIP: have.VIP, Scheduler: have.Scheduler, Persistence: have.Persistence, Lent: have.Lent}
	for _, r := range have.Reals {
		s.Reals = append(s.Reals, r.Real)
	}
	return s
}

func name(services []spec.Service, vip spec.VIP) string {
	for _, s := range services {
		if s.VIP == vip {
			return s.Name
		}
	}
	return ""
}

// takes tells whether the kernel gives a real server new connections.
func takes(have plan.Service, real netip.AddrPort) bool {
	return slices.ContainsFunc(have.Reals, func(r plan.Real) bool { return r.Address == real && r.Weight > 0 })
}

func badField(field, format string, args ...any) error {
	return grpcserver.BadRequest([]*commonv1.Violation{{Field: field, Description: fmt.Sprintf(format, args...)}})
}
