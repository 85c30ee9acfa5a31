package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/handover"
)

// upgrading is how another process takes the place of this one.
type upgrading struct {
	path  string        // --upgrade-socket
	drain time.Duration // --upgrade-drain
}

func (u *upgrading) flags(f *flag.FlagSet) {
	f.StringVar(&u.path, "upgrade-socket", "", "unix socket `PATH` at which a newly started router takes the listening sockets over from the one that runs; none is off (default l7-router-upgrade.sock in --state-dir)")
	f.DurationVar(&u.drain, "upgrade-drain", 5*time.Minute, "how long connections may go on after another router has taken over")
}

// open asks the router that runs for its sockets.
func (u *upgrading) open(ctx context.Context, p *daemon.Process, stateDir string) (*handover.Taken, error) {
	if u.drain <= 0 {
		return nil, fmt.Errorf("--upgrade-drain: want more than 0, got %v", u.drain)
	}
	if u.path == "" && stateDir != "" {
		u.path = filepath.Join(stateDir, p.Service+"-upgrade.sock")
	}
	if u.path == "" || u.path == "none" {
		u.path = ""
		return &handover.Taken{Sockets: handover.Sockets{}}, nil
	}
	if err := os.MkdirAll(filepath.Dir(u.path), 0o700); err != nil {
		return nil, fmt.Errorf("--upgrade-socket: %w", err)
	}
	taken, err := handover.Take(ctx, u.path)
	if err == nil && taken.Given() {
		p.Log.Info("sockets are taken over", logging.Count(len(taken.Sockets)))
	}
	return taken, err
}

// The names under which sockets are handed over.
const (
	listening = "listen " // and the address as it is wanted
	grpcName  = "grpc "   // and --grpc-listen
	figures   = "metrics "
)

// addresses takes out the sockets that are listened on for clients.
func addresses(s handover.Sockets) map[string][]int {
	all := map[string][]int{}
	for name, fds := range s {
		if address, ok := strings.CutPrefix(name, listening); ok {
			all[address] = fds
			delete(s, name)
		}
	}
	return all
}

// file takes out the socket of a name; nil: there is none.
func file(s handover.Sockets, name string) *os.File {
	fds := s[name]
	if len(fds) != 1 {
		return nil
	}
	delete(s, name)
	return os.NewFile(uintptr(fds[0]), name)
}

// add puts a socket under a name. f may be nil.
func add(s handover.Sockets, name string, f *os.File, err error) error {
	if f == nil || err != nil {
		return err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(err, unix.SetNonblock(fd, true), f.Close()); err != nil { // Fd has made it block
		return err
	}
	s[name] = []int{fd}
	return nil
}

// follow is for the first process of a container, with which the container would end: it waits until nobody serves at path
// any more, and passes on what it is told to. told: it has been told to end already.
func follow(path string, told bool, log *zap.Logger) {
	signals := make(chan os.Signal, 4)
	if told {
		signals <- syscall.SIGTERM
	}
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	for {
		pid, err := handover.Who(path)
		// A successor begins to listen there after the one before has let go; one that was told to end has none.
		for end := time.Now().Add(10 * time.Second); err != nil && !told && time.Now().Before(end); pid, err = handover.Who(path) {
			<-time.After(50 * time.Millisecond)
		}
		if err != nil {
			log.Info("nobody serves any more", zap.Error(err))
			return
		}
		log.Info("this process stays for the one that serves", zap.Int("pid", pid))
		passed, err := watch(pid, signals)
		if err != nil {
			log.Error("the process that serves cannot be watched", zap.Int("pid", pid), zap.Error(err))
			return
		}
		told = told || passed
	}
}

// watch waits until a process has ended, and passes signals on to it. told: one of them asked it to end.
func watch(pid int, signals <-chan os.Signal) (told bool, err error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	for {
		select {
		case s := <-signals:
			told = told || s != syscall.SIGHUP
			_ = unix.PidfdSendSignal(fd, s.(syscall.Signal), nil, 0) // it may have ended
		default:
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return told, os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return told, nil
		}
	}
}

// flagged is something that happens once. Any goroutine may call.
type flagged struct {
	once sync.Once
	c    chan struct{}
}

func newSignal() *flagged { return &flagged{c: make(chan struct{})} }

func (f *flagged) set() { f.once.Do(func() { close(f.c) }) }

func (f *flagged) is() bool {
	select {
	case <-f.c:
		return true
	default:
		return false
	}
}
