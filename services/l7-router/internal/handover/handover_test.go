package handover

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

// TestScarceDescriptors asks a process for its sockets that cannot even accept: it goes on, and gives them later.
func TestScarceDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	failed := make(chan struct{}, 100)
	log := zap.New(zapcore.NewNopCore()).WithOptions(zap.WrapCore(func(zapcore.Core) zapcore.Core { return told{zapcore.NewNopCore(), failed} }))
	s, err := Listen(path, log)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := s.Run(ctx, func() (Sockets, error) { return Sockets{}, nil }, func([]string) error { return nil })
		ended <- err
	}()
	select {
	case <-failed:
	case err := <-ended:
		t.Errorf("it has ended: %v", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	peer := conn.(*net.UnixConn)
	if err := send(peer, message{}, nil); err != nil {
		t.Fatal(err)
	}
	if m, _, err := receive(peer, 20*time.Second); err != nil || m.Socket != "" {
		t.Fatalf("got %+v %v", m, err)
	}
	if err := send(peer, message{Kept: nil}, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWhoIsNoHandOver: who only asks which process is here has nothing handed over, and nobody has to look at that.
func TestWhoIsNoHandOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	core, logs := observer.New(zap.WarnLevel)
	s, err := Listen(path, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := s.Run(ctx, func() (Sockets, error) { return Sockets{}, nil }, func([]string) error { return nil })
		ended <- err
	}()
	if pid, err := Who(path); err != nil || pid != os.Getpid() {
		t.Errorf("%d %v is here, want %d", pid, err, os.Getpid())
	}
	taken, err := Take(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(taken.Ready(nil), <-ended); err != nil {
		t.Error(err)
	}
	if all := logs.All(); len(all) > 0 {
		t.Errorf("warned of %v", all)
	}
}

// told tells of each line of a log.
type told struct {
	zapcore.Core
	lines chan struct{}
}

func (told) Enabled(zapcore.Level) bool { return true }

func (c told) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return to.AddCore(e, c)
}

func (c told) Write(zapcore.Entry, []zapcore.Field) error {
	select {
	case c.lines <- struct{}{}:
	default:
	}
	return nil
}
