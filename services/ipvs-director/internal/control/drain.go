package control

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/reconcile"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Drain stores that a real server is drained.
func (a *admin) Drain(ctx context.Context, request *directorv1.DrainRequest) (*commonv1.ApplyResponse, error) {
	drain, err := a.drained(request.GetService(), request.GetAddress(), request.GetPort(), true)
	if err != nil {
		return nil, err
	}
	drain.Reason = request.GetReason()
	return a.ApplyObject(ctx, &directorv1.Object{Kind: &directorv1.Object_Drain{Drain: drain}}, "", false)
}

// Undrain takes it back, also of a real server or service that is not there any more: every object that says so, whoever named it.
func (a *admin) Undrain(ctx context.Context, request *directorv1.UndrainRequest) (*commonv1.DeleteResponse, error) {
	drain, err := a.drained(request.GetService(), request.GetAddress(), request.GetPort(), false)
	if err != nil {
		return nil, err
	}
	all := &commonv1.DeleteResponse{}
	for _, name := range a.drainsLike(drain) {
		answer, err := a.Delete(ctx, &commonv1.DeleteRequest{Kind: spec.KindDrain, Name: name})
		if err != nil {
			return nil, err
		}
		all.Changes = append(all.Changes, answer.GetChanges()...)
	}
	return all, nil
}

// drainsLike are the names of the objects that drain the same real server; its own name when there is none.
func (a *admin) drainsLike(drain *directorv1.Drain) (names []string) {
	snapshot, _ := a.Store.Newest()
	for _, object := range snapshot.Objects {
		other, ok := object.Message.(*directorv1.Drain)
		if !ok || other.GetService() != drain.GetService() {
			continue
		}
		same, err := a.drained(other.GetService(), other.GetAddress(), other.GetPort(), false)
		if err == nil && same.GetName() == drain.GetName() {
			names = append(names, other.GetName())
		}
	}
	if len(names) == 0 {
		names = []string{drain.GetName()}
	}
	return names
}

// drained makes the object that says so of a real server; one that there is, if it must be.
func (a *admin) drained(service, address string, port uint32, mustBe bool) (*directorv1.Drain, error) {
	snapshot, ok := a.Store.Newest()
	if !ok {
		return nil, status.Error(codes.Unavailable, reconcile.ErrNotRead.Error())
	}
	var messages []proto.Message
	for _, object := range snapshot.Objects {
		messages = append(messages, object.Message)
	}
	want, _ := spec.Parse(messages, "") // what is wrong with other objects does not matter here
	var s spec.Service
	at := slices.IndexFunc(want.Services, func(s spec.Service) bool { return s.Name == service })
	switch {
	case at >= 0:
		s = want.Services[at]
	case mustBe || port == 0: // the port follows from the service
		return nil, status.Errorf(codes.NotFound, "there is no virtual service %q", service)
	}
	if port == 0 {
		port = uint32(s.VIP.Port())
	}
	ip, err := netip.ParseAddr(address)
	if err != nil || port > 65535 {
		return nil, badField("address", "want an address and a port up to 65535")
	}
	real := netip.AddrPortFrom(ip, uint16(port))
	if mustBe && !slices.ContainsFunc(s.Reals, func(r spec.Real) bool { return r.Address == real }) {
		return nil, status.Errorf(codes.NotFound, "the virtual service %q has no real server %s", service, real)
	}
	return &directorv1.Drain{Name: drainName(service, real), Service: service, Address: address, Port: port}, nil
}

// maxName is the longest name of an object.
const maxName = 63

// drainName is the name of the drain of a real server: always the same, so that Undrain finds it.
func drainName(service string, real netip.AddrPort) string {
	end := fmt.Sprintf("-%s-%d", strings.ReplaceAll(real.Addr().String(), ":", "."), real.Port()) // names have no colons
	name := service + end
	if len(name) <= maxName {
		return name
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // it cannot fail
	tail := fmt.Sprintf("-%08x%s", h.Sum32(), end)
	return service[:maxName-len(tail)] + tail
}
