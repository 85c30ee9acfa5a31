package nftables

import (
	"testing"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// The suite in the kernel that most machines run. It is the first test: the guest runs beside the others, which mostly wait.
func TestKernelStockConformance(t *testing.T) {
	netnstest.Require(t)
	if planetest.Stock.Inside() {
		planetest.Run(t, world)
		return
	}
	end := planetest.Stock.Start(t, "^"+t.Name()+"$")
	t.Parallel()
	end()
}

func TestKernelConformance(t *testing.T) {
	planetest.Run(t, world)
}

func world(t testing.TB) planetest.World {
	n := network(t)
	return planetest.World{Plane: dataplane.NFTables, Lacks: lacks, Network: n, Open: func() planetest.Plane { return n.Inside(t, Open()) }}
}
