// Package control answers what the gRPC API asks. It translates and decides nothing.
package control

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/verbs"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/instance"
	"github.com/twotier/twotier/services/vrrp-agent/internal/keepalived"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
)

// Instances is what runs on this node.
type Instances interface {
	// Instances returns them as they stand, in the order of their names.
	Instances() []plan.Instance
	// News is closed at the next change of a state.
	News() <-chan struct{}
	// Handover and Drain as in instance.Set.
	Handover(ctx context.Context, name, node string, resign bool) (string, error)
	Drain(ctx context.Context, on bool) (kept []string, err error)
}

// Register offers the Agent and AgentAdmin services.
func Register(registrar grpc.ServiceRegistrar, v *verbs.Verbs, instances Instances) {
	vrrpv1.RegisterAgentServer(registrar, &agent{Verbs: v, instances: instances})
	vrrpv1.RegisterAgentAdminServer(registrar, &admin{Verbs: v, instances: instances})
}

// agent is for those who may look.
type agent struct {
	vrrpv1.UnsafeAgentServer
	*verbs.Verbs
	instances Instances
}

// admin is for those who may change.
type admin struct {
	vrrpv1.UnsafeAgentAdminServer
	*verbs.Verbs
	instances Instances
}

// ListDesired shows the desired objects.
func (a *agent) ListDesired(ctx context.Context, page *commonv1.PageRequest) (*vrrpv1.ListDesiredResponse, error) {
	answer := &vrrpv1.ListDesiredResponse{}
	next, err := a.ListObjects(ctx, page, func(object func(into proto.Message), etag string) {
		stored := &vrrpv1.StoredObject{Object: &vrrpv1.Object{}, Etag: etag}
		object(stored.Object)
		answer.Objects = append(answer.Objects, stored)
	})
	if err != nil {
		return nil, err
	}
	answer.NextPageToken = next
	return answer, nil
}

// PreviewPlan tells what would be done.
func (a *agent) PreviewPlan(ctx context.Context, request *vrrpv1.PreviewPlanRequest) (*commonv1.PreviewPlanResponse, error) {
	return a.PreviewObject(ctx, request.GetObject())
}

// ListInstances shows the instances.
func (a *agent) ListInstances(context.Context, *vrrpv1.ListInstancesRequest) (*vrrpv1.ListInstancesResponse, error) {
	answer := &vrrpv1.ListInstancesResponse{}
	for _, i := range a.instances.Instances() {
		answer.Instances = append(answer.Instances, instanceState(i))
	}
	return answer, nil
}

