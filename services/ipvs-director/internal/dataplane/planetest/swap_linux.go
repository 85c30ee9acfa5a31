package planetest

import (
	"os"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// between is how many connections are made, at least, from one swap to the next.
const between = 20

// swaps swaps the whole pool of a service again and again, beneath connections from several clients without a pause: none is refused, reset or
// silent. The one who goes keeps what it has.
func swaps(t *testing.T, r *run) {
	times := 100
	if Stock.Inside() && os.Getenv(Long) != "1" {
		times = 10
	}
	pools := [][]int{{1, 0, 0}, {0, 2, 1}}
	r.become(r.service(VIPPort, spec.WLC, pools[0]...))
	open, _ := r.connect(VIPPort, 2)
	load := r.world.Network.Load(t, VIPPort, VIPPort, VIPPort, VIPPort)
	begin := time.Now()
	for i := range times {
		load.wait(t, (i+1)*between)
		r.become(r.service(VIPPort, spec.WLC, pools[(i+1)%2]...))
	}
	made, err := load.Stop()
	took := time.Since(begin)
	t.Logf("%d swaps in %v beneath %d connections, %.0f a second", times, took.Round(time.Millisecond), made, float64(made)/took.Seconds())
	if err != nil {
		t.Errorf("after %d connections: %v", made, err)
	}
	for _, c := range open {
		c.Echo(t, "still there")
	}
}
