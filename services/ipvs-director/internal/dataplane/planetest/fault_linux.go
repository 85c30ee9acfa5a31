package planetest

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// swapped is how many real servers dies changes, in two services.
const swapped = 20

// dies stops a change of 20 real servers in two services after each of its steps, as a kill would: nothing is told to anybody,
// and the next plane finds what there is. Connections come and go meanwhile, and some stay open: none is refused, reset or
// silent, and the state is the wanted one after the next pass.
func dies(t *testing.T, r *run) {
	n := r.world.Network
	// Each service has real servers of its own. With shared ones a client that happens to use one port for both VIPs would be one
	// connection for the real server, and IPVS, which keeps the client's port, would have the second cut the first.
	pools := map[int][]netip.AddrPort{VIPPort: n.Pool(t, swapped, realPort+1), VIP2Port: n.Pool(t, swapped, realPort+1+swapped)}
	service := func(port int, scheduler spec.Scheduler, weights ...int) spec.Service {
		r.reals = pools[port]
		return r.service(port, scheduler, weights...)
	}
	// The first half hands over to the second; removal waits until nothing is open, so it is no part of this.
	weights := func(first, second int) (all []int) {
		for i := range swapped {
			all = append(all, first)
			if i >= swapped/2 {
				all[i] = second
			}
		}
		return all
	}
	before := []spec.Service{service(VIPPort, spec.WLC, weights(1, -1)...), service(VIP2Port, spec.MH, weights(2, -1)...)}
	after := []spec.Service{service(VIPPort, spec.WRR, weights(0, 3)...), service(VIP2Port, spec.RR, weights(0, 1)...)}
	r.become(before...)
	steps := plan.Diff(spec.Want{Services: after}, r.observe())
	// Where processors are emulated each of them takes a second or more.
	every := 1
	if Stock.Inside() && os.Getenv(Long) != "1" {
		every = 6
	}
	for done := 0; done <= len(steps); done += every {
		r.become(before...)
		open, _ := r.connect(VIPPort, 2)
		load := n.Load(t, VIPPort, VIP2Port)
		if _, err := r.plane.Apply(t.Context(), steps[:done]); err != nil {
			t.Fatalf("killed after %d steps: %v", done, err)
		}
		// What it had in mind is lost with it.
		r.plane = r.world.Open()
		r.become(after...)
		made, err := load.Stop()
		if err != nil {
			t.Errorf("killed after %d of %d steps: of %d connections: %v", done, len(steps), made, err)
		}
		for _, c := range open {
			c.Echo(t, fmt.Sprintf("killed after %d steps", done))
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
