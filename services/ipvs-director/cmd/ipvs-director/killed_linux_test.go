package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// The whole pool of a service with checks is swapped, and the director killed at another moment of it each time, beneath
// connections without a pause: none is lost, and the next director finishes.
func TestKernelKilledWhileThePoolIsSwapped(t *testing.T) {
	t.Parallel()
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	n := planetest.NewNetwork(t)
	state := func(pool ...int) string {
		s := fmt.Sprintf("kind: virtual-service\nname: web\naddress: %s\nport: %d\nscheduler: mh\ndrain_timeout: 1s\n"+
			"check: {tcp: {}, interval: 0.2s, timeout: 10s}\nreal_servers:\n", planetest.VIP, planetest.VIPPort)
		for _, i := range pool {
			s += fmt.Sprintf("  - {address: %s, port: %d}\n", n.Reals[i].Addr(), n.Reals[i].Port())
		}
		return s
	}
	pools := [][]int{{0, 1}, {2}}
	d := newDirector(t, n.Director, state(pools[0]...))
	takers := func(pool []int) {
		t.Helper()
		var want []string
		for _, i := range pool {
			want = append(want, n.Reals[i].String())
		}
		eventually(t, fmt.Sprintf("takers %v", want), func() error {
			answer, err := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{})
			var got []string
			for _, s := range answer.GetServices() {
				for _, r := range s.GetRealServers() {
					if r.GetWeight() > 0 {
						got = append(got, r.GetAddress())
					}
				}
			}
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("got %s", strings.Join(got, " "))
			}
			return err
		})
	}
	d.start("--dataplane", dataplane.NFTables)
	takers(pools[0])
	for round := range 8 {
		load := n.Load(t, planetest.VIPPort)
		pool := pools[(round+1)%2]
		d.want(state(pool...))
		<-time.After(time.Duration(round) * 60 * time.Millisecond) // when in the change the kill comes
		d.stop(os.Kill)
		d.start("--dataplane", dataplane.NFTables)
		takers(pool)
		if made, err := load.Stop(); err != nil {
			t.Errorf("round %d: of %d connections: %v", round, made, err)
		}
	}
}
