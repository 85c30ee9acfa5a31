package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watch is the witness at work. Both kinds of question bear a number, so that an answer counts for the moment of its
// question however late it is read.
type watch struct {
	arp, icmp *os.File
	mac       net.HardwareAddr
	done      chan struct{}
	wait      sync.WaitGroup

	mu     sync.Mutex // protects probes
	probes []probe
}

// probe is what came back to the questions of one moment.
type probe struct {
	at     time.Time
	pong   bool
	owners []string
}

// result of a case, in probes, which are milliseconds.
type result struct {
	gap         float64 // the longest time in ms without an answer to a ping
	two         float64 // ms with two owners
	lost, asked int
}

func (r result) String() string {
	return fmt.Sprintf("gap %.1f ms, %d of %d probes lost, two owners %.1f ms", r.gap, r.lost, r.asked, r.two)
}

func (n *network) watch() (*watch, error) {
	w := &watch{done: make(chan struct{})}
	err := n.witness.inside(func() error {
		eth0, err := card()
		if err != nil {
			return err
		}
		w.mac = eth0.HardwareAddr
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol))
		if err != nil {
			return err
		}
		w.arp = os.NewFile(uintptr(fd), "arp")
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: eth0.Index}); err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		w.icmp = os.NewFile(uintptr(fd), "icmp")
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(vip).As4()})
	})
	if err != nil {
		return nil, err
	}
	w.wait.Go(w.ask)
	w.wait.Go(w.hearARP)
	w.wait.Go(w.hearPongs)
	return w, nil
}

func (w *watch) close() error {
	close(w.done)
	err := errors.Join(w.arp.Close(), w.icmp.Close())
	w.wait.Wait()
	return err
}

func (w *watch) ask() {
	// The witness must not be late itself. What it starts and the threads of the others stay ordinary.
	runtime.LockOSThread() // and never let go: the thread ends with the goroutine
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 10, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	_ = unix.SchedSetAttr(0, &attr, 0) // without it the figures are rougher
	address := netip.MustParseAddr(vip).As4()
	for next := time.Now(); ; {
		select {
		case <-w.done:
			return
		default:
		}
		next = next.Add(time.Millisecond)
		if wait := time.Until(next); wait > 0 {
			t := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&t, nil) // a signal makes it early
		} else {
			next = time.Now()
		}
		w.mu.Lock()
		number := uint32(len(w.probes))
		w.probes = append(w.probes, probe{at: time.Now()})
		w.mu.Unlock()
		// An ARP probe (RFC 5227, section 2.1.1) whose hardware address to answer is the number.
		frame := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, w.mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0x77},
			binary.BigEndian.AppendUint32(nil, number), make([]byte, 4), make([]byte, 6), address[:])
		_, _ = w.arp.Write(frame) // what does not leave has no answer
		_, _ = w.icmp.Write(echo(number))
	}
}

// echo is an ICMP echo request (RFC 792) that carries the number.
func echo(number uint32) []byte {
	b := []byte{8, 0, 0, 0, 0x77, 0x77, 0, 0}
	b = binary.BigEndian.AppendUint32(b, number)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

func (w *watch) hearPongs() {
	b := make([]byte, 2048)
	for {
		n, err := w.icmp.Read(b)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			continue // an unreachable host is reported here
		}
		if n < 32 || b[20] != 0 || b[24] != 0x77 || b[25] != 0x77 {
			continue
		}
		w.note(binary.BigEndian.Uint32(b[28:]), func(p *probe) { p.pong = true })
	}
}

func (w *watch) hearARP() {
	b := make([]byte, 2048)
	address := netip.MustParseAddr(vip).As4()
	for {
		n, err := w.arp.Read(b)
		if err != nil {
			return
		}
		if n < 42 || b[21] != 2 || [4]byte(b[28:32]) != address || b[32] != 2 || b[33] != 0x77 {
			continue
		}
		owner := net.HardwareAddr(b[22:28]).String()
		w.note(binary.BigEndian.Uint32(b[34:]), func(p *probe) {
			if !slices.Contains(p.owners, owner) {
				p.owners = append(p.owners, owner)
			}
		})
	}
}

func (w *watch) note(number uint32, f func(*probe)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(number) < len(w.probes) {
		f(&w.probes[number])
	}
}

func (w *watch) mark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.probes)
}

// steady is how many good probes in a row end the waiting, and late how many of the last are not looked at: their answers
// are on the way.
const (
	steady = 200
	late   = 20
)

// await waits until only that machine has answered for a while.
func (w *watch) await(owner string, most time.Duration) error {
	return w.until(most, func() bool {
		if len(w.probes) < steady+late {
			return false
		}
		for _, p := range w.probes[len(w.probes)-steady-late : len(w.probes)-late] {
			if !p.pong || len(p.owners) != 1 || p.owners[0] != owner {
				return false
			}
		}
		return true
	})
}

func (w *watch) until(most time.Duration, well func() bool) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(most)
	for {
		w.mu.Lock()
		ok := well()
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ticker.C:
		case <-deadline:
			return fmt.Errorf("not so within %v", most)
		}
	}
}

// result waits for at least so many probes since the mark, and for as long as it takes until that machine answers
// steadily, most at the most. dead: what answers at the address is of no use until it is on that machine.
func (w *watch) result(since, least int, owner string, dead bool, most time.Duration) (r result, err error) {
	begin := time.Now()
	err = w.until(most+time.Duration(least)*10*time.Millisecond, func() bool {
		if len(w.probes) < since+least+steady+late {
			return false
		}
		if time.Since(begin) > most+time.Duration(least)*time.Millisecond {
			return true // it does not come back; the figures say so
		}
		for _, p := range w.probes[len(w.probes)-steady-late : len(w.probes)-late] {
			if !p.pong || len(p.owners) == 0 || !slices.Contains(p.owners, owner) {
				return false
			}
		}
		return true
	})
	if err != nil {
		return result{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	good := time.Time{}
	for n, p := range w.probes[since : len(w.probes)-late] {
		r.asked++
		if len(p.owners) > 1 {
			r.two += float64(w.probes[since+n+1].at.Sub(p.at)) / 1e6
		}
		if p.pong && !(dead && !slices.Contains(p.owners, owner)) {
			dead = false
			if !good.IsZero() {
				r.gap = max(r.gap, float64(p.at.Sub(good))/1e6-1)
			}
			good = p.at
			continue
		}
		if good.IsZero() {
			good = p.at
		}
		r.lost++
	}
	if end := w.probes[len(w.probes)-late-1].at; !good.IsZero() {
		r.gap = max(r.gap, float64(end.Sub(good))/1e6-1)
	}
	if r.lost == 0 {
		r.gap = 0 // what is left is how late the witness itself was
	}
	return r, nil
}
