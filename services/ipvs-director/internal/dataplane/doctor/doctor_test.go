package doctor

import "testing"

func TestFull(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		count, most int
		want        bool
	}{{0, 0, false}, {5, 0, false}, {79, 100, false}, {80, 100, true}, {100, 100, true}} {
		if got := full(c.count, c.most); got != c.want {
			t.Errorf("%d of %d: %t", c.count, c.most, got)
		}
	}
}
