package netnsmark

import (
	"testing"

	"github.com/twotier/twotier/services/internal/netnstest"
)

// A namespace keeps its mark, and no other one gets it, not even when its inode is given again.
func TestKernelOwn(t *testing.T) {
	netnstest.Require(t)
	seen := map[string]bool{}
	own := func() string {
		t.Helper()
		mark, err := Own()
		if err != nil {
			t.Fatal(err)
		}
		return mark
	}
	seen[own()] = true
	for range 3 {
		t.Run("namespace", func(t *testing.T) {
			netnstest.New(t).Do(t, func() {
				first := own()
				if seen[first] || own() != first {
					t.Errorf("got %q, then %q; others have %v", first, own(), seen)
				}
				seen[first] = true
			})
		}) // its namespace ends here
	}
}
