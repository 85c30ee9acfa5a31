package control

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/instance"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

type some []plan.Instance

func (s some) Instances() []plan.Instance { return s }

func (s some) News() <-chan struct{} { return nil }

// Handover answers with the error that the instance's name stands for.
func (s some) Handover(_ context.Context, name, node string, _ bool) (string, error) {
	return node, map[string]error{
		"gone": instance.ErrNoInstance, "backup": instance.ErrNotMaster, "alone": instance.ErrNoAgent,
		"unwanted": instance.ErrRefused, "slow": instance.ErrUnconfirmed, "busy": instance.ErrBusy,
		"own": instance.ErrSelf, "foreign": instance.ErrNotMember,
	}[name]
}

func (s some) Drain(_ context.Context, on bool) ([]string, error) {
	if on {
		return []string{"instance VI_1: alone"}, nil
	}
	return nil, nil
}

func TestHandoverAndDrain(t *testing.T) {
	t.Parallel()
	a := &admin{instances: some{}}
	for name, want := range map[string]codes.Code{
		"VI_1": codes.OK, "gone": codes.NotFound, "backup": codes.FailedPrecondition, "alone": codes.FailedPrecondition,
		"unwanted": codes.Aborted, "busy": codes.Aborted, "slow": codes.DeadlineExceeded,
		"": codes.InvalidArgument, "own": codes.InvalidArgument, "foreign": codes.InvalidArgument,
	} {
		got, err := a.Handover(t.Context(), &vrrpv1.HandoverRequest{Instance: name, Node: "haproxy2"})
		if status.Code(err) != want || err == nil && got.GetNode() != "haproxy2" {
			t.Errorf("%s: got %v %v, want %v", name, got, err, want)
		}
	}
	if got, err := a.Drain(t.Context(), &vrrpv1.DrainRequest{}); err != nil || len(got.GetKept()) != 1 {
		t.Errorf("drain: got %v %v", got, err)
	}
	if got, err := a.Drain(t.Context(), &vrrpv1.DrainRequest{End: true}); err != nil || len(got.GetKept()) != 0 {
		t.Errorf("end of drain: got %v %v", got, err)
	}
}

func TestListInstances(t *testing.T) {
	t.Parallel()
	master := plan.Instance{
		Local: spec.Local{Name: "VI_1", Priority: 105, Version: packet.V2}, State: fsm.Master, Priority: 105, Reason: "no advert for 3.6s",
		Held: []netip.Addr{netip.MustParseAddr("192.168.60.78")}, Master: netip.MustParseAddr("192.168.60.128"),
		Transitions: 2, Sent: 3, Received: 4, Mismatched: 5,
	}
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	master.Card, master.Own = "eth0", netip.MustParseAddr("192.168.60.22")
	master.Routes = []nic.Route{{Index: 2, Route: spec.Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.60.99"), Metric: 10}}}
	master.Trackers = []plan.Finding{{Tracker: "disk", Well: true, Since: at, Adds: 20}, {Tracker: "new"}}
	master.History = []plan.Transition{{At: at, From: fsm.Backup, To: fsm.Master, Reason: "no advert for 3.6s", Priority: 105, Master: master.Master,
		Adverts: []plan.Advert{{At: at, From: master.Master, Priority: 99}}, Trackers: []plan.Finding{{Tracker: "disk", Why: "full", Since: at}}}}
	master.Dropped[packet.DropAuthentication] = 6
	a := &agent{instances: some{master, {
		Local: spec.Local{Name: "VI_3", Priority: 99, Version: packet.V3}, State: fsm.Fault, Priority: 99, Checksum: packet.ChecksumMessage,
		Peers: map[netip.Addr]packet.Checksum{netip.MustParseAddr("192.168.60.128"): packet.ChecksumMessage},
	}}}
	form := vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE
	got, err := a.ListInstances(t.Context(), nil)
	want := &vrrpv1.ListInstancesResponse{Instances: []*vrrpv1.InstanceState{
		{
			Name: "VI_1", State: vrrpv1.State_STATE_MASTER, Priority: 105, HeldAddresses: []string{"192.168.60.78"},
			MasterAddress: "192.168.60.22", Reason: "no advert for 3.6s", Transitions: 2, AdvertsSent: 3, AdvertsReceived: 4,
			AddressesMismatched: 5, Dropped: map[string]uint64{"authentication": 6}, Version: 2,
			NetworkCard: "eth0", SourceAddress: "192.168.60.22", HeldRoutes: []string{"0.0.0.0/0 via 192.168.60.99 metric 10"},
			Trackers: []*vrrpv1.TrackerResult{{Tracker: "disk", Well: true, Since: timestamppb.New(at), Adds: 20}, {Tracker: "new"}},
			History: []*vrrpv1.Transition{{
				Time: timestamppb.New(at), From: vrrpv1.State_STATE_BACKUP, To: vrrpv1.State_STATE_MASTER, Reason: "no advert for 3.6s", Priority: 105,
				MasterAddress: "192.168.60.128", Adverts: []*vrrpv1.HeardAdvert{{Time: timestamppb.New(at), SourceAddress: "192.168.60.128", Priority: 99}},
				Trackers: []*vrrpv1.TrackerResult{{Tracker: "disk", Reason: "full", Since: timestamppb.New(at)}},
			}},
		},
		{
			Name: "VI_3", State: vrrpv1.State_STATE_FAULT, Priority: 99, Version: 3, Checksum: form,
			PeerChecksums: map[string]vrrpv1.ChecksumForm{"192.168.60.128": form},
		},
	}}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	text := []byte("vrrp_instance VI_1 {\n virtual_router_id 53\n virtual_ipaddress { 192.168.60.78 }\n}\n")
	got, err := (&admin{}).Import(t.Context(), &vrrpv1.ImportRequest{Files: []*vrrpv1.ImportFile{{Node: "haproxy", Config: text}}})
	want := &vrrpv1.Instance{
		Name: "VI_1", VirtualRouterId: 53, VirtualAddresses: []string{"192.168.60.78"}, Members: []*vrrpv1.Member{{Node: "haproxy", Priority: 100}}, Profile: vrrpv1.Profile_PROFILE_COMPAT,
	}
	if err != nil || len(got.GetObjects()) != 1 || !proto.Equal(got.GetObjects()[0].GetInstance(), want) || len(got.GetReport().GetLines()) != 4 {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err = (&admin{}).Import(t.Context(), &vrrpv1.ImportRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a file: %v", err)
	}
}
