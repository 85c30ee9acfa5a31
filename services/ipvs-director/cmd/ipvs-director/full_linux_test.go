package main

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"

	directorv1 "github.com/twotier/twotier/proto/director/v1"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// A real server that is full gets no new connections until it has fewer than its lower threshold; those that it has go on.
func TestKernelFullRealServerNFTables(t *testing.T) {
	t.Parallel()
	n := planetest.NewNetwork(t)
	d := newDirector(t, n.Director, fmt.Sprintf(`kind: virtual-service
name: web
address: %s
port: %d
scheduler: rr
real_servers:
- {address: %s, port: %d, upper_threshold: 4, lower_threshold: 2}
- {address: %s, port: %d}
`, planetest.VIP, planetest.VIPPort, n.Reals[0].Addr(), n.Reals[0].Port(), n.Reals[1].Addr(), n.Reals[1].Port()))
	d.start("--dataplane", dataplane.NFTables)
	d.until("the first good pass", done)
	weight := func(want uint32) {
		t.Helper()
		eventually(t, fmt.Sprintf("weight %d", want), func() error {
			services, err := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{}, grpc.WaitForReady(true))
			if err != nil {
				return err
			}
			if r := services.GetServices()[0].GetRealServers()[0]; r.GetWeight() != want {
				return fmt.Errorf("it has %d: %s", r.GetWeight(), r.GetReason())
			}
			return nil
		})
	}
	weight(1)
	var held []*planetest.Conn
	for len(held) < 4 {
		c, err := n.Dial(t, planetest.VIPPort)
		if err != nil {
			t.Fatal(err)
		}
		if c.Real == n.Reals[0] {
			held = append(held, c)
		}
	}
	weight(0)
	if taken := spread(t, n, 6); taken[n.Reals[0]] > 0 {
		t.Errorf("full, it got %d of 6 connections", taken[n.Reals[0]])
	}
	for _, c := range held {
		c.Echo(t, "full")
	}
	for _, c := range held[:3] {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	weight(1)
	if taken := spread(t, n, 2); taken[n.Reals[0]] != 1 {
		t.Errorf("with room again, it got %d of 2 connections", taken[n.Reals[0]])
	}
	held[3].Echo(t, "with room again")
	planetest.Passed(t, "thresholds: a full real server gets none until it has fewer", dataplane.NFTables, n)
}
