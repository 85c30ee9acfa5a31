package planetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Load is short connections without a pause, by several clients at a time.
type Load struct {
	made     atomic.Int64 // that have gone well
	stopping atomic.Bool
	running  sync.WaitGroup
	mu       sync.Mutex // guards failed
	failed   error      // what went wrong first
	wrong    chan struct{}
}

// Load starts a client for each of the ports, which may be there more than once, until Stop is called. A client says a word to whom it
// gets and hears it again. It speaks to the kernel itself: where all is emulated, package net takes most of the time.
func (n *Network) Load(t testing.TB, ports ...int) *Load {
	l := &Load{wrong: make(chan struct{})}
	for _, port := range ports {
		to := &unix.SockaddrInet4{Port: port, Addr: netip.MustParseAddr(VIP).As4()}
		l.running.Go(func() {
			n.Client.Do(t, func() {
				for last := false; ; {
					if err := once(to); err != nil {
						l.mu.Lock()
						defer l.mu.Unlock()
						if l.failed == nil {
							l.failed = fmt.Errorf("port %d: %w", port, err)
							close(l.wrong)
						}
						return
					}
					l.made.Add(1)
					if last {
						return
					}
					last = l.stopping.Load() // one more that begins after it
				}
			})
		})
	}
	return l
}

// Made is how many have gone well so far.
func (l *Load) Made() int { return int(l.made.Load()) }

// wait returns when so many have gone well, or one has not.
func (l *Load) wait(t testing.TB, made int) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for deadline := time.After(patience); l.Made() < made; {
		select {
		case <-again.C:
		case <-l.wrong:
			return
		case <-deadline:
			t.Errorf("%d connections in %v, want %d", l.Made(), patience, made)
			return
		}
	}
}

// Stop ends it and tells how many have gone well, and what went wrong with one first. At least one to each port begins after Stop.
func (l *Load) Stop() (made int, err error) {
	l.stopping.Store(true)
	l.running.Wait()
	return l.Made(), l.failed
}

// once is one connection: refused, reset and silent are errors.
func once(to unix.Sockaddr) (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)); err != nil {
		return err
	}
	for err = unix.Connect(fd, to); errors.Is(err, unix.EINTR); err = unix.Connect(fd, to) {
	}
	if err != nil && !errors.Is(err, unix.EISCONN) {
		return fmt.Errorf("connect: %w", err)
	}
	const word = "hello\n"
	if _, err := unix.Write(fd, []byte(word)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	var heard []byte
	for buffer := make([]byte, 64); bytes.Count(heard, []byte("\n")) < 2; { // who it is, and the word
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("after %q: %w", heard, err)
		}
		heard = append(heard, buffer[:n]...)
	}
	if !bytes.HasSuffix(heard, []byte("\n"+word)) {
		return fmt.Errorf("heard %q", heard)
	}
	return nil
}
