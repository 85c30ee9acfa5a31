package instance

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// Each change of state comes with the adverts that were heard last and with what the trackers had found.
func TestHistoryExplains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "a", "192.168.60.22/24"), l.join(t, "b", "192.168.60.128/24")
		first := vi1(105)
		first.Trackers = []spec.Check{{Name: "router"}, {Name: "disk", Weight: 20}}
		second := vi1(99)
		second.Trackers = []spec.Check{{Name: "router"}}
		a.start(t, first)
		b.start(t, second)
		pass(time.Second)
		a.watch.turn("router", true, "")
		pass(time.Second)
		a.watch.turn("disk", true, "") // 125 from here on
		b.watch.turn("router", true, "")
		pass(10 * time.Second)
		l.take()
		if got := a.set.Instances()[0]; got.Card != "eth0" || got.Own.String() != "192.168.60.22" {
			t.Errorf("on %q, %v", got.Card, got.Own)
		}
		a.watch.turn("router", false, "connection refused")
		pass(5 * time.Second)
		explain := func(n *node, tail int) string {
			var all []string
			history := n.set.Instances()[0].History
			for _, c := range history[len(history)-tail:] {
				all = append(all, fmt.Sprintf("%v %v -> %v: %s", c.At.Sub(l.begin).Round(time.Millisecond), c.From, c.To, c.Reason))
				for _, x := range c.Adverts {
					all = append(all, fmt.Sprintf("  %v advert %v %d", x.At.Sub(l.begin).Round(time.Millisecond), x.From, x.Priority))
				}
				all = append(all, findings(l, c.Trackers)...)
			}
			return strings.Join(append(all, findings(l, n.set.Instances()[0].Trackers)...), "\n")
		}
		expect(t, explain(a, 1), "12s master -> fault: tracker router failed: connection refused\n"+
			"  tracker disk true \"\" since 2s adds 20\n  tracker router false \"connection refused\" since 12s adds 0\n"+
			"  tracker disk true \"\" since 2s adds 20\n  tracker router false \"connection refused\" since 12s adds 0")
		expect(t, explain(b, 1), "12.613s backup -> master: master 192.168.60.22 resigned\n"+
			"  9.512s advert 192.168.60.22 125\n  10.512s advert 192.168.60.22 125\n  11.512s advert 192.168.60.22 125\n  12s advert 192.168.60.22 0\n"+
			"  tracker router true \"\" since 2s adds 0\n  tracker router true \"\" since 2s adds 0")
		a.leave()
		b.leave()
	})
}

func findings(l *lan, all []plan.Finding) (lines []string) {
	for _, f := range all {
		lines = append(lines, fmt.Sprintf("  tracker %s %v %q since %v adds %d", f.Tracker, f.Well, f.Why, f.Since.Sub(l.begin), f.Adds))
	}
	return lines
}
