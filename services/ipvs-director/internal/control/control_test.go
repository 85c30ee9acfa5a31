package control

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

type fixed loop.View

func (f fixed) View() loop.View { return loop.View(f) }

func TestListServicesInventsNothing(t *testing.T) {
	t.Parallel()
	three := uint64(3)
	world := fixed{Chosen: dataplane.IPVS, Observed: true, Have: plan.Have{Services: []plan.Service{{
		VIP: netip.MustParseAddrPort("10.10.60.22:80"), Scheduler: spec.WLC, Foreign: true, Reals: []plan.Real{
			{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.55:80"), Weight: 7}, Active: &three, Total: 9},
			{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.78:80")}},
		},
	}}}}
	got, err := (&director{world: world}).ListServices(t.Context(), nil)
	want := &directorv1.ListServicesResponse{Services: []*directorv1.ServiceState{{
		Address: "10.10.60.22:80", Scheduler: "wlc", Foreign: true, RealServers: []*directorv1.RealServerState{
			{Address: "192.168.60.55:80", Weight: 7, ActiveConnections: &three, TotalConnections: 9},
			{Address: "192.168.60.78:80"},
		},
	}}}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		world fixed
		want  codes.Code
	}{
		"no plane": {fixed{Unusable: fmt.Errorf("%w: no IPVS", dataplane.ErrUnusable)}, codes.FailedPrecondition},
		"not read": {fixed{Chosen: dataplane.NFTables}, codes.Unavailable},
	} {
		_, err := (&director{world: c.world}).ListServices(t.Context(), nil)
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := usable(fixed{Unusable: errors.New("x")}); status.Convert(err).Message() != "x" {
		t.Errorf("the reason is lost: %v", err)
	}
}

func TestGetDataplane(t *testing.T) {
	t.Parallel()
	world := fixed{Chosen: dataplane.NFTables, Reports: []dataplane.Report{{Name: dataplane.IPVS, Reason: "no IPVS"}, {Name: dataplane.NFTables, Usable: true, Reason: "there"}}}
	got, err := (&director{world: world}).GetDataplane(t.Context(), nil)
	want := &directorv1.GetDataplaneResponse{Chosen: "nftables", Planes: []*directorv1.PlaneReport{
		{Name: "ipvs", Reason: "no IPVS"}, {Name: "nftables", Usable: true, Reason: "there"},
	}}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}
