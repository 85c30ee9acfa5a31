package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/verbs"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

type fixed loop.View

func (f fixed) View() loop.View { return loop.View(f) }

func (f fixed) News() <-chan struct{} { return nil }

func (f fixed) Find(_ context.Context, client netip.AddrPort, _ spec.VIP) (netip.AddrPort, bool, error) {
	return netip.MustParseAddrPort("192.168.60.99:80"), client.Port() == 1, nil
}

func (f fixed) Would(desired.Snapshot) []spec.Service { return nil }

// unchecked knows nothing.
func (f fixed) Remembered(_ context.Context, client netip.Addr, _ spec.VIP, _ int) (netip.AddrPort, bool, error) {
	return netip.MustParseAddrPort("192.168.60.55:80"), client == netip.MustParseAddr("10.10.60.9"), nil
}

type unchecked struct{}

func (unchecked) State(steer.Key) (steer.Health, string) { return steer.Unknown, "" }

func TestListServicesInventsNothing(t *testing.T) {
	t.Parallel()
	three := uint64(3)
	world := fixed{Chosen: dataplane.IPVS, Observed: true, Have: plan.Have{Services: []plan.Service{{
		VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.WLC, Foreign: true, Reals: []plan.Real{
			{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.55:80"), Weight: 7}, Active: &three, Total: 9},
			{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.78:80")}},
		},
	}}}}
	got, err := (&director{world: world, health: unchecked{}}).ListServices(t.Context(), nil)
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
		_, err := (&director{world: c.world, health: unchecked{}}).ListServices(t.Context(), nil)
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := usable(fixed{Unusable: errors.New("x")}); status.Convert(err).Message() != "x" {
		t.Errorf("the reason is lost: %v", err)
	}
}

// A client that is remembered stays, but not at a real server that takes no new connections.
func TestExplainPersistence(t *testing.T) {
	t.Parallel()
	for weight, want := range map[int]string{1: "192.168.60.55:80", 0: ""} {
		world := fixed{Chosen: dataplane.NFTables, Observed: true, Have: plan.Have{Services: []plan.Service{{
			VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.WRR, Persistence: spec.Persistence{Timeout: time.Minute, Prefix: 32},
			Reals: []plan.Real{
				{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.55:80"), Weight: weight}},
				{Real: spec.Real{Address: netip.MustParseAddrPort("192.168.60.78:80"), Weight: 1}},
			},
		}}}}
		d := &director{world: world, health: unchecked{}}
		got, err := d.Explain(t.Context(), &directorv1.ExplainRequest{Client: "10.10.60.9:40000", Vip: "10.10.60.22:80"})
		if err != nil || got.GetRealServer() != want || got.GetEstablished() {
			t.Errorf("weight %d: got %v, %v; want %q", weight, got, err, want)
		}
		if got, err = d.Explain(t.Context(), &directorv1.ExplainRequest{Client: "10.10.60.8:40000", Vip: "10.10.60.22:80"}); err != nil || got.GetRealServer() != "" {
			t.Errorf("a client that is not remembered: got %v, %v", got, err)
		}
	}
}

// A connection of which another director has told is where that has it, whatever the table says, unless this kernel knows better.
func TestExplainKept(t *testing.T) {
	t.Parallel()
	vip, moved := spec.MustParseVIP("10.10.60.22:80"), netip.MustParseAddrPort("10.10.60.9:40000")
	known := netip.AddrPortFrom(moved.Addr(), 1) // by the conntrack of fixed
	away, here := netip.MustParseAddrPort("192.168.60.55:80"), netip.MustParseAddrPort("192.168.60.78:80")
	world := fixed{Chosen: dataplane.NFTables, Observed: true, Kept: map[kept.Ends]netip.AddrPort{{Client: moved, VIP: vip}: away, {Client: known, VIP: vip}: away}}
	for _, protocol := range []spec.Protocol{spec.TCP, spec.UDP} {
		world.Have.Services = append(world.Have.Services, plan.Service{VIP: spec.VIP{AddrPort: vip.AddrPort, Protocol: protocol}, Scheduler: spec.MH,
			Reals: []plan.Real{{Real: spec.Real{Address: away}}, {Real: spec.Real{Address: here, Weight: 1}}}})
	}
	for _, c := range []struct {
		client      netip.AddrPort
		vip, want   string
		established bool
	}{
		{moved, "10.10.60.22:80", away.String(), false},
		{netip.AddrPortFrom(moved.Addr(), 40001), "10.10.60.22:80", here.String(), false},
		{moved, "10.10.60.22:80/udp", here.String(), false}, // nobody has told of that
		{known, "10.10.60.22:80", "192.168.60.99:80", true},
	} {
		got, err := (&director{world: world, health: unchecked{}}).Explain(t.Context(), &directorv1.ExplainRequest{Client: c.client.String(), Vip: c.vip})
		if err != nil || got.GetRealServer() != c.want || got.GetEstablished() != c.established {
			t.Errorf("%s to %s: got %v, %v; want %s", c.client, c.vip, got, err, c.want)
		}
	}
}

func TestGetDataplane(t *testing.T) {
	t.Parallel()
	world := fixed{Chosen: dataplane.NFTables, Reports: []dataplane.Report{{Name: dataplane.IPVS, Reason: "no IPVS"}, {Name: dataplane.NFTables, Usable: true, Reason: "there"}}}
	got, err := (&director{world: world, health: unchecked{}}).GetDataplane(t.Context(), nil)
	want := &directorv1.GetDataplaneResponse{Chosen: "nftables", Planes: []*directorv1.PlaneReport{
		{Name: "ipvs", Reason: "no IPVS"}, {Name: "nftables", Usable: true, Reason: "there"},
	}}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestGetCapabilities(t *testing.T) {
	t.Parallel()
	world := fixed{Wanted: dataplane.Auto, Chosen: dataplane.NFTables, Reports: []dataplane.Report{
		{Name: dataplane.IPVS, Reason: "no IPVS"},
		{Name: dataplane.NFTables, Usable: true, Reason: "there", Lacks: spec.Lacks{spec.FeatureMark: "no marks"}},
	}}
	got, err := (&director{world: world, health: unchecked{}}).GetCapabilities(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.GetChosen() != "nftables" || got.GetWhy() != "asked for: auto; ipvs cannot be used: no IPVS; nftables: there" || len(got.GetPlanes()) != 2 {
		t.Errorf("got %v", got)
	}
	for _, plane := range got.GetPlanes() {
		if len(plane.GetFeatures()) != len(spec.Features) {
			t.Errorf("%s: %d features, want all %d", plane.GetName(), len(plane.GetFeatures()), len(spec.Features))
		}
		for _, f := range plane.GetFeatures() {
			want := &directorv1.Feature{Name: f.GetName(), Supported: true}
			switch {
			case !plane.GetUsable():
				want.Supported, want.Reason = false, "no IPVS"
			case f.GetName() == "fwmark":
				want.Supported, want.Reason = false, "no marks"
			}
			if !proto.Equal(f, want) {
				t.Errorf("%s: got %v, want %v", plane.GetName(), f, want)
			}
		}
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	got, err := (&admin{}).Import(t.Context(), &directorv1.ImportRequest{Rules: []byte("-A -t 10.10.60.22:80 -s wlc\n")})
	want := []*directorv1.Object{{Kind: &directorv1.Object_VirtualService{VirtualService: &directorv1.VirtualService{
		Name: "10.10.60.22-80", Address: "10.10.60.22", Port: 80, Scheduler: "wlc",
	}}}}
	if err != nil || len(got.GetObjects()) != 1 || !proto.Equal(got.GetObjects()[0], want[0]) || len(got.GetReport().GetLines()) != 1 {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	got, err = (&admin{}).Import(t.Context(), &directorv1.ImportRequest{Keepalived: []byte("virtual_server 10.10.60.22 80 {\nlb_algo rr\nlb_kind NAT\n}\n")})
	if err != nil || len(got.GetObjects()) != 1 || got.GetObjects()[0].GetVirtualService().GetScheduler() != "rr" || len(got.GetReport().GetLines()) != 4 {
		t.Errorf("keepalived: got %v, %v", got, err)
	}
	_, err = (&admin{}).Import(t.Context(), &directorv1.ImportRequest{Keepalived: []byte("a"), Rules: []byte("b")})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("both: %v", err)
	}
	_, err = (&admin{}).Import(t.Context(), &directorv1.ImportRequest{Rules: make([]byte, importing.MaxBytes+1)})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("too much: %v", err)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		desired, rules string
		code           codes.Code
	}{
		"service": {
			"kind: virtual-service\nname: web\naddress: 10.10.60.22\nport: 80\nreal_servers: [{address: 192.168.60.78}]\n" +
				"---\nkind: address\nname: vip\nprefix: 10.10.60.22/24\n",
			"-A -t 10.10.60.22:80 -s wlc\n-a -t 10.10.60.22:80 -r 192.168.60.78:80 -m -w 1\n", codes.OK,
		},
		"not valid":    {"kind: virtual-service\nname: web\naddress: 10.10.60.22\n", "", codes.FailedPrecondition},
		"not readable": {"kind: nothing\nname: web\n", "", codes.FailedPrecondition},
		"not there":    {"", "", codes.Unavailable},
	} {
		got, err := (&director{Verbs: &verbs.Verbs{Store: fileStore(t, c.desired)}}).Export(t.Context(), nil)
		if status.Code(err) != c.code || got.GetRules() != c.rules {
			t.Errorf("%s: got %v, %v; want %s %v", name, got, err, c.rules, c.code)
		}
	}
}

// fileStore opens a store on a file with the text and waits until it is read; with an empty text nothing is read.
func fileStore(t *testing.T, text string) *desired.Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "desired.yaml")
	store, err := desired.Open(desired.Config{Service: "ipvs-director", Path: path, Kinds: []desired.Kind{
		{Name: spec.KindVirtualService, New: func() proto.Message { return new(directorv1.VirtualService) }},
		{Name: spec.KindAddress, New: func() proto.Message { return new(directorv1.Address) }},
		{Name: spec.KindDrain, New: func() proto.Message { return new(directorv1.Drain) }},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if text == "" {
		return store
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for read := false; !read; _, read = store.Newest() {
		<-store.Changed() // also told when the source answers, before what it holds
	}
	return store
}
