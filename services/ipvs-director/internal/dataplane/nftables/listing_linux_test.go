package nftables

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Whoever is called at night can list what there is with Debian's nft 1.0.6, which aborts at what it does not understand.
func TestKernelListing(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "the nft program: install nftables")
	}
	n := network(t)
	for vip, addresses := range kinds(n) {
		for name, change := range map[string]func(*spec.Service){
			"in turn":       func(s *spec.Service) { s.Scheduler = spec.WRR },
			"by source":     func(s *spec.Service) { s.Scheduler = spec.SH },
			"by connection": func(s *spec.Service) { s.Scheduler = spec.MH },
			"lent": func(s *spec.Service) {
				s.Scheduler, s.Lent = spec.WLC, []spec.Loan{{Slot: 5, To: addresses[0]}, {Slot: 6, To: addresses[1]}}
				s.Lent = slots.Fit(*s)
			},
			"nobody":  func(s *spec.Service) { s.Reals = nil },
			"drained": func(s *spec.Service) { s.Reals[0].Weight = 0 },
			"persistence": func(s *spec.Service) {
				s.Persistence = spec.Persistence{Timeout: spec.DefaultPersistence, Prefix: vip.Addr().BitLen() - 8}
			},
			"persistence by whole addresses": func(s *spec.Service) {
				s.Persistence = spec.Persistence{Timeout: spec.DefaultPersistence, Prefix: vip.Addr().BitLen()}
			},
		} {
			t.Run(vip.String()+" "+name, func(t *testing.T) {
				s := spec.Service{VIP: vip, Scheduler: spec.RR, Reals: []spec.Real{{Address: addresses[0], Weight: 1}, {Address: addresses[1], Weight: 2}}}
				change(&s)
				become(t, n, s)
				if vip.Protocol == spec.TCP && len(s.Reals) > 0 { // so that a client is remembered
					if _, err := n.DialVIP(t, vip); err != nil {
						t.Error(err)
					}
				}
				for _, args := range [][]string{{"list", "ruleset"}, {"--json", "list", "ruleset"}} {
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
