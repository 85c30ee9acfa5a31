package health

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

func TestChecksAtATime(t *testing.T) {
	t.Parallel()
	for descriptors, want := range map[uint64]int{0: 1, 10: 1, 64: 40, 1024: 768, 4096: 3840, 1 << 20: 1<<16 - 256, 1<<64 - 1: 1<<16 - 256} {
		if got := checksAtATime(descriptors); got != want {
			t.Errorf("%d descriptors: got %d, want %d", descriptors, got, want)
		}
	}
}

// asked is a prober that answers when it is told to.
type asked chan error

func (a asked) Probe(ctx context.Context) error {
	select {
	case err := <-a:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Where there is no room nobody is asked, nobody is taken for dead, and nobody waits.
func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(zaptest.NewLogger(t))
		c.room = make(room, 1)
		hole, answers := asked(nil), make(asked, 1)
		key := func(address string) steer.Key { return steer.Key{Real: netip.MustParseAddrPort(address)} }
		dead, living := key("192.0.2.1:80"), key("192.0.2.2:80")
		how := spec.Check{Kind: spec.CheckTCP, Interval: time.Second, FastInterval: time.Second, Timeout: time.Minute, Rise: 1, Fall: 1}
		c.start(dead, c.add(dead, how), hole)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(2 * time.Second) // in the time of synctest: the hole is asked
		c.start(living, c.add(living, how), answers)
		answers <- nil
		time.Sleep(10 * time.Second) // in the time of synctest
		if health, last := c.State(living); health != steer.Unknown || last == "" {
			t.Errorf("without room: %v, %q", health, last)
		}
		time.Sleep(time.Minute) // in the time of synctest: the hole is given up for a second, some time
		if health, _ := c.State(dead); health != steer.Down {
			t.Errorf("the hole: %v", health)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
