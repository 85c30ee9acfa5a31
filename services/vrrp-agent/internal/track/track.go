// Package track answers: is what an instance depends on well?
package track

import (
	"context"
	"crypto/tls"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/probe"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// Tracker runs the checks of this node.
type Tracker struct {
	// TLS is the agent's own certificate and CA. nil: plain text.
	TLS *tls.Config
	// Log gets what has nowhere else to go.
	Log *zap.Logger
}

// Watch runs one check until ctx ends, and reports the first answer and then whenever it has changed; why tells what is
// wrong. well is the state that it starts from. The first answer decides at once, without regard to rise and fall.
func (t Tracker) Watch(ctx context.Context, c spec.Check, well bool, report func(well bool, why string)) {
	health := probe.NewGRPCHealth(c.Address, c.Service, t.TLS)
	first := true
	err := probe.Run(ctx, probe.Config{
		Interval: c.Interval, Timeout: c.Timeout, Rise: c.Rise, Fall: c.Fall, Up: well, FirstDecides: true,
	}, health, func(r probe.Result) {
		if !r.Changed && !first {
			return
		}
		first = false
		why := ""
		if r.Err != nil {
			why = r.Err.Error()
		}
		report(r.Up, why)
	})
	if err != nil {
		t.Log.Error("tracker ended", zap.String("tracker", c.Name), zap.Error(err))
	}
	if err := health.Close(); err != nil {
		t.Log.Debug("close the connection of a tracker", zap.String("tracker", c.Name), zap.Error(err))
	}
}
