// Command forum-backend serves the forum on one server of the site.
package main

import (
	"context"
	"os"

	"google.golang.org/protobuf/proto"

	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/control"
	"github.com/twotier/twotier/services/forum-backend/internal/loop"
	"github.com/twotier/twotier/services/forum-backend/internal/site"
	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/metrics"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/internal/verbs"
)

func main() {
	os.Exit(daemon.Main("forum-backend", nil, run))
}

func run(ctx context.Context, p *daemon.Process) error {
	kinds := []desired.Kind{{Name: "site", New: func() proto.Message { return new(forumv1.Site) }}}
	store, err := desired.Open(p.DesiredConfig(kinds, p.Log))
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
	tls, err := p.ServerTLS()
	if err != nil {
		return err
	}
	endpoint, err := metrics.Server(p.MetricsListen, tls, metrics.New(p.Service, p.Version))
	if err != nil {
		return err
	}

	listening := func(ok bool) {
		server.SetServing("", ok)
		server.SetServing(control.Service, ok)
	}
	listening(false)
	running := site.New(site.Config{Node: p.Node, Log: p.Log, Listening: listening})
	defer running.Close() // after all members of the group have ended, the loop among them
	reconciler := loop.New(loop.Config{Node: p.Node, Store: store, Status: reporter, World: running, Facts: running.Facts, Log: p.Log})
	control.Register(server.Registrar(), verbs.Verbs{Store: store, Status: reporter, Loop: reconciler}, reconciler)

	group := daemon.NewGroup(p.Log)
	group.Add("desired", store.Run)
	group.Add("status", reporter.Run)
	group.Add("loop", reconciler.Run)
	group.Add("grpcserver", server.Run)
	group.Add("metrics", endpoint.Run)
	return group.Run(ctx)
}
