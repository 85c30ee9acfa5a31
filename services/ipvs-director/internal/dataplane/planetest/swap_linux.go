package planetest

import (
	"os"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// swaps swaps the whole pool of a service again and again, beneath connections from several clients without a pause: none is refused, reset or
// silent. The one who goes keeps what it has.
func swaps(t *testing.T, r *run) {
	times := 10
	if os.Getenv(Long) == "1" {
		times = 100
	}
	pools := [][]int{{1, 0, 0}, {0, 2, 1}}
	r.become(r.service(VIPPort, spec.WLC, pools[0]...))
	open, _ := r.connect(VIPPort, 2)
	stop := r.world.Network.Load(t, VIPPort, VIPPort, VIPPort, VIPPort)
	begin := time.Now()
	for i := range times {
		r.become(r.service(VIPPort, spec.WLC, pools[(i+1)%2]...))
	}
	made, err := stop()
	t.Logf("%d swaps in %v beneath %d connections", times, time.Since(begin).Round(time.Millisecond), made)
	if err != nil {
		t.Errorf("of %d connections: %v", made, err)
	}
	for _, c := range open {
		c.Echo(t, "still there")
	}
}
