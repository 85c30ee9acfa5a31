package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// passes is a pass that notes when it ran and answers what it is told to.
type passes struct {
	begin   time.Time
	mu      sync.Mutex
	at      []time.Duration
	outcome commonv1.Outcome
}

func (p *passes) pass(context.Context) Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = append(p.at, time.Since(p.begin))
	return Result{Outcome: p.outcome}
}

func (p *passes) set(outcome commonv1.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcome = outcome
}

func (p *passes) times() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Duration(nil), p.at...)
}

func run(t *testing.T, outcome commonv1.Outcome, story func(*passes, *Pump)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &passes{begin: time.Now(), outcome: outcome}
		pump := NewPump(Config{}, p.pass)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- pump.Run(ctx) }()
		synctest.Wait()
		story(p, pump)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func equal(t *testing.T, got []time.Duration, want ...time.Duration) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("passes at %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("passes at %v, want %v", got, want)
		}
	}
}

func TestFirstPassAtOnceThenResync(t *testing.T) {
	run(t, commonv1.Outcome_OUTCOME_DONE, func(p *passes, _ *Pump) {
		time.Sleep(DefaultResync + time.Second) // in the time of synctest
		synctest.Wait()
		equal(t, p.times(), 0, DefaultResync)
	})
}

func TestRetryComesBackAfterGrowingPauses(t *testing.T) {
	for _, outcome := range []commonv1.Outcome{commonv1.Outcome_OUTCOME_RETRY, commonv1.Outcome_OUTCOME_UNKNOWN} {
		run(t, outcome, func(p *passes, _ *Pump) {
			time.Sleep(750 * time.Millisecond) // in the time of synctest
			synctest.Wait()
			equal(t, p.times(), 0, 100*time.Millisecond, 300*time.Millisecond, 700*time.Millisecond)
			// A good pass ends the growing.
			p.set(commonv1.Outcome_OUTCOME_DONE)
			time.Sleep(800 * time.Millisecond) // in the time of synctest
			p.set(outcome)
			time.Sleep(DefaultResync) // in the time of synctest
			synctest.Wait()
			equal(t, p.times()[4:], 1500*time.Millisecond, 31500*time.Millisecond)
		})
	}
}

func TestBackoffIsBounded(t *testing.T) {
	pump := NewPump(Config{}, nil)
	for n, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 7: 6400 * time.Millisecond, 8: DefaultMaxBackoff, 1 << 30: DefaultMaxBackoff} {
		if got := pump.backoff(n); got != want {
			t.Errorf("backoff(%d) = %v, want %v", n, got, want)
		}
	}
}

func TestInvalidWaitsForAKick(t *testing.T) {
	run(t, commonv1.Outcome_OUTCOME_INVALID, func(p *passes, pump *Pump) {
		time.Sleep(5 * time.Second) // in the time of synctest
		synctest.Wait()
		equal(t, p.times(), 0)
		pump.Kick()
		synctest.Wait()
		equal(t, p.times(), 0, 5*time.Second)
	})
}

// The log hears of a change in how passes end, and of nothing at a start.
func TestLog(t *testing.T) {
	t.Parallel()
	wrong := Without([]*commonv1.Violation{{Field: "service/web.port", Description: "want 1 to 65535, got 0"}})
	other := Without([]*commonv1.Violation{{Field: "service/web.scheduler", Description: "not known"}})
	failed := Result{Outcome: commonv1.Outcome_OUTCOME_RETRY, Err: errors.New("no space left")}
	well := Result{Outcome: commonv1.Outcome_OUTCOME_DONE}
	core, log := observer.New(zap.InfoLevel)
	pump := NewPump(Config{Log: zap.New(core)}, nil)
	for i, step := range []struct {
		result Result
		want   string
	}{
		{Without(nil), ""},
		{well, ""},
		{wrong, "warn: pass did not end well, there is no valid desired state yet, [service/web.port: want 1 to 65535, got 0]"},
		{wrong, ""},
		{other, "warn: pass did not end well, there is no valid desired state yet, [service/web.scheduler: not known]"},
		{failed, "warn: pass did not end well, no space left, <nil>"},
		{failed, ""},
		{well, "info: pass ends well again"},
		{well, ""},
	} {
		pump.tell(step.result)
		got := ""
		for _, entry := range log.TakeAll() {
			got += entry.Level.String() + ": " + entry.Message
			if fields := entry.ContextMap(); len(fields) > 0 {
				got += fmt.Sprintf(", %v, %v", fields["error"], fields["violations"])
			}
		}
		if got != step.want {
			t.Errorf("step %d: got %q, want %q", i, got, step.want)
		}
	}
}

func TestKicksAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := make(chan struct{})
		proceed := make(chan struct{})
		pump := NewPump(Config{}, func(context.Context) Result {
			ran <- struct{}{}
			<-proceed
			return Result{Outcome: commonv1.Outcome_OUTCOME_DONE}
		})
		kicks := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- pump.Run(ctx, kicks) }()
		<-ran
		for range 50 { // while the first pass is under way
			pump.Kick()
		}
		proceed <- struct{}{}
		<-ran // one pass for all of them
		proceed <- struct{}{}
		synctest.Wait()
		select {
		case <-ran:
			t.Error("the kicks made more than one pass")
		default:
		}
		kicks <- struct{}{} // the channel given to Run works like Kick
		<-ran
		proceed <- struct{}{}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestNowSharesOnePassAndAnswersItsResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		busy := make(chan struct{})
		pump := NewPump(Config{}, func(context.Context) Result {
			count++
			if count == 1 {
				<-busy
			}
			return Result{Outcome: commonv1.Outcome_OUTCOME_DONE, Changes: []string{string(rune('0' + count))}}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- pump.Run(ctx) }()
		results := make(chan Result, 3)
		for range 3 {
			go func() {
				result, err := pump.Now(t.Context())
				if err != nil {
					t.Error(err)
				}
				results <- result
			}()
		}
		synctest.Wait()
		close(busy)
		for range 3 {
			// Not the pass that was under way when Now was called: it may have looked before.
			if result := <-results; len(result.Changes) != 1 || result.Changes[0] != "2" {
				t.Errorf("got the result of pass %v, want that of pass 2", result.Changes)
			}
		}
		cancel()
		<-ended
		if _, err := pump.Now(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("Now after the end: %v, want ErrStopped", err)
		}
	})
}

func TestNowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pump := NewPump(Config{}, nil) // never run
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := pump.Now(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
	})
}

func TestPanicIsARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		pump := NewPump(Config{}, func(context.Context) Result {
			if count++; count == 1 {
				panic("first")
			}
			return Result{Outcome: commonv1.Outcome_OUTCOME_DONE}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- pump.Run(ctx) }()
		time.Sleep(time.Second) // in the time of synctest
		synctest.Wait()
		if count != 2 {
			t.Errorf("%d passes, want the one that panicked and its retry", count)
		}
		cancel()
		<-ended
	})
}
