// Package control answers what the gRPC API asks. It translates and decides nothing.
package control

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/verbs"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/keepalived"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
)

// Instances is what runs on this node.
type Instances interface {
	// Instances returns them as they stand, in the order of their names.
	Instances() []plan.Instance
}

// Register offers the Agent and AgentAdmin services.
func Register(registrar grpc.ServiceRegistrar, v *verbs.Verbs, instances Instances) {
	vrrpv1.RegisterAgentServer(registrar, &agent{Verbs: v, instances: instances})
	vrrpv1.RegisterAgentAdminServer(registrar, &admin{Verbs: v})
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

// Apply stores a desired object.
func (a *admin) Apply(ctx context.Context, request *vrrpv1.ApplyRequest) (*commonv1.ApplyResponse, error) {
	return a.ApplyObject(ctx, request.GetObject(), request.GetEtag(), request.GetValidateOnly())
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

func instanceState(i plan.Instance) *vrrpv1.InstanceState {
	s := &vrrpv1.InstanceState{
		Name:                i.Local.Name,
		State:               states[i.State],
		Priority:            uint32(i.Local.Priority),
		Reason:              i.Reason,
		Transitions:         i.Transitions,
		AdvertsSent:         i.Sent,
		AdvertsReceived:     i.Received,
		AddressesMismatched: i.Mismatched,
		Dropped:             map[string]uint64{},
		Version:             uint32(i.Local.Version),
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
	if i.Master.IsValid() {
		s.MasterAddress = i.Master.String()
	}
	for reason, n := range i.Dropped {
		if n > 0 {
			s.Dropped[packet.Drop(reason).Error()] = n
		}
	}
	return s
}
