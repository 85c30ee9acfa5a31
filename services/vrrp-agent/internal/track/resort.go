package track

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"github.com/twotier/twotier/services/internal/probe"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// lastResort is bad only while another member is better off. Members that cannot be asked are not.
type lastResort struct {
	own     *probe.GRPCHealth
	others  []*probe.GRPCHealth
	timeout time.Duration // of the own one; the others get what is left of the check's
}

func newLastResort(own *probe.GRPCHealth, c spec.Check, tls *tls.Config) *lastResort {
	r := &lastResort{own: own, timeout: c.Timeout / 2}
	for other := range strings.SplitSeq(strings.TrimSuffix(c.Others, "\x00"), "\x00") {
		r.others = append(r.others, probe.NewGRPCHealth(other, c.What.Target, tls))
	}
	return r
}

// Probe asks the own service, then all others at a time.
func (r *lastResort) Probe(ctx context.Context) error {
	own, cancel := context.WithTimeout(ctx, r.timeout)
	err := r.own.Probe(own)
	cancel()
	if err == nil || probe.OwnFault(err) {
		return err
	}
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	found := make(chan error, len(r.others))
	for _, other := range r.others {
		go func() { found <- other.Probe(ctx) }()
	}
	well := false
	for range r.others { // all of them, so that none is left behind
		if <-found == nil {
			well = true
			cancel()
		}
	}
	if !well {
		return nil
	}
	return err
}

func (r *lastResort) close() error {
	err := r.own.Close()
	for _, other := range r.others {
		err = errors.Join(err, other.Close())
	}
	return err
}
