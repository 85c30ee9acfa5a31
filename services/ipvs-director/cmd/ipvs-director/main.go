// Command ipvs-director sends each connection that arrives at a virtual address to a living real server.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"

	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/board"
	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/metrics"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/internal/verbs"

	"github.com/twotier/twotier/services/ipvs-director/internal/control"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/address"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/doctor"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/ipvs"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/export"
	"github.com/twotier/twotier/services/ipvs-director/internal/health"
	"github.com/twotier/twotier/services/ipvs-director/internal/loaded"
	"github.com/twotier/twotier/services/ipvs-director/internal/loop"
	"github.com/twotier/twotier/services/ipvs-director/internal/recall"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const service = "ipvs-director"

// candidates are the data planes, the preferred one first.
var candidates = []loop.Candidate{
	{Name: dataplane.IPVS, Probe: ipvs.Probe, Open: func() loop.Plane { return ipvs.Open() }, Find: ipvs.Find},
	{Name: dataplane.NFTables, Probe: nftables.Probe, Open: func() loop.Plane { return nftables.Open() }, Find: nftables.Find, Kept: func() loop.Keeper { return new(nftables.Kept) },
		Remembered: nftables.Remembered},
}

var kinds = []desired.Kind{
	{Name: spec.KindVirtualService, New: func() proto.Message { return new(directorv1.VirtualService) }},
	{Name: spec.KindAddress, New: func() proto.Message { return new(directorv1.Address) }},
	{Name: spec.KindDrain, New: func() proto.Message { return new(directorv1.Drain) }},
	{Name: spec.KindTuning, New: func() proto.Message { return new(directorv1.Tuning) }},
}

func main() {
	plane, rules := dataplane.Auto, ""
	extra := func(fs *flag.FlagSet) {
		fs.StringVar(&rules, "loaded-file", "", "`FILE` that vouches, also while the director is down, that this network namespace has the rules; empty is none")
		fs.Func("dataplane", "`PLANE` that forwards: auto, ipvs or nftables; auto is ipvs where the kernel has it (default auto)", func(s string) error {
			if !slices.Contains([]string{dataplane.Auto, dataplane.IPVS, dataplane.NFTables}, s) {
				return fmt.Errorf("want auto, ipvs or nftables")
			}
			plane = s
			return nil
		})
	}
	os.Exit(daemon.Main(service, extra, func(ctx context.Context, p *daemon.Process) error { return run(ctx, p, plane, loaded.File(rules)) }))
}

func run(ctx context.Context, p *daemon.Process, plane string, rules loaded.File) error {
	serverTLS, err := p.ServerTLS()
	if err != nil {
		return err
	}
	wanted := p.DesiredConfig(kinds, p.Log)
	store, err := desired.Open(wanted)
	if err != nil {
		return err
	}
	reporter, err := status.Open(p.StatusConfig(p.Version, p.Log))
	if err != nil {
		return err
	}
	server, err := grpcserver.New(p.GRPCConfig(p.Log))
	if err != nil {
		return err
	}
	figures := metrics.New(service, p.Version)
	endpoint, err := metrics.Server(p.MetricsListen, serverTLS, figures)
	if err != nil {
		return err
	}

	serving := func(ok bool) {
		server.SetServing("", ok)
		server.SetServing(control.Service, ok)
	}
	serving(false)
	checker := health.New(p.Log)
	told, err := openBoard(p)
	if err != nil {
		return err
	}
	config := loop.Config{
		Node: p.Node, Store: store, Status: reporter, Host: address.Host{}, Log: p.Log,
		Health: checker, Recall: recall.File{Folder: wanted.StateDir},
		Wanted: plane, Candidates: candidates,
		Ready: func() { serving(true) }, Loaded: rules,
	}
	kicks := []<-chan struct{}{store.Changed(), checker.Changed()}
	if told != nil {
		config.Board = told
		kicks = append(kicks, told.Changed())
	}
	reconciler := loop.New(config)
	figures.Registry().MustRegister(export.New(reconciler, checker))
	control.Register(server.Registrar(), &verbs.Verbs{Store: store, Status: reporter, Loop: reconciler}, reconciler, checker, doctor.Examine)

	group := daemon.NewGroup(p.Log)
	group.Add("desired", store.Run)
	group.Add("status", reporter.Run)
	group.Add("grpc", server.Run)
	group.Add("metrics", endpoint.Run)
	group.Add("health", checker.Run)
	if told != nil {
		group.Add("board", told.Run)
	}
	group.Add("loop", func(ctx context.Context) error { return reconciler.Run(ctx, kicks...) })
	return group.Run(ctx)
}

// openBoard makes the board of the directors; nil without etcd.
func openBoard(p *daemon.Process) (*board.Board, error) {
	if len(p.Etcd) == 0 {
		return nil, nil
	}
	c := p.StatusConfig(p.Version, p.Log) // the same etcd, the same node
	return board.Open(board.Config{Service: c.Service, Node: c.Node, Etcd: c.Etcd, TLS: c.TLS, Log: c.Log})
}
