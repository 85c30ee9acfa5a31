package epoll

import (
	"slices"
	"testing"

	"go.uber.org/zap"
)

// TestCarrying: that there is something to carry is told at once, that there is nothing any more when the loops tidy up.
func TestCarrying(t *testing.T) {
	t.Parallel()
	d, err := Open(1, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.loops[0].close)
	var told []bool
	d.OnCarrying(func(carrying bool) { told = append(told, carrying) })
	for i, step := range []struct {
		conns int64
		tidy  bool
		want  []bool
	}{
		{0, true, nil},
		{1, false, []bool{true}},
		{2, true, []bool{true}},
		{0, true, []bool{true, false}},
		{0, true, []bool{true, false}},
		{1, false, []bool{true, false, true}},
	} {
		d.conns.Store(step.conns)
		if step.tidy {
			tidier{d.loops[0]}.expired()
		} else {
			d.lookCarrying()
		}
		if !slices.Equal(told, step.want) {
			t.Fatalf("step %d: told %v, want %v", i, told, step.want)
		}
	}
}
