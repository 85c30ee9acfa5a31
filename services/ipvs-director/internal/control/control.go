// Package control answers the director's gRPC calls: it translates, and decides nothing.
package control

import (
	"context"
	"math"
	"net/netip"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/reconcile"
	"github.com/twotier/twotier/services/internal/verbs"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/ipvsadm"
	"github.com/twotier/twotier/services/ipvs-director/internal/keepalived"
	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// Service is the name under which the director's health is told.
const Service = "twotier.director.v1.Director"

// World tells what the last pass saw, and what would be.
type World interface {
	View() loop.View
	// News is closed when the next pass has ended.
	News() <-chan struct{}
	// Find tells which real server a connection has; false: the kernel does not know it.
	Find(ctx context.Context, client netip.AddrPort, vip spec.VIP) (real netip.AddrPort, found bool, err error)
	// Remembered tells which real server a client is to stay with by persistence; false: it is not remembered.
	Remembered(ctx context.Context, client netip.Addr, vip spec.VIP, prefix int) (real netip.AddrPort, kept bool, err error)
	// Would tells which services the kernel would have with another desired state, which must be valid.
	Would(desired.Snapshot) []spec.Service
}

// Health tells what is known of a real server, and the result of its last check.
type Health interface {
	State(steer.Key) (health steer.Health, last string)
}

// Examine tells what is wrong around the director.
type Examine func(ctx context.Context, plane string, have plan.Have) []dataplane.Finding

// Register offers the Director and DirectorAdmin services.
func Register(registrar grpc.ServiceRegistrar, v *verbs.Verbs, world World, health Health, examine Examine) {
	directorv1.RegisterDirectorServer(registrar, &director{Verbs: v, world: world, health: health, examine: examine})
	directorv1.RegisterDirectorAdminServer(registrar, &admin{Verbs: v, world: world})
}

// director is for those who may look.
type director struct {
	directorv1.UnsafeDirectorServer
	*verbs.Verbs
	world   World
	health  Health
	examine Examine
}

// admin is for those who may change.
type admin struct {
	directorv1.UnsafeDirectorAdminServer
	*verbs.Verbs
	world World
}

// ListDesired shows a page of the desired objects.
func (d *director) ListDesired(ctx context.Context, page *commonv1.PageRequest) (*directorv1.ListDesiredResponse, error) {
	answer := &directorv1.ListDesiredResponse{}
	next, err := d.ListObjects(ctx, page, func(object func(into proto.Message), etag string) {
		stored := &directorv1.StoredObject{Object: &directorv1.Object{}, Etag: etag}
		object(stored.GetObject())
		answer.Objects = append(answer.Objects, stored)
	})
	if err != nil {
		return nil, err
	}
	answer.NextPageToken = next
	return answer, nil
}

// PreviewPlan tells what would be done.
func (d *director) PreviewPlan(ctx context.Context, request *directorv1.PreviewPlanRequest) (*commonv1.PreviewPlanResponse, error) {
	if err := usable(d.world); err != nil {
		return nil, err
	}
	return d.PreviewObject(ctx, request.GetObject())
}

// GetDataplane tells which data plane is in use, and why the others are not.
func (d *director) GetDataplane(context.Context, *directorv1.GetDataplaneRequest) (*directorv1.GetDataplaneResponse, error) {
	view := d.world.View()
	answer := &directorv1.GetDataplaneResponse{Chosen: view.Chosen}
	for _, r := range view.Reports {
		answer.Planes = append(answer.Planes, &directorv1.PlaneReport{Name: r.Name, Usable: r.Usable, Reason: r.Reason})
	}
	return answer, nil
}

// GetCapabilities tells feature by feature what each data plane can do here.
func (d *director) GetCapabilities(context.Context, *directorv1.GetCapabilitiesRequest) (*directorv1.GetCapabilitiesResponse, error) {
	view := d.world.View()
	answer := &directorv1.GetCapabilitiesResponse{Chosen: view.Chosen, Why: view.Why()}
	for _, r := range view.Reports {
		plane := &directorv1.PlaneCapabilities{Name: r.Name, Usable: r.Usable}
		for _, f := range spec.Features {
			reason, lacking := r.Lacks[f]
			if !r.Usable {
				reason, lacking = r.Reason, true
			}
			plane.Features = append(plane.Features, &directorv1.Feature{Name: string(f), Supported: !lacking, Reason: reason})
		}
		answer.Planes = append(answer.Planes, plane)
	}
	return answer, nil
}

// answerMost bounds what one answer says of services, in bytes, far below the 4 MiB that clients of gRPC take: 32,768 real servers need 8 MiB.
const answerMost = 1 << 20

// ListServices shows the virtual services in the kernel, those behind that of the page token.
func (d *director) ListServices(_ context.Context, request *directorv1.ListServicesRequest) (*directorv1.ListServicesResponse, error) {
	view, err := d.observed()
	if err != nil {
		return nil, err
	}
	services := view.Have.Services // in their order
	if token := request.GetPageToken(); token != "" {
		last, err := spec.ParseVIP(token)
		if err != nil {
			return nil, grpcserver.BadRequest([]*commonv1.Violation{{Field: "page_token", Description: "want the next_page_token of an answer"}})
		}
		services = slices.DeleteFunc(slices.Clone(services), func(s plan.Service) bool { return s.VIP.Compare(last) <= 0 })
	}
	answer, size := &directorv1.ListServicesResponse{}, 0
	for i, s := range services {
		state := d.serviceState(s, view)
		if size += proto.Size(state); i > 0 && size > answerMost {
			answer.NextPageToken = services[i-1].VIP.String()
			break
		}
		answer.Services = append(answer.Services, state)
	}
	return answer, nil
}

// observed is what the last pass saw in the kernel.
func (d *director) observed() (loop.View, error) {
	if err := usable(d.world); err != nil {
		return loop.View{}, err
	}
	view := d.world.View()
	if !view.Observed {
		return view, status.Error(codes.Unavailable, "the kernel could not be read")
	}
	return view, nil
}

// Examine tells what is wrong around the director.
func (d *director) Examine(ctx context.Context, _ *directorv1.ExamineRequest) (*directorv1.ExamineResponse, error) {
	view, err := d.observed()
	if err != nil {
		return nil, err
	}
	answer := &directorv1.ExamineResponse{}
	for _, f := range d.examine(ctx, view.Chosen, view.Have) {
		answer.Findings = append(answer.Findings, &directorv1.Finding{Code: f.Code, What: f.What, Remedy: f.Remedy})
	}
	return answer, nil
}

// Export gives the desired virtual services as IPVS rules.
func (d *director) Export(context.Context, *directorv1.ExportRequest) (*directorv1.ExportResponse, error) {
	snapshot, ok := d.Store.Newest()
	if !ok {
		return nil, status.Error(codes.Unavailable, reconcile.ErrNotRead.Error())
	}
	var messages []proto.Message
	for _, object := range snapshot.Objects {
		messages = append(messages, object.Message)
	}
	want, violations := spec.Parse(messages, "") // which node holds the addresses does not matter here
	if violations = append(violations, snapshot.Violations...); len(violations) > 0 {
		return nil, grpcserver.FailedPrecondition("DESIRED_STATE", violations[0].GetField(), violations[0].GetDescription())
	}
	return &directorv1.ExportResponse{Rules: ipvsadm.Export(want.Services)}, nil
}

// Import tells what IPVS rules, or keepalived's virtual servers, say in our words.
func (a *admin) Import(_ context.Context, request *directorv1.ImportRequest) (*directorv1.ImportResponse, error) {
	var services []*directorv1.VirtualService
	var tuning *directorv1.Tuning
	var report *commonv1.ImportReport
	var err error
	field := "rules"
	switch {
	case len(request.GetKeepalived()) > 0 && len(request.GetRules()) > 0:
		return nil, badField("keepalived", "rules are given too: import one after the other")
	case len(request.GetKeepalived()) > 0:
		field = "keepalived"
		services, tuning, report, err = keepalived.Import(request.GetKeepalived())
	default:
		services, report, err = ipvsadm.Import(request.GetRules())
	}
	if err != nil {
		return nil, badField(field, "%v", err)
	}
	answer := &directorv1.ImportResponse{Report: report}
	for _, s := range services {
		answer.Objects = append(answer.Objects, &directorv1.Object{Kind: &directorv1.Object_VirtualService{VirtualService: s}})
	}
	if tuning != nil {
		answer.Objects = append(answer.Objects, &directorv1.Object{Kind: &directorv1.Object_Tuning{Tuning: tuning}})
	}
	return answer, nil
}

// Apply stores an object.
func (a *admin) Apply(ctx context.Context, request *directorv1.ApplyRequest) (*commonv1.ApplyResponse, error) {
	if err := usable(a.world); err != nil {
		return nil, err
	}
	return a.ApplyObject(ctx, request.GetObject(), request.GetEtag(), request.GetValidateOnly())
}

// Reconcile makes a pass now; it also looks again for a data plane.
func (a *admin) Reconcile(ctx context.Context, request *commonv1.ReconcileRequest) (*commonv1.ReconcileResponse, error) {
	answer, err := a.Verbs.Reconcile(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := usable(a.world); err != nil {
		return nil, err
	}
	return answer, nil
}

// usable is FAILED_PRECONDITION with the reason when there is no data plane: nothing that is asked for would come true.
func usable(world World) error {
	if err := world.View().Unusable; err != nil {
		return grpcserver.FailedPrecondition("DATAPLANE", "kernel", err.Error())
	}
	return nil
}

func (d *director) serviceState(s plan.Service, view loop.View) *directorv1.ServiceState {
	reasons := view.Course.Reasons
	state := &directorv1.ServiceState{
		Address: s.VIP.String(), Scheduler: string(s.Scheduler), Foreign: s.Foreign, Note: reasons[steer.Key{VIP: s.VIP}],
	}
	for _, r := range s.Reals {
		key := steer.Key{VIP: s.VIP, Real: r.Address}
		health, last := d.health.State(key)
		state.RealServers = append(state.RealServers, &directorv1.RealServerState{
			Address:           r.Address.String(),
			Weight:            uint32(r.Weight),
			ActiveConnections: r.Active,
			TotalConnections:  r.Total,
			Health:            healths[health],
			LastCheck:         last,
			Reason:            reasons[key],
			ConnectionRate:    view.Rates[key].Connections,
			Traffic:           traffic(r.Traffic, view.Rates[key]),
		})
	}
	return state
}

func traffic(t *plan.Traffic, each loop.Rates) *directorv1.Traffic {
	if t == nil {
		return nil
	}
	whole := func(rate float64) uint64 { return uint64(math.Round(rate)) }
	return &directorv1.Traffic{
		PacketsIn: t.PacketsIn, PacketsOut: t.PacketsOut, BytesIn: t.BytesIn, BytesOut: t.BytesOut,
		PacketRateIn: whole(each.PacketsIn), PacketRateOut: whole(each.PacketsOut), ByteRateIn: whole(each.BytesIn), ByteRateOut: whole(each.BytesOut),
	}
}

var healths = map[steer.Health]directorv1.Health{
	steer.Unknown: directorv1.Health_HEALTH_UNSPECIFIED, steer.Up: directorv1.Health_HEALTH_UP, steer.Down: directorv1.Health_HEALTH_DOWN,
}
