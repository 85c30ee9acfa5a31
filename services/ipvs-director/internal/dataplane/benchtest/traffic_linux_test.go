package benchtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// How much traffic one round makes.
const (
	echoes      = 3000 // lines there and back on one connection: about four packets each
	connections = 800
)

// BenchmarkTraffic tells what CPU the whole machine, clients and servers included, spends on each line there and back of an
// established connection and on each new connection; in µs. The planes take turns.
func BenchmarkTraffic(b *testing.B) {
	names := planes(b)
	for range rounds(b) {
		for _, name := range names {
			n := planetest.NewNetwork(b)
			p := n.Inside(b, open[name]())
			service := spec.Service{VIP: spec.MustParseVIP(fmt.Sprintf("%s:%d", planetest.VIP, planetest.VIPPort)), Scheduler: spec.MH}
			for _, address := range n.Reals {
				service.Reals = append(service.Reals, spec.Real{Address: address, Weight: 1})
			}
			if _, err := p.Apply(b.Context(), plan.Diff(spec.Want{Services: []spec.Service{service}}, plan.Have{})); err != nil {
				b.Fatal(err)
			}
			c := dial(b, n)
			c.Echo(b, "warm")
			before := busy(b)
			for range echoes {
				c.Echo(b, "x")
			}
			say(b, measured{"packet-cost", name, "cpu", (busy(b) - before) / echoes})

			before = busy(b)
			for range connections {
				if err := dial(b, n).Close(); err != nil {
					b.Fatal(err)
				}
			}
			say(b, measured{"conn-cost", name, "cpu", (busy(b) - before) / connections})
			if err := p.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func dial(b *testing.B, n *planetest.Network) *planetest.Conn {
	b.Helper()
	c, err := n.Dial(b, planetest.VIPPort)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// busy is the time that the processors of this machine have not been idle, in µs (the first line of proc(5), stat).
func busy(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	const idle, waiting, perTick = 4, 5, 10_000 // columns, and µs of a tick (USER_HZ is 100)
	total := 0.0
	for i, field := range strings.Fields(line)[:8] { // what guests take is part of user
		n, err := strconv.ParseFloat(field, 64)
		if i > 0 && err != nil {
			b.Fatal(err)
		}
		if i > 0 && i != idle && i != waiting {
			total += n * perTick
		}
	}
	return total
}
