package ipvs

import (
	"testing"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// The suite in the kernel that most machines run, which has more than one CPU. It is the first test: the guest runs beside the others,
// which take as long and leave a processor idle.
func TestKernelStockConformance(t *testing.T) {
	netnstest.Require(t)
	if planetest.Stock.Inside() {
		planetest.Run(t, world)
		return
	}
	if planetest.UML.Inside() {
		return // the other guest is started outside
	}
	end := planetest.Stock.Start(t, "^"+t.Name()+"$")
	t.Parallel()
	end()
}

func TestKernelConformance(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	planetest.Run(t, world)
}

func world(t testing.TB) planetest.World {
	n := planetest.NewNetwork(t)
	return planetest.World{Plane: dataplane.IPVS, Lacks: Probe().Lacks, Network: n, Open: func() planetest.Plane { return n.Inside(t, Open()) }}
}
