// Command l7-router sends each HTTP request to the right server of the right backend.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/metrics"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/internal/verbs"
	"github.com/twotier/twotier/services/l7-router/internal/control"
	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/epoll"
	"github.com/twotier/twotier/services/l7-router/internal/export"
	"github.com/twotier/twotier/services/l7-router/internal/loop"
	"github.com/twotier/twotier/services/l7-router/internal/page"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/report"
)

func main() {
	var driver string
	flags := func(f *flag.FlagSet) {
		f.StringVar(&driver, "driver", "epoll", "how connections in cleartext are served: epoll (a loop for each core) or goroutine (a goroutine for each connection)")
	}
	os.Exit(daemon.Main("l7-router", flags, func(ctx context.Context, p *daemon.Process) error { return run(ctx, p, driver) }))
}

// openDrivers opens the driver for cleartext, and the one for everything.
func openDrivers(name string, log *zap.Logger) (cleartext, full engine.Driver, err error) {
	full = proxy.New(log)
	switch name {
	case "epoll":
		loops := runtime.GOMAXPROCS(0)
		runtime.GOMAXPROCS(loops + 1) // for everything that is not a loop: checks, gRPC, the garbage collector
		cleartext, err = epoll.Open(loops, log)
		return cleartext, full, err
	case "goroutine":
		return full, full, nil
	}
	return nil, nil, fmt.Errorf("--driver %q: want epoll or goroutine", name)
}

func run(ctx context.Context, p *daemon.Process, driver string) error {
	wanted := p.DesiredConfig(loop.Kinds(), p.Log)
	store, err := desired.Open(wanted)
	if err != nil {
		return err
	}
	reporter, err := status.Open(p.StatusConfig(p.Version, p.Log))
	if err != nil {
		return err
	}
	door, err := grpcserver.New(p.GRPCConfig(p.Log))
	if err != nil {
		return err
	}
	tls, err := p.ServerTLS()
	if err != nil {
		return err
	}
	registry := metrics.New(p.Service, p.Version)
	figures, err := metrics.Server(p.MetricsListen, tls, registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}

	servers := pool.New(p.Log)
	if wanted.StateDir != "" {
		servers = pool.Open(p.Log, filepath.Join(wanted.StateDir, p.Service+"-servers.json"))
	}
	cleartext, full, err := openDrivers(driver, p.Log)
	if err != nil {
		return err
	}
	statistics, err := page.Open(page.Config{StateDir: wanted.StateDir, Servers: servers, Log: p.Log})
	if err != nil {
		return fmt.Errorf("statistics page: %w", err)
	}
	servers.SetPage(statistics.Backend())
	router := engine.New(engine.Config{Pool: servers, Cleartext: cleartext, Full: full, Log: p.Log})
	now := report.New(report.Config{Pool: servers, Observe: router.Observe, Node: p.Node, Version: p.Version})
	registry.Registry().MustRegister(export.New(now.Report, router.LogDropped))
	reconciler := loop.New(loop.Config{
		Store: store, Status: reporter, Plane: router, Log: p.Log,
		Serving: func(ok bool) {
			door.SetServing(control.Service, ok)
			door.SetServing("", ok)
		},
	})
	control.Register(door.Registrar(), verbs.Verbs{Store: store, Status: reporter, Loop: reconciler}, servers, router)

	// Not before the first pass has said so.
	door.SetServing(control.Service, false)
	door.SetServing("", false)

	group := daemon.NewGroup(p.Log)
	group.Add("desired", store.Run)
	group.Add("status", reporter.Run)
	group.Add("grpc", door.Run)
	group.Add("metrics", figures.Run)
	group.Add("pool", servers.Run)
	group.Add("engine", router.Run)
	group.Add("page", func(ctx context.Context) error { return statistics.Run(ctx, now.Report) })
	group.Add("loop", func(ctx context.Context) error { return reconciler.Run(ctx, router.Changed()) })
	return group.Run(ctx)
}
