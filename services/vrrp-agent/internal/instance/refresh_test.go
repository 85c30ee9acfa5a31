package instance

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
)

// A master tells the network now and then where the address is, and nobody else does.
func TestRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "a", "192.168.60.22/24"), l.join(t, "b", "192.168.60.128/24")
		first, second := vi1(105), vi1(99)
		first.Refresh, second.Refresh = 10*time.Second, 10*time.Second
		a.start(t, first)
		b.start(t, second)
		pass(9 * time.Second) // in which it is told twice, five times each
		l.take()
		pass(20 * time.Second)
		expect(t, grep(l.take(), "announce"), "13.590 a announce 192.168.60.78\n23.590 a announce 192.168.60.78")

		first.Refresh = 40 * time.Second
		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: first}); err != nil {
			t.Fatal(err)
		}
		pass(41 * time.Second)
		expect(t, grep(l.take(), "announce"), "69.000 a announce 192.168.60.78")

		b.leave()
		a.leave()
		pass(time.Minute)
		expect(t, grep(l.take(), "announce"), "")
	})
}