// WatchInstances shows the instances now and after each change.
func (a *agent) WatchInstances(_ *vrrpv1.ListInstancesRequest, stream grpc.ServerStreamingServer[vrrpv1.ListInstancesResponse]) error {
	for {
		news := a.instances.News() // before the look, so that no change is missed
		answer, err := a.ListInstances(stream.Context(), nil)
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-news:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// Apply stores a desired object.
func (a *admin) Apply(ctx context.Context, request *vrrpv1.ApplyRequest) (*commonv1.ApplyResponse, error) {
	return a.ApplyObject(ctx, request.GetObject(), request.GetEtag(), request.GetValidateOnly())
}

// handoverTimeout bounds a handover; the instance has a shorter limit of its own, but waits for its turn.
const handoverTimeout = 5 * time.Second

// Handover moves the addresses of an instance.
func (a *admin) Handover(ctx context.Context, request *vrrpv1.HandoverRequest) (*vrrpv1.HandoverResponse, error) {
	if request.GetInstance() == "" {
		return nil, grpcserver.BadRequest([]*commonv1.Violation{{Field: "instance", Description: "want the name of an instance that runs here"}})
	}
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	node, err := a.instances.Handover(ctx, request.GetInstance(), request.GetNode(), request.GetResign())
	if errors.Is(err, instance.ErrSelf) || errors.Is(err, instance.ErrNotMember) {
		return nil, grpcserver.BadRequest([]*commonv1.Violation{{Field: "node", Description: err.Error()}})
	}
	if err != nil {
		return nil, status.Error(handoverCode(err), err.Error())
	}
	return &vrrpv1.HandoverResponse{Node: node}, nil
}

func handoverCode(err error) codes.Code {
	switch {
	case errors.Is(err, instance.ErrNoInstance):
		return codes.NotFound
	case errors.Is(err, instance.ErrNotMaster), errors.Is(err, instance.ErrNoAgent):
		return codes.FailedPrecondition
	case errors.Is(err, instance.ErrRefused), errors.Is(err, instance.ErrBusy):
		return codes.Aborted
	case errors.Is(err, instance.ErrUnconfirmed), errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Unavailable
}

// Drain hands over everything, or ends that.
func (a *admin) Drain(ctx context.Context, request *vrrpv1.DrainRequest) (*vrrpv1.DrainResponse, error) {
	kept, err := a.instances.Drain(ctx, !request.GetEnd())
	if err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return &vrrpv1.DrainResponse{Kept: kept}, nil
}

// Import tells what the keepalived.conf of all nodes say in our words.
func (a *admin) Import(_ context.Context, request *vrrpv1.ImportRequest) (*vrrpv1.ImportResponse, error) {
	var files []keepalived.File
	for _, f := range request.GetFiles() {
		files = append(files, keepalived.File{Node: f.GetNode(), Text: f.GetConfig(), RouterHealth: f.GetRouterHealth()})
	}
	instances, report, violations := keepalived.Import(files)
	if len(violations) > 0 {
		return nil, grpcserver.BadRequest(violations)
	}
	answer := &vrrpv1.ImportResponse{Report: report}
	for _, i := range instances {
		answer.Objects = append(answer.Objects, &vrrpv1.Object{Kind: &vrrpv1.Object_Instance{Instance: i}})
	}
	return answer, nil
}

var states = map[fsm.State]vrrpv1.State{
	fsm.Initialize: vrrpv1.State_STATE_INITIALIZE,
	fsm.Backup:     vrrpv1.State_STATE_BACKUP,
	fsm.Master:     vrrpv1.State_STATE_MASTER,
	fsm.Fault:      vrrpv1.State_STATE_FAULT,
}

var checksums = map[packet.Checksum]vrrpv1.ChecksumForm{
	packet.ChecksumPseudoHeader: vrrpv1.ChecksumForm_CHECKSUM_FORM_PSEUDO_HEADER,
	packet.ChecksumMessage:      vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE,
}

func results(findings []plan.Finding) (all []*vrrpv1.TrackerResult) {
	for _, f := range findings {
		r := &vrrpv1.TrackerResult{Tracker: f.Tracker, Well: f.Well, Reason: f.Why, Adds: int32(f.Adds)}
		if !f.Since.IsZero() {
			r.Since = timestamppb.New(f.Since)
		}
		all = append(all, r)
	}
	return all
}

func instanceState(i plan.Instance) *vrrpv1.InstanceState {
	s := &vrrpv1.InstanceState{
		Name:                i.Local.Name,
		State:               states[i.State],
		Priority:            uint32(i.Priority),
		Reason:              i.Reason,
		Transitions:         i.Transitions,
		AdvertsSent:         i.Sent,
		AdvertsReceived:     i.Received,
		AddressesMismatched: i.Mismatched,
		Dropped:             map[string]uint64{},
		Version:             uint32(i.Local.Version),
		TakeoversPrevented:  i.Witnessed,
		ForeignClaims:       i.Claims,
		MasterUnheard:       i.Unheard,
		StoodBack:           i.StoodBack,
		Drained:             i.Drained,
	}
	for _, t := range i.History {
		transition := &vrrpv1.Transition{
			Time: timestamppb.New(t.At), From: states[t.From], To: states[t.To], Reason: t.Reason, Priority: uint32(t.Priority),
		}
		for _, a := range t.Adverts {
			transition.Adverts = append(transition.Adverts, &vrrpv1.HeardAdvert{
				Time: timestamppb.New(a.At), SourceAddress: a.From.String(), Priority: uint32(a.Priority),
			})
		}
		transition.Trackers = results(t.Trackers)
		if t.Master.IsValid() {
			transition.MasterAddress = t.Master.String()
		}
		s.History = append(s.History, transition)
	}
	s.Trackers, s.NetworkCard = results(i.Trackers), i.Card
	if i.Own.IsValid() {
		s.SourceAddress = i.Own.String()
	}
	for _, r := range i.Routes {
		s.HeldRoutes = append(s.HeldRoutes, r.String())
	}
	for _, a := range i.Agents {
		agent := &vrrpv1.PeerAgent{
			Node: a.Node, Priority: uint32(a.Priority), Owner: a.Owner, Ready: a.Ready, Seen: timestamppb.New(a.Seen),
		}
		for _, address := range a.Addresses {
			agent.Addresses = append(agent.Addresses, address.String())
		}
		s.Agents = append(s.Agents, agent)
	}
	if i.Local.Version == packet.V3 {
		s.Checksum = checksums[i.Checksum]
		s.PeerChecksums = map[string]vrrpv1.ChecksumForm{}
		for peer, form := range i.Peers {
			s.PeerChecksums[peer.String()] = checksums[form]
		}
	}
	for _, a := range i.Held {
		s.HeldAddresses = append(s.HeldAddresses, a.String())
	}
	if i.State == fsm.Master && i.Own.IsValid() {
		s.MasterAddress = i.Own.String()
	} else if i.Master.IsValid() {
		s.MasterAddress = i.Master.String()
	}
	for reason, n := range i.Dropped {
		if n > 0 {
			s.Dropped[packet.Drop(reason).Error()] = n
		}
	}
	return s
}
