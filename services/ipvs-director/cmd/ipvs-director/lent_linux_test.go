package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	directorv1 "github.com/twotier/twotier/proto/director/v1"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// The connections of one real server never end: the program lends its slots to the others, tells so, and has them back when they end.
func TestKernelLeastConnectionNFTables(t *testing.T) {
	t.Parallel()
	n := planetest.NewNetwork(t)
	text := fmt.Sprintf("kind: virtual-service\nname: web\naddress: %s\nport: %d\nscheduler: wlc\nreal_servers:\n", planetest.VIP, planetest.VIPPort)
	for _, r := range n.Reals {
		text += fmt.Sprintf("- {address: %s, port: %d}\n", r.Addr(), r.Port())
	}
	d := newDirector(t, n.Director, text)
	d.start("--dataplane", dataplane.NFTables)
	d.until("the first good pass", done)
	note := func() string {
		t.Helper()
		answer, err := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetServices()[0].GetNote()
	}
	var last []*planetest.Conn
	eventually(t, "slots are lent", func() error {
		for range 30 {
			c, err := n.Dial(t, planetest.VIPPort)
			if err != nil {
				t.Fatal(err)
			}
			if c.Real == n.Reals[0] && len(last) < 60 {
				last = append(last, c)
			} else if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if text := note(); !strings.Contains(text, "slots are lent") {
			return fmt.Errorf("with %d connections that last the note is %q", len(last), text)
		}
		return nil
	})
	for _, c := range last {
		c.Echo(t, "still there")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all slots are at home", func() error {
		if text := note(); text != "" {
			return errors.New(text)
		}
		return nil
	})
	if !t.Failed() {
		planetest.Passed(t, "wlc: who has long connections lends slots", dataplane.NFTables, n)
	}
}
