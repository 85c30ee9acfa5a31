// Command l7-router sends each HTTP request to the right server of the right backend.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

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
	"github.com/twotier/twotier/services/l7-router/internal/handover"
	"github.com/twotier/twotier/services/l7-router/internal/loop"
	"github.com/twotier/twotier/services/l7-router/internal/page"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/report"
)

func main() {
	var driver string
	var upgrade upgrading
	flags := func(f *flag.FlagSet) {
		upgrade.flags(f)
		f.StringVar(&driver, "driver", "epoll", "how connections in cleartext are served: epoll (a loop for each core) or goroutine (a goroutine for each connection)")
	}
	os.Exit(daemon.Main("l7-router", flags, func(ctx context.Context, p *daemon.Process) error { return run(ctx, p, driver, upgrade) }))
}

// openDrivers opens the driver for cleartext, and the one for everything.
func openDrivers(name string, log *zap.Logger) (cleartext, full engine.Driver, err error) {
	full = proxy.New(log)
	switch name {
	case "epoll":
		loops := runtime.GOMAXPROCS(0)
		d, err := epoll.Open(loops, log)
		if err != nil {
			return nil, nil, err
		}
		// One more while loops are busy, for everything that is not a loop: checks, gRPC, TLS. One that nobody needs costs TLS and
		// HTTP/2 a tenth of their requests: goroutines wander to and fro between it and the others.
		d.OnCarrying(func(carrying bool) {
			if carrying {
				runtime.GOMAXPROCS(loops + 1)
			} else {
				runtime.GOMAXPROCS(loops)
			}
		})
		return d, full, nil
	case "goroutine":
		return full, full, nil
	}
	return nil, nil, fmt.Errorf("--driver %q: want epoll or goroutine", name)
}

func run(ctx context.Context, p *daemon.Process, driver string, upgrade upgrading) error {
	wanted := p.DesiredConfig(loop.Kinds(), p.Log)
	before, err := upgrade.open(ctx, p, wanted.StateDir)
	if err != nil {
		return err
	}
	defer before.Sockets.Close()
	store, err := desired.Open(wanted)
	if err != nil {
		return err
	}
	reporter, err := status.Open(p.StatusConfig(p.Version, p.Log))
	if err != nil {
		return err
	}
	api := p.GRPCConfig(p.Log)
	api.Inherited = file(before.Sockets, grpcName+p.GRPCListen)
	door, err := grpcserver.New(api)
	if err != nil {
		return err
	}
	tls, err := p.ServerTLS()
	if err != nil {
		return err
	}
	registry := metrics.New(p.Service, p.Version)
	endpoint, err := metrics.Server(p.MetricsListen, tls, registry, file(before.Sockets, figures+p.MetricsListen))
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
	router := engine.New(engine.Config{Pool: servers, Cleartext: cleartext, Full: full, Sockets: addresses(before.Sockets), Log: p.Log})
	now := report.New(report.Config{Pool: servers, Observe: router.Observe, Node: p.Node, Version: p.Version})
	registry.Registry().MustRegister(export.New(now.Report, router.LogDropped))
	serving := newSignal()
	reconciler := loop.New(loop.Config{
		Store: store, Status: reporter, Plane: router, Log: p.Log,
		Serving: func(ok bool) {
			if ok {
				serving.set()
			}
			door.SetServing(control.Service, ok)
			door.SetServing("", ok)
		},
	})
	control.Register(door.Registrar(), verbs.Verbs{Store: store, Status: reporter, Loop: reconciler}, servers, router)

	// Not before the first pass has said so.
	door.SetServing(control.Service, false)
	door.SetServing("", false)

	succeeded := newSignal() // another process has taken the place of this one
	// office is for what only one process does; the rest goes on for the connections that are left.
	office := func(run func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			working, leave := context.WithCancel(ctx)
			defer leave()
			go func() { // ends with run
				select {
				case <-succeeded.c:
					leave()
				case <-working.Done():
				}
			}()
			err := run(working)
			if succeeded.is() {
				<-ctx.Done() // the end of a part would be the end of all
			}
			return err
		}
	}
	give := func() (handover.Sockets, error) {
		listened, err := router.Sockets()
		if err != nil {
			return nil, err
		}
		all := handover.Sockets{}
		for address, fds := range listened {
			all[listening+address] = fds
		}
		f, err := door.File()
		err = add(all, grpcName+p.GRPCListen, f, err)
		if err == nil {
			f, err = endpoint.File()
			err = add(all, figures+p.MetricsListen, f, err)
		}
		if err != nil {
			all.Close()
			return nil, err
		}
		return all, nil
	}
	release := func(kept []string) error {
		servers.Leave()
		err := router.HandOver(ctx, func(address string) bool { return slices.Contains(kept, address) }, upgrade.drain)
		succeeded.set()
		return err
	}
	succession := func(ctx context.Context) error {
		var late <-chan time.Time
		if before.Given() {
			timer := time.NewTimer(handover.ReadyTimeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-serving.c:
		case <-late:
			return fmt.Errorf("not everything is listened on within %v, so the router before goes on", handover.ReadyTimeout)
		case <-ctx.Done():
			return nil
		}
		router.CloseInherited()
		if err := before.Ready(router.Kept()); err != nil {
			if _, absent := handover.Who(upgrade.path); absent == nil {
				return fmt.Errorf("the router before goes on: %w", err) // two must not
			}
			p.Log.Warn("the router before has ended by itself", zap.Error(err))
		}
		if upgrade.path != "" {
			server, err := handover.Listen(upgrade.path, p.Log)
			if err != nil {
				// The addresses are served already, and whoever had them before has let go.
				p.Log.Warn("no other binary can take over from this process", zap.Error(err))
			} else if _, err := server.Run(ctx, give, release); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return nil
	}

	group := daemon.NewGroup(p.Log)
	group.Add("desired", office(store.Run))
	group.Add("status", office(reporter.Run))
	group.Add("grpc", office(door.Run))
	group.Add("metrics", office(endpoint.Run))
	group.Add("succession", succession)
	group.Add("pool", servers.Run)
	group.Add("engine", router.Run)
	group.Add("page", func(ctx context.Context) error { return statistics.Run(ctx, now.Report) })
	group.Add("loop", office(func(ctx context.Context) error { return reconciler.Run(ctx, router.Changed()) }))
	err = group.Run(ctx)
	if err == nil && succeeded.is() && os.Getpid() == 1 {
		follow(upgrade.path, ctx.Err() != nil, p.Log)
	}
	return err
}
