package memory

import (
	"context"
	"errors"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

func TestConformance(t *testing.T) {
	planetest.Run(t, func(testing.TB) planetest.World {
		kernel := new(Kernel)
		return planetest.World{Plane: "memory", Open: func() planetest.Plane { return Open(kernel) }}
	})
}

func TestFail(t *testing.T) {
	t.Parallel()
	kernel, broken := new(Kernel), errors.New("broken")
	kernel.Fail(broken)
	if _, err := Open(kernel).Observe(context.Background()); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
