package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/kernelsocket"

	"github.com/twotier/twotier/services/ipvs-director/internal/ipvsmsg"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// tuning reads what IPVS has once in a network namespace.
func tuning(ctx context.Context, s *socket) (*plan.Tuning, error) {
	all, err := list(ctx, s.ask, ipvsmsg.AskTimeouts(s.family), ipvsmsg.ParseTimeouts)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%d answers", len(all))
	}
	if err != nil {
		return nil, fmt.Errorf("read IPVS timeouts: %w", err)
	}
	seconds := func(n uint32) time.Duration { return time.Duration(n) * time.Second }
	t := &plan.Tuning{Timeouts: spec.Timeouts{TCP: seconds(all[0].TCP), TCPFin: seconds(all[0].TCPFin), UDP: seconds(all[0].UDP)}}
	t.Daemons, err = daemons(ctx, s)
	return t, err
}

// daemons lists those that run.
func daemons(ctx context.Context, s *socket) (all []plan.Daemon, err error) {
	listed, err := list(ctx, s.ask, ipvsmsg.AskDaemons(s.family), ipvsmsg.ParseDaemon)
	if err != nil {
		return nil, fmt.Errorf("list IPVS daemons: %w", err)
	}
	for _, d := range listed {
		all = append(all, plan.Daemon{Master: d.State == ipvsmsg.Master, CardName: d.Interface,
			Group: spec.SyncGroup{ID: d.ID, Address: d.Group, Port: d.Port, TTL: d.TTL}})
	}
	return all, nil
}

func (k kernel) setTimeouts(t spec.Timeouts) error {
	_, err := k.socket.ask(ipvsmsg.SetTimeouts(k.socket.family, ipvsmsg.Timeouts{
		TCP: uint32(t.TCP / time.Second), TCPFin: uint32(t.TCPFin / time.Second), UDP: uint32(t.UDP / time.Second),
	}))
	return err
}

// startSync starts a daemon. One that runs as wanted is no error; the kernel changes none that runs.
func (k kernel) startSync(ctx context.Context, d plan.Daemon) error {
	if d.CardName == "" {
		return plan.ErrNoCard
	}
	_, err := k.socket.ask(ipvsmsg.ChangeDaemon(k.socket.family, ipvsmsg.NewDaemon, daemon(d)))
	if errors.Is(err, unix.EEXIST) {
		d.Network = netip.Prefix{}
		if running, listErr := daemons(ctx, k.socket); listErr == nil && slices.Contains(running, d) {
			return nil
		}
	}
	return err
}

// stopSync stops a daemon. One that does not run is no error. The kernel says nothing about one that it had just started: its thread,
// which has not run yet, counts as interrupted (kthread_stop).
func (k kernel) stopSync(ctx context.Context, d plan.Daemon) error {
	_, err := k.socket.ask(ipvsmsg.ChangeDaemon(k.socket.family, ipvsmsg.DeleteDaemon, daemon(d)))
	if errors.Is(err, kernelsocket.ErrSilent) {
		running, listErr := daemons(ctx, k.socket)
		if listErr == nil && !slices.ContainsFunc(running, func(r plan.Daemon) bool { return r.Master == d.Master }) {
			return nil
		}
	}
	return unless(err, unix.ESRCH)
}

// daemon is one in the words of the messages.
func daemon(d plan.Daemon) ipvsmsg.Daemon {
	m := ipvsmsg.Daemon{State: ipvsmsg.Backup, Interface: d.CardName, ID: d.Group.ID, Group: d.Group.Address, Port: d.Group.Port, TTL: d.Group.TTL}
	if d.Master {
		m.State = ipvsmsg.Master
	}
	return m
}
