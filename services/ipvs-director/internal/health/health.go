// Package health answers: does this real server live? It checks every real server in a rhythm of its own, so that one that
// does not answer delays no other.
package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/probe"
	"github.com/twotier/twotier/services/internal/program"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// Checker checks. Any goroutine may call its methods.
type Checker struct {
	log     *zap.Logger
	changed chan struct{}
	room    room

	mu      sync.Mutex // guards what follows
	checks  map[steer.Key]*check
	stopped bool
	running sync.WaitGroup
}

type check struct {
	how    spec.Check
	health steer.Health
	last   string // the result of the last check, for people
	end    context.CancelFunc
}

// New makes a checker that checks nothing.
func New(log *zap.Logger) *Checker {
	return &Checker{log: log.Named("health"), changed: make(chan struct{}, 1), room: newRoom(), checks: map[steer.Key]*check{}}
}

// Changed gets a value when the health of a real server has changed.
func (c *Checker) Changed() <-chan struct{} { return c.changed }

// State tells the health of a real server, and the result of its last check, for people; empty: none has ended.
func (c *Checker) State(key steer.Key) (health steer.Health, last string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.checks[key]; known != nil {
		return known.health, known.last
	}
	return steer.Unknown, ""
}

// Set says which real servers are to be checked, and how. One that is checked in another way than before keeps its health
// until the new check has an opinion.
func (c *Checker) Set(want map[steer.Key]spec.Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, known := range c.checks {
		how, wanted := want[key]
		if wanted && how == known.how {
			continue
		}
		known.end()
		if !wanted {
			delete(c.checks, key)
		}
	}
	for key, how := range want {
		known := c.checks[key]
		if known != nil && known.how == how || c.stopped {
			continue
		}
		c.start(key, c.add(key, how), Prober(how, key.Real))
	}
}

// add notes a check, with what is known from the one before. The caller holds c.mu.
func (c *Checker) add(key steer.Key, how spec.Check) *check {
	next := &check{how: how}
	if known := c.checks[key]; known != nil {
		next.health, next.last = known.health, known.last
	}
	c.checks[key] = next
	return next
}

// start begins to check. The caller holds c.mu.
func (c *Checker) start(key steer.Key, k *check, asks probe.Prober) {
	// Ended by Set or by Run, not by a caller's context: checks outlive the pass that wanted them.
	ctx, cancel := context.WithCancel(context.Background())
	k.end = cancel
	cfg := probe.Config{
		Interval: k.how.Interval, FastInterval: k.how.FastInterval, Timeout: k.how.Timeout,
		Rise: k.how.Rise, Fall: k.how.Fall, Up: k.health == steer.Up, FirstDecides: k.health == steer.Unknown,
	}
	log := c.log.With(logging.VIP(key.VIP.String()), logging.Server(key.Real.String()))
	prober := within{c.room, asks}
	c.running.Go(func() {
		err := probe.Run(ctx, cfg, prober, func(r probe.Result) { c.heard(k, r, log) })
		if err != nil && ctx.Err() == nil {
			log.Error("check ended", zap.Error(err))
		}
		_ = prober.Close() // nothing more is asked of it
	})
}

// heard takes the result of one check.
func (c *Checker) heard(k *check, r probe.Result, log *zap.Logger) {
	now, last := steer.Down, fmt.Sprintf("good in %v", r.Duration.Round(10*time.Microsecond))
	if r.Up {
		now = steer.Up
	}
	if r.Err != nil {
		last = fmt.Sprintf("%v after %v", r.Err, r.Duration.Round(10*time.Microsecond))
	}
	c.mu.Lock()
	was := k.health
	if r.OwnFault {
		now = was // it says nothing of the real server
	}
	k.health, k.last = now, last
	c.mu.Unlock()
	if was == now {
		return
	}
	log.Info("health changed", logging.Old(was.String()), logging.To(now.String()), logging.Reason(last))
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Run waits for the end of ctx, and ends all checks.
func (c *Checker) Run(ctx context.Context) error {
	<-ctx.Done()
	c.mu.Lock()
	c.stopped = true
	for _, k := range c.checks {
		k.end()
	}
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

var dnsTypes = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "NS": dnsmessage.TypeNS, "SOA": dnsmessage.TypeSOA,
	"MX": dnsmessage.TypeMX, "TXT": dnsmessage.TypeTXT, "SRV": dnsmessage.TypeSRV,
}

// Prober makes what asks a real server. It may have to be closed (io.Closer).
func Prober(how spec.Check, real netip.AddrPort) probe.Prober {
	at := real
	if how.Port != 0 {
		at = netip.AddrPortFrom(real.Addr(), how.Port)
	}
	switch how.Kind {
	case spec.CheckHTTP:
		return overHTTP(how, at)
	case spec.CheckExec:
		return exec{how.Arguments(at), how.User}
	case spec.CheckGRPC:
		return probe.NewGRPCHealth(at.String(), how.Service, nil)
	case spec.CheckUDP:
		return probe.UDP{Address: at.String(), Payload: []byte(how.Payload), Expect: []byte(how.Expect)}
	case spec.CheckDNS:
		return probe.DNS{Address: at.String(), Name: how.Name, Type: dnsTypes[how.Type]}
	case spec.CheckICMP:
		return probe.ICMP{Address: at.Addr()}
	}
	return probe.TCP{Address: at.String()}
}

func overHTTP(how spec.Check, at netip.AddrPort) probe.Prober {
	p := probe.HTTP{
		Address: at.String(), Method: how.Method, Path: how.Path, Host: how.Host,
		Statuses: how.Statuses(), Body: how.Body, Header: how.Header, Value: how.Value,
	}
	if how.TLS {
		name := cmp.Or(how.ServerName, how.Host, at.Addr().String())
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		p.TLS = &probe.TLS{ServerName: name, CAFile: how.CAFile, AnyCertificate: how.AnyCertificate}
	}
	return p
}

// exec is good when a program ends with 0.
type exec struct {
	argv []string
	user string
}

// Probe runs it. A program that cannot be run says nothing of the real server.
func (e exec) Probe(ctx context.Context) error {
	err := program.Run(ctx, e.argv, e.user)
	if errors.Is(err, program.ErrNotRun) {
		return fmt.Errorf("%w: %w", probe.ErrOwnFault, err)
	}
	return err
}
