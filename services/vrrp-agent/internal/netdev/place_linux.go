package netdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// placeName is an abstract unix socket: each network namespace has names of its own, and the kernel frees one with the
	// process that holds it, however that ends (unix(7)).
	placeName = "@twotier/vrrp-agent"
	// PlaceWait is how long an agent that starts waits for one that is about to end.
	PlaceWait = 3 * time.Second
	// placeLook is the pause between two looks meanwhile.
	placeLook = 20 * time.Millisecond
	// placeAnswer bounds the question who holds the place, and placePause is the shortest pause between two answers:
	// anybody on the machine may ask.
	placeAnswer = 200 * time.Millisecond
	placePause  = 100 * time.Millisecond
	// placeMost bounds what the holder says of itself, in bytes.
	placeMost = 256
)

// TakePlace makes this process, until it ends, the one agent of its network namespace: two would take each other's
// addresses for left by an earlier run. who is what a later one is told, placeMost bytes at the most. A place that is held
// is waited for; the error says who holds it then. Where the kernel does not give such names, or somebody has taken it
// who is no agent, the log says so and there is no error.
func TakePlace(ctx context.Context, who string, wait time.Duration, log *zap.Logger) error {
	until := time.Now().Add(wait)
	for {
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: placeName, Net: "unix"})
		if err == nil {
			go answer(listener, who) // ends with the process, as the place does
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			log.Warn("a second agent in this network namespace will not be noticed", zap.Error(err))
			return nil
		}
		if time.Now().Before(until) {
			select {
			case <-time.After(placeLook):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		held, err := holder()
		switch {
		case errors.Is(err, unix.ECONNREFUSED): // it has ended just now
		case err != nil:
			return fmt.Errorf("another agent is at work in this network namespace, and cannot be asked who it is: %w", err)
		case held.uid != 0 && held.uid != uint32(os.Geteuid()):
			log.Warn("a second agent in this network namespace will not be noticed: its mark is taken by a process that is none",
				zap.String("mark", placeName), zap.Int32("process", held.pid), zap.Uint32("user", held.uid))
			return nil
		default:
			return fmt.Errorf("another agent is at work in this network namespace, and two would take each other's addresses away: %v", held)
		}
	}
}

// answer tells those who find the place taken by whom.
func answer(listener *net.UnixListener, who string) {
	for {
		conn, err := listener.AcceptUnix()
		if err == nil {
			_, _ = io.WriteString(conn, who[:min(len(who), placeMost)]) // a new socket has room for it
			_ = conn.Close()
		} // else there was no file descriptor for it
		<-time.After(placePause)
	}
}

// heldBy is who holds a place.
type heldBy struct {
	pid  int32 // 0: it is in another PID namespace
	uid  uint32
	says string
}

// String puts it into words.
func (h heldBy) String() string {
	process := fmt.Sprintf("process %d", h.pid)
	if h.pid == 0 {
		process = "a process outside of this PID namespace"
	}
	if h.says == "" {
		return process + ", which does not answer"
	}
	return process + ", " + h.says
}

// holder asks who holds the place. The kernel names the process that listens, also when it does not run.
func holder() (h heldBy, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: placeName, Net: "unix"})
	if err != nil {
		return h, err
	}
	defer func() { _ = conn.Close() }() // only read from
	raw, err := conn.SyscallConn()
	if err != nil {
		return h, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			h.pid, h.uid = cred.Pid, cred.Uid
		}
	})
	if err := errors.Join(controlErr, err, conn.SetReadDeadline(time.Now().Add(placeAnswer))); err != nil {
		return h, err
	}
	text, err := io.ReadAll(io.LimitReader(conn, placeMost))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ECONNRESET) {
		return h, err
	}
	h.says = string(text)
	return h, nil
}
