// Command file-sync keeps folders on one node equal to folders on others.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
	"github.com/twotier/twotier/services/file-sync/internal/control"
	"github.com/twotier/twotier/services/file-sync/internal/loop"
	"github.com/twotier/twotier/services/file-sync/internal/pair"
	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/transfer"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
	"github.com/twotier/twotier/services/file-sync/internal/watch"
	"github.com/twotier/twotier/services/file-sync/internal/writer"
	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/metrics"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/internal/verbs"
)

// brakeFrom is the size from which on a target is guarded against being emptied: a smaller one is soon copied again.
const brakeFrom = 100

func main() { os.Exit(daemon.Main("file-sync", nil, run)) }

func run(ctx context.Context, p *daemon.Process) (err error) {
	clientTLS, err := p.ClientTLS()
	if err != nil {
		return err
	}
	serverTLS, err := p.ServerTLS()
	if err != nil {
		return err
	}
	kinds := []desired.Kind{{Name: loop.KindPair, New: func() proto.Message { return new(filesyncv1.Pair) }}}
	store, err := desired.Open(p.DesiredConfig(kinds, p.Log))
	if err != nil {
		return err
	}
	reporter, err := status.Open(p.StatusConfig(p.Version, p.Log))
	if err != nil {
		return err
	}
	counters, err := metrics.Server(p.MetricsListen, serverTLS, metrics.New(p.Service, p.Version))
	if err != nil {
		return err
	}
	server, err := grpcserver.New(p.GRPCConfig(p.Log))
	if err != nil {
		return err
	}
	sides := pair.New(pair.Config{Make: factory(clientTLS, serverTLS), Log: p.Log})
	passes := loop.New(loop.Config{
		Node: p.Node, Store: store, Status: reporter, Sides: sides, Log: p.Log,
	})
	control.New(&verbs.Verbs{Store: store, Status: reporter, Loop: passes}, passes).Register(server.Registrar())

	group := daemon.NewGroup(p.Log)
	group.Add("desired", store.Run)
	group.Add("status", reporter.Run)
	group.Add("metrics", counters.Run)
	group.Add("grpc", server.Run)
	group.Add("loop", func(ctx context.Context) error { return passes.Run(ctx, sides.Changed()) })
	group.Add("health", func(ctx context.Context) error {
		select {
		case <-passes.First():
			server.SetServing("", true)
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	})
	err = group.Run(ctx)
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, sides.Close(stop))
}

// factory joins the rooms to the sides of a pair.
func factory(clientTLS, serverTLS *tls.Config) func(context.Context, plan.Side, func()) (pair.Runner, error) {
	return func(ctx context.Context, side plan.Side, changed func()) (pair.Runner, error) {
		switch side.Role {
		case plan.Source:
			return transfer.NewSource(transfer.SourceConfig{
				Pair: side.Pair, TLS: clientTLS, Changed: changed,
				Open: func(path string) (transfer.Watched, error) { return watch.Open(path, watch.Config{}) },
			})
		case plan.Target:
			return transfer.NewTarget(ctx, transfer.TargetConfig{
				Pair: side.Pair, TLS: serverTLS, Changed: changed, Brake: tree.Brake{MinEntries: brakeFrom},
				Open: func(path string) (transfer.Folder, error) {
					w, err := writer.Open(path, writer.Config{Owners: writer.MayChown()})
					if err != nil {
						return nil, err
					}
					return target{w}, nil
				},
			})
		}
		return nil, fmt.Errorf("unknown role %v", side.Role)
	}
}

// target is a writer as transfer wants it.
type target struct{ *writer.Writer }

// Create begins a file.
func (t target) Create(e tree.Entry) (transfer.Incoming, error) {
	f, err := t.Writer.Create(e)
	if err != nil {
		return nil, err // not a nil file in an interface
	}
	return f, nil
}
