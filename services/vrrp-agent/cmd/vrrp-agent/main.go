// Command vrrp-agent keeps each virtual address on exactly one living node.
package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/metrics"
	"github.com/twotier/twotier/services/internal/relay"
	"github.com/twotier/twotier/services/internal/status"
	"github.com/twotier/twotier/services/internal/verbs"
	"github.com/twotier/twotier/services/vrrp-agent/internal/control"
	"github.com/twotier/twotier/services/vrrp-agent/internal/gauges"
	"github.com/twotier/twotier/services/vrrp-agent/internal/instance"
	"github.com/twotier/twotier/services/vrrp-agent/internal/loop"
	"github.com/twotier/twotier/services/vrrp-agent/internal/netdev"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/notify"
	"github.com/twotier/twotier/services/vrrp-agent/internal/recall"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
	"github.com/twotier/twotier/services/vrrp-agent/internal/track"
	"github.com/twotier/twotier/services/vrrp-agent/internal/warden"
)

const service = "vrrp-agent"

func main() {
	if warden.Wanted() {
		os.Exit(watchOver())
	}
	guard := warden.Join()
	code := daemon.Main(service, nil, func(ctx context.Context, p *daemon.Process) error { return run(ctx, p, guard) })
	warden.Ordinary()
	os.Exit(code)
}

// watchOver is the main function of the warden, which starts this program again as the agent. Flags are the agent's
// affair, but for the name of the node.
func watchOver() int {
	log, err := logging.New(service, daemon.Node(service), "", os.Stdout)
	if err != nil {
		panic(err) // the level is a constant
	}
	log = log.Named("warden")
	cards, err := netdev.Open(log)
	if err != nil { // so will the agent say
		log.Error("look at the network cards", zap.Error(err))
		return 1
	}
	defer cards.Close()
	code, err := warden.Run(warden.Config{Cards: cards, Log: log})
	if netdev.TakePlace(context.Background(), "the warden of an agent that has ended", 0, log) == nil { // else they are another agent's
		_ = cards.Strip() // what is left is off, and the next start's affair
	}
	if err != nil {
		log.Error("watch over the agent", zap.Error(err))
		code = 1
	}
	return code
}

func run(ctx context.Context, p *daemon.Process, guard *warden.Guard) error {
	if err := netdev.Permitted(); err != nil {
		return err
	}
	if !warden.AgentRealtime() {
		p.Log.Info("no real-time priority; a busy processor can delay adverts", zap.String("needs", "CAP_SYS_NICE or RLIMIT_RTPRIO"))
	}
	if err := netdev.TakePlace(ctx, fmt.Sprintf("node %s, control API at %s", p.Node, p.GRPCListen), netdev.PlaceWait, p.Log); err != nil {
		return err
	}
	clientTLS, err := p.ClientTLS()
	if err != nil {
		return err
	}
	serverTLS, err := p.ServerTLS()
	if err != nil {
		return err
	}
	kinds := []desired.Kind{{Name: spec.KindInstance, New: func() proto.Message { return new(vrrpv1.Instance) }}}
	wanted := p.DesiredConfig(kinds, p.Log)
	store, err := desired.Open(wanted)
	if err != nil {
		return err
	}
	reporter, err := status.Open(p.StatusConfig(p.Version, p.Log))
	if err != nil {
		return err
	}
	host, err := netdev.Open(p.Log)
	if err != nil {
		return err
	}
	defer host.Close()
	if err := host.Strip(); err != nil {
		p.Log.Warn("virtual network cards of an earlier run are left", zap.Error(err))
	}
	talk, err := netdev.OpenTalk()
	if err != nil {
		p.Log.Warn("no word with other agents: plain VRRP", zap.Error(err))
	}
	witness, err := relay.Open(p.RelayConfig(p.Log))
	if err != nil {
		return err
	}
	server, err := grpcserver.New(p.GRPCConfig(p.Log))
	if err != nil {
		return err
	}
	registry := metrics.New(service, p.Version)
	endpoint, err := metrics.Server(p.MetricsListen, serverTLS, registry)
	if err != nil {
		return err
	}

	notifier := notify.New(p.Node, p.Log)
	set := instance.NewSet(&network{Host: host, talk: talk, hushed: make(chan struct{}), witness: witness, node: p.Node}, guard,
		track.Tracker{TLS: clientTLS, Etcd: witness, Log: p.Log.Named("track")}.Watch, notifier.Tell, recall.Folder(wanted.StateDir), p.Log)
	if err := registry.Registry().Register(gauges.New(set)); err != nil {
		return err
	}
	reconciler := loop.New(loop.Config{
		Node: p.Node, Store: store, Status: reporter, World: set, Log: p.Log,
		Ready: func() { server.SetServing("", true) },
	})
	server.SetServing("", false)
	control.Register(server.Registrar(), &verbs.Verbs{Store: store, Status: reporter, Loop: reconciler}, set)

	group := daemon.NewGroup(p.Log)
	group.Add("desired", store.Run)
	group.Add("status", reporter.Run)
	group.Add("grpc", server.Run)
	group.Add("metrics", endpoint.Run)
	group.Add("witness", func(ctx context.Context) error {
		return witness.Run(ctx, parleyKeys+p.Node+"/", func(_, word string) { set.Heard([]byte(word), netip.Addr{}) })
	})
	group.Add("netdev", func(ctx context.Context) error { return host.Run(ctx, set.Poke) })
	group.Add("instances", func(ctx context.Context) error {
		err := set.Run(ctx)
		notifier.Close() // after the last change
		return err
	})
	group.Add("notify", func(context.Context) error { return notifier.Run() })
	group.Add("loop", func(ctx context.Context) error { return reconciler.Run(ctx, store.Changed(), set.Changed()) })
	return group.Run(ctx)
}

// network lets an instance use the host's wires, and speak to other agents if that is possible.
type network struct {
	*netdev.Host
	talk   *netdev.Talk // nil: it is not
	hushed chan struct{}
	// witness is the etcd through which agents ask each other when no network is left, and node who asks.
	witness *relay.Relay
	node    string
}

// parleyKeys is where agents leave messages in etcd: behind it come the receiver, the sender and the instance.
const parleyKeys = "/twotier/parley/" + service + "/"

func (n *network) Post(node, name string, message []byte) {
	n.witness.Post(parleyKeys+node+"/"+n.node+"/"+name, string(message))
}

func (n *network) Listen(p nic.Port) (instance.Wire, error) {
	wire, err := n.Host.Listen(p)
	if err != nil {
		return nil, err
	}
	return wire, nil
}

func (n *network) Tell(from nic.Port, to netip.Addr, message []byte) error {
	if n.talk == nil {
		return nil
	}
	return n.talk.Tell(from, to, message)
}

func (n *network) Hear(b []byte) (int, netip.Addr, error) {
	if n.talk == nil {
		<-n.hushed
		return 0, netip.Addr{}, net.ErrClosed
	}
	return n.talk.Hear(b)
}

func (n *network) Hush() {
	close(n.hushed)
	if n.talk != nil {
		_ = n.talk.Close() // it is not used any more
	}
}
