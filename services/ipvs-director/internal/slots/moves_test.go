package slots

import (
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func TestMoves(t *testing.T) {
	t.Parallel()
	table := func(scheduler spec.Scheduler, weights ...int) Table {
		return Of(spec.Service{VIP: vip, Scheduler: scheduler, Reals: weighted(weights...)})
	}
	now, then := table(spec.MH, 1, 1, 1), table(spec.MH, 1, 0, 1)
	moves, ok := Moves(now, then)
	total := 0
	for _, m := range moves {
		total += m.Slots
	}
	differ := 0
	for i := range now.Slots {
		if now.Slots[i] != then.Slots[i] {
			differ++
		}
	}
	if !ok || total != differ || total < SmallTable/3 {
		t.Errorf("%v, %t: %d slots move, %d differ", moves, ok, total, differ)
	}
	if moves, ok := Moves(now, now); !ok || len(moves) > 0 {
		t.Errorf("the same table: %v, %t", moves, ok)
	}
	for name, other := range map[string]Table{"in turn": table(spec.RR, 1, 1, 1), "by source": table(spec.SH, 1, 1, 1), "nobody": table(spec.MH, 0)} {
		if _, ok := Moves(now, other); ok {
			t.Errorf("%s: taken for comparable", name)
		}
	}
	shares := then.Shares()
	if a, b := shares[weighted(1)[0].Address], len(shares); a < 495 || a > 505 || b != 2 {
		t.Errorf("shares %v", shares)
	}
}
