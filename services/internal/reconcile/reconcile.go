// Package reconcile is the pump: it decides when a service compares the world with the desired state.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/logging"
)

// Defaults of Config.
const (
	DefaultResync     = 30 * time.Second
	DefaultMinBackoff = 100 * time.Millisecond
	DefaultMaxBackoff = 10 * time.Second
)

// ErrNotRead is how a pass ends before the desired state has been read. Every start begins so: the log is told nothing of it.
var ErrNotRead = errors.New("no desired state has been read yet")

// ErrStopped is the answer of Now when the pump no longer runs.
var ErrStopped = errors.New("the reconcile loop has stopped")

// Result is how one pass ended.
type Result struct {
	// Outcome decides when the next pass comes: RETRY and UNKNOWN come back after a growing pause, DONE and INVALID
	// wait for a kick or the resync.
	Outcome commonv1.Outcome
	// Changes that were made, one line each, in order.
	Changes []string
	// Err is why the outcome is not DONE.
	Err error
	// Violations are what is wrong with the newest desired state.
	Violations []*commonv1.Violation
}

// Without is how a pass ends that has no valid desired state to go by.
func Without(violations []*commonv1.Violation) Result {
	if len(violations) == 0 {
		return Result{Outcome: commonv1.Outcome_OUTCOME_UNKNOWN, Err: ErrNotRead}
	}
	err := errors.New("there is no valid desired state yet")
	return Result{Outcome: commonv1.Outcome_OUTCOME_INVALID, Err: err, Violations: violations}
}

// Config sets the rhythm. The zero value stands for the defaults.
type Config struct {
	// Resync is the pause after which the world is looked at again although nobody asked. Default 30s.
	Resync time.Duration
	// MinBackoff is the pause before the first retry; it doubles with each. Default 100ms.
	MinBackoff time.Duration
	// MaxBackoff is the longest pause before a retry. Default 10s.
	MaxBackoff time.Duration
	// Log is told how a pass ended when that is not as the last one did, and gets its panics. nil: nobody.
	Log *zap.Logger
}

// Pump runs passes, one at a time, on the goroutine of Run.
type Pump struct {
	cfg     Config
	pass    func(context.Context) Result
	kick    chan struct{}
	now     chan chan Result
	stopped chan struct{}
	told    string // what the log was told of the last pass, "" after one that ended well; of Run
}

// NewPump makes a pump for pass. pass is only ever called by Run.
func NewPump(cfg Config, pass func(context.Context) Result) *Pump {
	if cfg.Resync <= 0 {
		cfg.Resync = DefaultResync
	}
	if cfg.MinBackoff <= 0 {
		cfg.MinBackoff = DefaultMinBackoff
	}
	if cfg.MaxBackoff < cfg.MinBackoff {
		cfg.MaxBackoff = max(DefaultMaxBackoff, cfg.MinBackoff)
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Pump{
		cfg:     cfg,
		pass:    pass,
		kick:    make(chan struct{}, 1),
		now:     make(chan chan Result),
		stopped: make(chan struct{}),
	}
}

// Kick asks for a pass. It never blocks; kicks that come before the pass has begun count as one. Any goroutine may call.
func (p *Pump) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Now has a pass run at once, on the goroutine of Run, and waits for its result. Callers who wait at the same time share
// one pass. It ends early with the error of ctx, or with ErrStopped.
func (p *Pump) Now(ctx context.Context) (Result, error) {
	reply := make(chan Result, 1)
	select {
	case p.now <- reply:
	case <-p.stopped:
		return Result{}, ErrStopped
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	select {
	case result := <-reply:
		return result, nil
	case <-p.stopped:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	// The pump may have answered and then stopped.
	select {
	case result := <-reply:
		return result, nil
	default:
		return Result{}, ErrStopped
	}
}

// Run makes the first pass at once, then one for each kick, each resync and each retry, until ctx ends; that is no
// error. Each channel of kicks works like Kick. Run may be called once.
func (p *Pump) Run(ctx context.Context, kicks ...<-chan struct{}) error {
	var forwarders sync.WaitGroup
	defer forwarders.Wait()
	defer close(p.stopped)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, kicks := range kicks {
		forwarders.Go(func() { p.forward(ctx, kicks) })
	}

	var waiting []chan Result
	failures := 0
	for ctx.Err() == nil {
		result := p.runPass(ctx)
		if ctx.Err() == nil { // else it was cut short
			p.tell(result)
		}
		for _, reply := range waiting {
			reply <- result
		}
		waiting = waiting[:0]

		pause := p.cfg.Resync
		switch result.Outcome {
		case commonv1.Outcome_OUTCOME_RETRY, commonv1.Outcome_OUTCOME_UNKNOWN:
			failures++
			pause = min(p.backoff(failures), p.cfg.Resync)
		default:
			failures = 0
		}

		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.kick:
		case reply := <-p.now:
			waiting = p.collect(append(waiting, reply))
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// tell puts into the log how a pass ended. A fault that lasts is told once.
func (p *Pump) tell(r Result) {
	text := ""
	if r.Err != nil && r.Err != ErrNotRead { // that and nothing else
		text = fmt.Sprint(r.Err, r.Violations)
	}
	switch {
	case text == p.told:
	case text == "":
		p.cfg.Log.Info("pass ends well again")
	default:
		p.cfg.Log.Warn("pass did not end well", zap.Stringer("outcome", r.Outcome), zap.Error(r.Err), logging.Violations(r.Violations))
	}
	p.told = text
}

// collect adds the callers of Now who are waiting already, so that one pass serves them all.
func (p *Pump) collect(waiting []chan Result) []chan Result {
	for {
		select {
		case reply := <-p.now:
			waiting = append(waiting, reply)
		default:
			return waiting
		}
	}
}

// backoff is the pause before the nth retry.
func (p *Pump) backoff(n int) time.Duration {
	pause := p.cfg.MinBackoff
	for range n - 1 {
		pause *= 2
		if pause >= p.cfg.MaxBackoff {
			return p.cfg.MaxBackoff
		}
	}
	return pause
}

func (p *Pump) forward(ctx context.Context, kicks <-chan struct{}) {
	for {
		select {
		case _, open := <-kicks:
			if !open {
				return
			}
			p.Kick()
		case <-ctx.Done():
			return
		}
	}
}

// runPass turns a panic into a result: a fault in one pass must not take down the data path that other goroutines serve.
func (p *Pump) runPass(ctx context.Context) (result Result) {
	defer func() {
		if cause := recover(); cause != nil {
			p.cfg.Log.Error("pass panicked", zap.Any("panic", cause), logging.Stack(debug.Stack()))
			result = Result{Outcome: commonv1.Outcome_OUTCOME_RETRY, Err: fmt.Errorf("pass panicked: %v", cause)}
		}
	}()
	return p.pass(ctx)
}
