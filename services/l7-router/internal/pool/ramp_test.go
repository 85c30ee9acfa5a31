package pool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// TestSlowStart: a server that comes back from maintenance has its share and its limit step by step.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = p.Run(ctx); close(done) }()
		want := two()
		want.Servers[0].Weight, want.Servers[1].Weight = 100, 100
		want.Servers[0].SlowStart, want.Servers[0].MaxConn = 16*time.Second, 160
		b := p.Set(want)
		stand := func() (effective, throttle int, limit int64) {
			s := p.Servers()[0]
			return s.Effective, s.Throttle, b.Server(0).Limit.Load()
		}
		if e, th, limit := stand(); e != 100 || th != 100 || limit != 160 {
			t.Errorf("at the beginning: weight %d, throttle %d, limit %d, want all", e, th, limit)
		}
		set := func(a spec.Admin) {
			if _, err := p.SetServer("web", "a", Change{Admin: &a}, "test"); err != nil {
				t.Fatal(err)
			}
		}
		set(spec.AdminMaint)
		set(spec.AdminReady)
		steps := []struct {
			after               time.Duration
			effective, throttle int
			limit               int64
		}{
			{0, 7, 6, 1}, {4*time.Second + time.Millisecond, 32, 31, 40}, {4 * time.Second, 57, 56, 80}, {4 * time.Second, 82, 81, 120}, {4 * time.Second, 100, 100, 160},
		}
		for _, step := range steps {
			time.Sleep(step.after) // in the time of synctest
			synctest.Wait()
			e, th, limit := stand()
			if e != step.effective || th != step.throttle || limit < step.limit-10 || limit > step.limit {
				t.Errorf("%+v: weight %d, throttle %d, limit %d", step, e, th, limit)
			}
			got := 0
			for range 200 {
				s := b.Next(new(Ticket))
				if s.Spec.Name == "a" {
					got++
				}
				s.End()
			}
			if share := 200 * e / (e + 100); got < share-5 || got > share+5 {
				t.Errorf("%+v: %d of 200 requests, want about %d", step, got, share)
			}
		}
		// In the midst of another one it goes away for good.
		set(spec.AdminMaint)
		set(spec.AdminReady)
		p.Remove("web")
		cancel()
		<-done
	})
}

// TestLongSlowStart: the largest limit over the longest slow start.
func TestLongSlowStart(t *testing.T) {
	t.Parallel()
	s := &Server{Spec: spec.Server{MaxConn: spec.MaxConn, SlowStart: spec.MaxTimeout}, live: &live{}}
	s.back.Store(1)
	if _, limit := s.ramp(int64(spec.MaxTimeout) / 2); limit < spec.MaxConn/2-1 || limit > spec.MaxConn/2 {
		t.Errorf("half of the time: a limit of %d, want %d", limit, spec.MaxConn/2)
	}
}
