// Package probe finds out, again and again, whether something answers, and tells up from down by rise and fall counts.
package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
)

// Defaults and limits of Config.
const (
	DefaultInterval = 2 * time.Second
	// MaxDefaultTimeout bounds the timeout that follows from the interval.
	MaxDefaultTimeout = 2 * time.Second
	// MaxStagger bounds the random pause before the first probe.
	MaxStagger = time.Second
)

// Prober asks once. nil: it answered well. It must end when ctx does.
type Prober interface {
	Probe(context.Context) error
}

// Config sets the rhythm of one probe. The zero value is legal.
type Config struct {
	// Interval is the pause between the end of one probe and the start of the next. Default 2s.
	Interval time.Duration
	// FastInterval is the pause instead while the results have turned and the state has not yet. Default: the interval.
	FastInterval time.Duration
	// Timeout is how long one probe may take. Default: the interval, 2s at most.
	Timeout time.Duration
	// Rise is how many good results in a row bring it up. Default 1.
	Rise int
	// Fall is how many bad results in a row bring it down. Default 1.
	Fall int
	// Up is the state to start from. Default down.
	Up bool
	// FirstDecides lets the first result decide at once, without regard to Rise and Fall.
	FirstDecides bool
}

// Result is one probe's result, and the state after it.
type Result struct {
	// Up is the state after this probe.
	Up bool
	// Changed tells that this probe changed the state.
	Changed bool
	// Err is why this one probe was bad; nil when it was good.
	Err error
	// OwnFault tells that Err is the want of this process or node: descriptors, memory, ports. It says nothing about the other
	// side, and leaves the state as it is.
	OwnFault bool
	// Duration is how long it took.
	Duration time.Duration
}

// Run probes until ctx ends, which is no error, and hands each result to report, on its own goroutine. The first probe
// waits for a random part of half an interval (1s at most), so that many probes do not run in step. A panic in the
// prober is a bad result.
func Run(ctx context.Context, cfg Config, p Prober, report func(Result)) error {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = min(cfg.Interval, MaxDefaultTimeout)
	}
	threshold := NewThreshold(cfg.Rise, cfg.Fall, cfg.Up, cfg.FirstDecides)

	timer := time.NewTimer(rand.N(min(cfg.Interval/2, MaxStagger) + 1))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		err := once(ctx, cfg.Timeout, p)
		if ctx.Err() != nil {
			return nil // the probe was cut short; its result says nothing
		}
		result := Result{Err: err, Duration: time.Since(begin)}
		if result.OwnFault = OwnFault(err); result.OwnFault {
			result.Up = threshold.Up()
		} else {
			result.Up, result.Changed = threshold.Observe(err == nil)
		}
		report(result)
		pause := cfg.Interval
		if cfg.FastInterval > 0 && !result.OwnFault && result.Up != (err == nil) {
			pause = cfg.FastInterval
		}
		timer.Reset(pause)
	}
}

// ErrOwnFault marks an error that speaks of this side alone.
var ErrOwnFault = errors.New("nothing was asked")

// wants are the errors of socket(2) and connect(2) that speak of this side alone. EADDRNOTAVAIL: no port is free.
var wants = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, ErrOwnFault}

// OwnFault tells whether an error speaks of this side alone: nothing was learnt of the other one.
func OwnFault(err error) bool {
	return slices.ContainsFunc(wants, func(want error) bool { return errors.Is(err, want) })
}

func once(ctx context.Context, timeout time.Duration, p Prober) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("probe panicked: %v\n%s", cause, debug.Stack())
		}
	}()
	return p.Probe(ctx)
}
