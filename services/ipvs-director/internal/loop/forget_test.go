package loop

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Whose VIP goes elsewhere forgets its connections, once at once and once for what was on its way, over a restart too; whoever holds the
// VIP, or never did, forgets nothing.
func TestConnectionsThatWentElsewhereAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLenders(t)
		forgot := func(what string, first, second int) {
			t.Helper()
			if a, b := p.tableaus[0].hasForgotten(p.vip), p.tableaus[1].hasForgotten(p.vip); a != first || b != second {
				t.Errorf("%s: the two have forgotten %d and %d times, want %d and %d", what, a, b, first, second)
			}
		}
		later := func() { p.passes(int(forgetAgain/time.Second) + 2) }
		p.holds(0)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.rigs[0].loop.Run(ctx) }()
		p.rigs[1].run()
		later()
		forgot("the first has it", 0, 0)

		p.holds(1)
		p.passes(1)
		forgot("gone", 1, 0)
		p.passes(3)
		forgot("gone for a while", 1, 0)
		later()
		forgot("gone for longer", 2, 0)
		later()
		forgot("gone for good", 2, 0)

		p.holds(0)
		p.tableaus[1].mu.Lock()
		p.tableaus[1].fail = errors.New("not now")
		p.tableaus[1].mu.Unlock()
		p.passes(1)
		forgot("back, and the other cannot forget", 2, 0)
		p.passes(1)
		forgot("it tries again", 2, 1)
		p.holds(1)
		p.passes(1)
		forgot("back before the second time", 3, 1)
		later()
		forgot("who has it again forgets nothing", 4, 1)

		p.holds(0)
		later()
		forgot("and back once more", 4, 3)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		p.holds(1)
		p.rigs[0].loop = p.rigs[0].make()
		p.rigs[0].run()
		forgot("gone while the director was away", 5, 3)
		later()
		forgot("gone for longer since", 6, 3)
	})
}
