package warden

import (
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
)

// variable tells the agent by which file descriptor its warden listens.
const variable = "TWOTIER_WARDEN_FD"

// Guard is the agent's side: it tells the warden what the instances hold and that they live. nil is a guard without a
// warden. Any goroutine may call; nothing waits, and nothing allocates.
type Guard struct {
	fd   int
	lost atomic.Uint64
}

// Join returns the guard of the agent's process; nil: there is no warden. Call it before anything starts a process.
// When the warden ends, so does the agent, as on SIGTERM: an agent that nobody can reach by its process is of no use.
func Join() *Guard {
	fd, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		return nil
	}
	_ = os.Unsetenv(variable) // it is not for our children
	unix.CloseOnExec(fd)
	go func() {
		var b [1]byte
		for {
			n, _, err := unix.Recvfrom(fd, b[:], 0)
			if err == unix.EINTR || n > 0 {
				continue
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // to ourselves; cannot fail
			return
		}
	}()
	return &Guard{fd: fd}
}

// Beat tells that the instance lives. Patience is how long the warden waits for the next beat.
func (g *Guard) Beat(id uint8, v6 bool, patience time.Duration) {
	g.tell(record{op: opBeat, router: router{id, v6}, patience: patience})
}

// Hold is a beat, and tells that the instance holds an address, or is about to. Telling it again does no harm.
func (g *Guard) Hold(id uint8, v6 bool, index int, a netip.Addr, patience time.Duration) {
	g.tell(record{op: opHold, router: router{id, v6}, index: index, address: a, patience: patience})
}

// Release tells that it holds it no longer.
func (g *Guard) Release(id uint8, v6 bool, index int, a netip.Addr) {
	g.tell(record{op: opRelease, router: router{id, v6}, index: index, address: a})
}

// HoldRoute is a beat, and tells that the instance has a route, or is about to.
func (g *Guard) HoldRoute(id uint8, v6 bool, r nic.Route, patience time.Duration) {
	g.tell(record{op: opHoldRoute, router: router{id, v6}, index: r.Index, route: r.Route, patience: patience})
}

// ReleaseRoute tells that it has the route no longer.
func (g *Guard) ReleaseRoute(id uint8, v6 bool, r nic.Route) {
	g.tell(record{op: opReleaseRoute, router: router{id, v6}, index: r.Index, route: r.Route})
}

// tell sends a record. A warden that does not read loses what it does not read: holds are told again with each renewal,
// and a beat that is lost is followed by the next.
func (g *Guard) tell(r record) {
	if g == nil {
		return
	}
	r.stamp = machineTime()
	var b [recordLength]byte
	r.put(&b)
	if _, err := unix.SendmsgN(g.fd, b[:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		g.lost.Add(1)
	}
}

// machineTime is the same clock in all processes of the machine.
func machineTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it is always there
	return time.Duration(t.Nano())
}
