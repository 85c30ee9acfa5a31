// Package memory answers: what would a kernel do? It is the data plane for tests of the rooms above: it refuses what
// a kernel refuses, keeps what a kernel keeps, and can be told to fail or be edited behind the director's back.
package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// Kernel is what outlives a plane, as the kernel outlives a process. The zero value is empty. Any goroutine may call.
type Kernel struct {
	mu       sync.Mutex
	services map[spec.VIP]spec.Service
	foreign  map[spec.VIP]bool
	tuning   plan.Tuning
	damage   string
	fail     error
	open     map[steer.Key]uint64
	deaf     error // of CountOpen alone
}

// Connect says how many connections a real server has open.
func (k *Kernel) Connect(key steer.Key, n uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil {
		k.open = map[steer.Key]uint64{}
	}
	k.open[key] = n
}

// Fail makes all calls of planes on this kernel end with err, until Fail(nil).
func (k *Kernel) Fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

// FailCounting makes CountOpen end with err, until FailCounting(nil).
func (k *Kernel) FailCounting(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf = err
}

// Connections tells how many a real server has open.
func (k *Kernel) Connections(key steer.Key) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open[key]
}

// Edit changes the services behind the back of every plane.
func (k *Kernel) Edit(edit func(services map[spec.VIP]spec.Service)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.services == nil {
		k.services = map[spec.VIP]spec.Service{}
	}
	edit(k.services)
}

// Disown makes a service one that somebody else has made.
func (k *Kernel) Disown(vip spec.VIP) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.foreign == nil {
		k.foreign = map[spec.VIP]bool{}
	}
	k.foreign[vip] = true
}

// Damage makes Observe report damage until the plane is rebuilt.
func (k *Kernel) Damage(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.damage = reason
}

// Plane is a data plane on a Kernel.
type Plane struct {
	kernel *Kernel
}

// Open makes a plane on k.
func Open(k *Kernel) *Plane { return &Plane{kernel: k} }

// Observe returns what the kernel holds.
func (p *Plane) Observe(ctx context.Context) (plan.Have, error) {
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.err(ctx); err != nil {
		return plan.Have{}, fmt.Errorf("observe: %w", err)
	}
	tuning := k.tuning
	have := plan.Have{Damage: k.damage, Tuning: &tuning}
	for _, vip := range slices.SortedFunc(maps.Keys(k.services), spec.VIP.Compare) {
		s := plan.Service{VIP: vip, Scheduler: k.services[vip].Scheduler, Persistence: k.services[vip].Persistence, OnePacket: k.services[vip].OnePacket, Lent: k.services[vip].Lent, Foreign: k.foreign[vip]}
		for _, r := range k.services[vip].Reals {
			s.Reals = append(s.Reals, plan.Real{Real: r})
		}
		have.Services = append(have.Services, s)
	}
	return have, nil
}

// Apply does the changes one by one.
func (p *Plane) Apply(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.services == nil {
		k.services = map[spec.VIP]spec.Service{}
	}
	for _, c := range changes {
		if err := k.err(ctx); err != nil {
			return done, fmt.Errorf("%s: %w", c, err)
		}
		switch c.Kind {
		case plan.SetTimeouts:
			k.tuning.Timeouts = c.Timeouts
		case plan.StartSync:
			if c.Daemon.CardName == "" {
				return done, fmt.Errorf("%s: %w", c, plan.ErrNoCard)
			}
			c.Daemon.Network = netip.Prefix{}
			if !slices.Contains(k.tuning.Daemons, c.Daemon) {
				k.tuning.Daemons = append(slices.Clone(k.tuning.Daemons), c.Daemon)
			}
		case plan.StopSync:
			k.tuning.Daemons = slices.DeleteFunc(slices.Clone(k.tuning.Daemons), func(d plan.Daemon) bool { return d.Master == c.Daemon.Master })
		case plan.Rebuild:
			clear(k.services)
			for _, s := range c.Services {
				k.services[s.VIP] = s
			}
			k.damage = ""
		default:
			was, there := k.services[c.VIP]
			becomes, there, err := plan.Fold(was, there, c)
			if err != nil {
				return done, err
			}
			delete(k.services, c.VIP)
			if c.Kind == plan.SetService || !there {
				delete(k.foreign, c.VIP)
			}
			if there {
				k.services[c.VIP] = becomes
			}
		}
		done = append(done, c)
	}
	return done, nil
}

// CountOpen tells what Connect said.
func (p *Plane) CountOpen(ctx context.Context, keys []steer.Key) (map[steer.Key]uint64, error) {
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := errors.Join(k.err(ctx), k.deaf); err != nil {
		return nil, err
	}
	open := map[steer.Key]uint64{}
	for _, key := range keys {
		open[key] = k.open[key]
	}
	return open, nil
}

// Reset ends the connections of real servers.
func (p *Plane) Reset(ctx context.Context, keys []steer.Key) error {
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.err(ctx); err != nil {
		return err
	}
	for _, key := range keys {
		delete(k.open, key)
	}
	return nil
}

// Remove empties the kernel.
func (p *Plane) Remove(ctx context.Context) error {
	k := p.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.err(ctx); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	clear(k.services)
	k.damage = ""
	return nil
}

// Close lets go of the kernel, which keeps its state.
func (p *Plane) Close() error { return nil }

// err is why a call fails, if it does.
func (k *Kernel) err(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.fail
}
