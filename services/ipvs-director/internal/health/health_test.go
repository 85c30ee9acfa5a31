package health

import (
	"context"
	"errors"
	"net/netip"
	"os/user"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/internal/probe"

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

// One that does not answer delays nobody: the living are asked in their rhythm, whoever hangs beside them.
func TestTheDeadDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(zaptest.NewLogger(t))
		key := func(address string) steer.Key { return steer.Key{Real: netip.MustParseAddrPort(address)} }
		how := spec.Check{Kind: spec.CheckTCP, Interval: time.Second, FastInterval: time.Second, Timeout: time.Minute, Rise: 1, Fall: 1}
		for i := range 100 { // hang until their minute is over
			k := key(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 80).String())
			c.start(k, c.add(k, how), asked(nil))
		}
		living := key("198.51.100.1:80")
		answers := make(asked)
		c.start(living, c.add(living, how), answers)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		begin := time.Now()
		for range 20 {
			answers <- nil // taken at the moment of the check
		}
		// A stagger of half a second at most, and nineteen pauses.
		if took := time.Since(begin); took > 19*time.Second+500*time.Millisecond {
			t.Errorf("twenty checks took %v", took)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A program that cannot be run says nothing of a real server, one that fails does.
func TestExec(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]struct{ bad, ours bool }{
		"/bin/true": {}, "/bin/false": {bad: true}, "/bin/nothing-here": {bad: true, ours: true},
	} {
		err := exec{[]string{program}, me.Username}.Probe(t.Context())
		if (err != nil) != want.bad || errors.Is(err, probe.ErrOwnFault) != want.ours {
			t.Errorf("%s: %v", program, err)
		}
	}
}

// The name of a certificate is what the check says, else the host without its port, else the address.
func TestNameOfTheCertificate(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("192.0.2.1:443")
	for want, how := range map[string]spec.Check{
		"a.example": {TLS: true, ServerName: "a.example", Host: "b.example"}, "b.example": {TLS: true, Host: "b.example:8443"}, "192.0.2.1": {TLS: true},
	} {
		how.Kind = spec.CheckHTTP
		if p, ok := Prober(how, at).(probe.HTTP); !ok || p.TLS == nil || p.TLS.ServerName != want {
			t.Errorf("%+v: %+v, want the name %s", how, p.TLS, want)
		}
	}
}
