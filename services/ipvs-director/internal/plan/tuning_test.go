package plan

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func TestTuning(t *testing.T) {
	t.Parallel()
	group := spec.SyncGroup{ID: 7, Address: spec.DefaultSyncGroup, Port: spec.DefaultSyncPort, TTL: spec.DefaultSyncTTL}
	both := &spec.Sync{Master: true, Backup: true, Network: netip.MustParsePrefix("192.168.60.0/24"), Group: group}
	host := Host{Addresses: []HostAddress{
		{Prefix: netip.MustParsePrefix("10.10.60.21/24"), Card: 2, CardName: "outer"},
		{Prefix: netip.MustParsePrefix("192.168.60.99/24"), Card: 3, CardName: "moved", Ours: true},
		{Prefix: netip.MustParsePrefix("192.168.60.11/24"), Card: 4, CardName: "inner"},
	}}
	master, backup := Daemon{Master: true, CardName: "inner", Group: group}, Daemon{CardName: "inner", Group: group}
	onOuter := Daemon{Master: true, CardName: "outer", Group: group}
	timeouts := spec.Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}
	const startMaster = "start telling others of connections on inner, id 7, 224.0.0.81:8848, ttl 1"
	const startBackup = "start listening to connections of others on inner, id 7, 224.0.0.81:8848, ttl 1"
	for _, c := range []struct {
		name string
		want spec.Tuning
		have *Tuning
		host Host
		plan []string
	}{
		{"nothing wanted", spec.Tuning{}, &Tuning{Timeouts: timeouts, Daemons: []Daemon{master}}, host, nil},
		{"a plane without", spec.Tuning{Sync: both, Timeouts: timeouts}, nil, host, nil},
		{"as wanted", spec.Tuning{Sync: both, Timeouts: spec.Timeouts{UDP: timeouts.UDP}}, &Tuning{Timeouts: timeouts, Daemons: []Daemon{backup, master}}, host, nil},
		{"one timeout", spec.Tuning{Timeouts: spec.Timeouts{UDP: time.Minute}}, &Tuning{Timeouts: timeouts}, host, []string{"set timeouts tcp 15m0s, tcp fin 2m0s, udp 1m0s"}},
		{"start both", spec.Tuning{Sync: both}, &Tuning{}, host, []string{startMaster, startBackup}},
		{"move one", spec.Tuning{Sync: both}, &Tuning{Daemons: []Daemon{onOuter, backup}}, host,
			[]string{"stop telling others of connections on outer, id 7, 224.0.0.81:8848, ttl 1", startMaster}},
		{"stop both", spec.Tuning{Sync: &spec.Sync{}}, &Tuning{Daemons: []Daemon{onOuter, backup}}, host,
			[]string{"stop telling others of connections on outer, id 7, 224.0.0.81:8848, ttl 1", "stop listening to connections of others on inner, id 7, 224.0.0.81:8848, ttl 1"}},
		{"no card: what runs is not stopped", spec.Tuning{Sync: both}, &Tuning{Daemons: []Daemon{onOuter}}, Host{}, []string{
			"start telling others of connections: no network card has an address in 192.168.60.0/24",
			"start listening to connections of others: no network card has an address in 192.168.60.0/24"}},
	} {
		var got []string
		for _, change := range Diff(spec.Want{Tuning: c.want}, Have{Tuning: c.have, Host: Host{Addresses: c.host.Addresses}}) {
			if change.Kind != RemoveAddress {
				got = append(got, change.String())
			}
		}
		if !slices.Equal(got, c.plan) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.plan)
		}
	}
}
