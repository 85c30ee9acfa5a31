package nftables

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Whoever is called at night can list what there is with Debian's nft 1.0.6, which aborts at what it does not understand. Of a table with a
// persistent service it lists the maps and sets; why not the rules is said in the README.
func TestKernelListing(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "the nft program: install nftables")
	}
	n := network(t)
	all := [][]string{{"list", "ruleset"}, {"--json", "list", "ruleset"}}
	for vip, addresses := range kinds(n) {
		for name, c := range map[string]struct {
			change func(*spec.Service)
			lists  [][]string
		}{
			"in turn":       {func(s *spec.Service) { s.Scheduler = spec.WRR }, all},
			"by source":     {func(s *spec.Service) { s.Scheduler = spec.SH }, all},
			"by connection": {func(s *spec.Service) { s.Scheduler = spec.MH }, all},
			"lent": {func(s *spec.Service) {
				s.Scheduler, s.Lent = spec.WLC, []spec.Loan{{Slot: 5, To: addresses[0]}, {Slot: 6, To: addresses[1]}}
				s.Lent = slots.Fit(*s)
			}, all},
			"nobody":  {func(s *spec.Service) { s.Reals = nil }, all},
			"drained": {func(s *spec.Service) { s.Reals[0].Weight = 0 }, all},
			"persistence": {func(s *spec.Service) {
				s.Persistence = spec.Persistence{Timeout: spec.DefaultPersistence, Prefix: vip.Addr().BitLen() - 8}
			}, [][]string{{"list", "map", familyName(vip), TableName, stickyPrefix + suffix(vip)}, {"list", "map", familyName(vip), TableName, weightsPrefix + suffix(vip)}, {"list", "maps"}, {"list", "sets"}}},
		} {
			t.Run(vip.String()+" "+name, func(t *testing.T) {
				s := spec.Service{VIP: vip, Scheduler: spec.RR, Reals: []spec.Real{{Address: addresses[0], Weight: 1}, {Address: addresses[1], Weight: 2}}}
				c.change(&s)
				become(t, n, s)
				if vip.Protocol == spec.TCP && len(s.Reals) > 0 { // so that a client is remembered
					if _, err := n.DialVIP(t, vip); err != nil {
						t.Error(err)
					}
				}
				for _, args := range c.lists {
					if out := n.Director.Exec(t, "nft", args...); !strings.Contains(out, vip.Addr().String()) && !strings.Contains(out, suffix(vip)) {
						t.Errorf("nft %v does not name %s:\n%s", args, vip, out)
					}
				}
			})
		}
	}
}

func familyName(vip spec.VIP) string {
	if vip.Is6() {
		return "ip6"
	}
	return "ip"
}
