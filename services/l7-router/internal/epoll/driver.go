package epoll

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// Driver holds the loops. Its methods wait for Run, where they wait at all.
type Driver struct {
	log   *zap.Logger
	loops []*loop
	ended chan struct{} // the loops have ended
	conns atomic.Int64
	empty chan struct{} // gets a value when the last connection ends

	mu         sync.Mutex // guards what follows
	carrying   bool       // what onCarrying was told last
	onCarrying func(bool)
}

// Open makes a driver of n loops that serves nothing. Run closes it. While it carries anything runtime.GOMAXPROCS should be
// larger than n: a busy loop leaves its processor to nobody else before the Go scheduler takes it away, which is after 10 ms.
func Open(n int, log *zap.Logger) (*Driver, error) {
	d := &Driver{log: log.Named("epoll"), ended: make(chan struct{}), empty: make(chan struct{}, 1), onCarrying: func(bool) {}}
	for i := range n {
		l, err := openLoop(d, i)
		if err != nil {
			for _, l := range d.loops {
				l.close()
			}
			return nil, err
		}
		l.maxIdle = max(1, pool.MaxIdle/n)
		d.loops = append(d.loops, l)
	}
	return d, nil
}

// OnCarrying has tell called with true when there is a connection again, and with false some time after the last has
// gone, so that one now and then does not have it called each time. It is for before Listen.
func (d *Driver) OnCarrying(tell func(carrying bool)) { d.onCarrying = tell }

// lookCarrying calls onCarrying when it has something to tell.
func (d *Driver) lookCarrying() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if carrying := d.conns.Load() > 0; carrying != d.carrying {
		d.carrying = carrying
		d.onCarrying(carrying)
	}
}

// all has every loop call do, and does not wait for it.
func (d *Driver) all(do func(*loop)) {
	for _, l := range d.loops {
		l.post(func() { do(l) })
	}
}

// finish has every loop call do, and waits until all have.
func (d *Driver) finish(ctx context.Context, do func(*loop)) error {
	var group sync.WaitGroup
	group.Add(len(d.loops))
	d.all(func(l *loop) {
		defer group.Done()
		do(l)
	})
	through := make(chan struct{})
	go func() { // ends with the loops at the latest, if Run is called
		group.Wait()
		close(through)
	}()
	select {
	case <-through:
		return nil
	case <-d.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sockets is one for each loop.
func (d *Driver) Sockets() int { return len(d.loops) }

// Listen deals the sockets of an address out to the loops, which own them from here on.
func (d *Driver) Listen(at *front.Listener, fds []int) error {
	for _, fd := range fds {
		if err := unix.SetNonblock(fd, true); err != nil {
			tcp.Close(fds...)
			return os.NewSyscallError("fcntl", err)
		}
	}
	for i, fd := range fds {
		loop := d.loops[i%len(d.loops)]
		loop.post(func() { loop.adopt(fd, at) })
	}
	return nil
}

// Wake has the loops look whether there is room again.
func (d *Driver) Wake() { d.all((*loop).acceptMore) }

// Retire gives up the sockets of an address, nil: all, and lets their connections end with their requests. Unless somebody
// else has the sockets by now, what waits in their queues is taken before.
// Nobody who sees a connection end may find a loop that still accepts, or that does not say Connection: close; so these
// are steps that all loops take together. With front.Staying only the connections end.
func (d *Driver) Retire(ctx context.Context, at *front.Listener, how front.Giving) error {
	err := d.finish(ctx, func(l *loop) {
		if how != front.Staying {
			l.abandon(at, how != front.Closing)
		}
		l.each(func(c *conn) {
			if at == nil || c.listener == at {
				c.retiring, c.lastOne = true, how == front.Leaving
			}
		})
	})
	if err != nil {
		return err
	}
	return d.finish(ctx, func(l *loop) { l.each((*conn).leave) })
}

// Cut ends what is under way with a server.
func (d *Driver) Cut(server uint64) { d.all(func(l *loop) { l.cut(server) }) }

// lost gives up a listener of which one socket has failed by itself.
func (d *Driver) lost(at *front.Listener, err error) {
	d.all(func(l *loop) { l.abandon(at, false) })
	at.Lost(err)
}

// forget counts a connection as gone.
func (d *Driver) forget(c *conn) {
	if d.conns.Add(-1) == 0 {
		select {
		case d.empty <- struct{}{}:
		default:
		}
	}
	c.counted.Leave()
	c.counted.Current().Seen.Leave()
}

// Drain waits until the last connection has ended, or ctx has, and returns how many are left.
func (d *Driver) Drain(ctx context.Context) int {
	for d.conns.Load() > 0 {
		select {
		case <-d.empty:
		case <-ctx.Done():
			return int(d.conns.Load())
		}
	}
	return 0
}

// Run serves until ctx ends, then cuts off what is left.
func (d *Driver) Run(ctx context.Context) error {
	errs := make([]error, len(d.loops))
	failed := make(chan struct{}, len(d.loops))
	var group sync.WaitGroup
	for i, l := range d.loops {
		group.Go(func() {
			if errs[i] = l.run(); errs[i] != nil {
				failed <- struct{}{}
			}
		})
	}
	select {
	case <-ctx.Done():
	case <-failed:
	}
	d.all((*loop).end)
	group.Wait()
	close(d.ended)
	for _, l := range d.loops {
		l.close()
	}
	return errors.Join(errs...)
}
