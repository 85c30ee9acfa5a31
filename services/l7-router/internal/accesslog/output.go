package accesslog

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

const (
	// retryEvery is how often a target that cannot be written to is tried again.
	retryEvery = time.Second
	// writeTimeout is how long a syslog daemon may take for one message.
	writeTimeout = 100 * time.Millisecond
	// flushAt is how many bytes are written to a file at a time.
	flushAt = 64 << 10
)

// target is what is written to. It belongs to the goroutine of Logs.Run.
type target struct {
	kind spec.LogKind
	path string

	out    io.Writer // nil: it is not open
	file   *os.File
	conn   net.Conn
	looked time.Time // when the file was last compared with what its path means
	retry  time.Time // not before
	buffer []byte
	lines  uint64 // in the buffer
}

var stdout io.Writer = os.Stdout // replaced by tests, before anything runs

func (t *target) open(now time.Time) error {
	if now.Before(t.retry) {
		return errClosed
	}
	t.retry = now.Add(retryEvery)
	switch t.kind {
	case spec.LogStdout:
		t.out = stdout
	case spec.LogFile:
		// Not through a link that somebody has laid, not into what is no file, and readable for its own user and group only.
		fd, err := unix.Open(t.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
		if err != nil {
			return &os.PathError{Op: "open", Path: t.path, Err: err}
		}
		t.file = os.NewFile(uintptr(fd), t.path)
		if info, err := t.file.Stat(); err != nil || !info.Mode().IsRegular() {
			t.close()
			return errors.Join(err, fmt.Errorf("%s is no file", t.path))
		}
		t.out, t.looked = t.file, now
	case spec.LogUDP, spec.LogUnix:
		network := map[spec.LogKind]string{spec.LogUDP: "udp", spec.LogUnix: "unixgram"}[t.kind]
		conn, err := net.DialTimeout(network, t.path, writeTimeout)
		if err != nil {
			return err
		}
		t.conn, t.out = conn, conn
	}
	return nil
}

var errClosed = errors.New("not open")

func (t *target) close() {
	if t.file != nil {
		_ = t.file.Close() // it is written past every buffer
	}
	if t.conn != nil {
		_ = t.conn.Close() // datagrams are sent or not
	}
	t.out, t.file, t.conn = nil, nil, nil
}

// datagrams: each line is sent by itself, as syslog.
func (t *target) datagrams() bool { return t.kind == spec.LogUDP || t.kind == spec.LogUnix }

// line takes the buffer with a whole line more. It returns how many lines are lost.
func (t *target) line(buffer []byte, now time.Time) (lost uint64, err error) {
	t.buffer = buffer
	t.lines++
	if t.datagrams() || len(t.buffer) >= flushAt {
		return t.flush(now)
	}
	return 0, nil
}

// flush writes what is in the buffer. It returns how many lines are lost.
func (t *target) flush(now time.Time) (lost uint64, err error) {
	if t.file != nil && now.Sub(t.looked) >= retryEvery {
		t.moved(now)
	}
	if len(t.buffer) == 0 {
		return 0, nil
	}
	lines := t.lines
	defer func() { t.buffer, t.lines = t.buffer[:0], 0 }()
	if t.out == nil {
		if err := t.open(now); err != nil {
			return lines, err
		}
	}
	if t.conn != nil {
		_ = t.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // the write says why it cannot be
	}
	if _, err := t.out.Write(t.buffer); err != nil {
		t.close()
		return lines, err
	}
	return 0, nil
}

// moved closes a file that its path does not mean any more: a log is rotated by moving it away.
func (t *target) moved(now time.Time) {
	t.looked = now
	there, err := os.Lstat(t.path)
	mine, mineErr := t.file.Stat()
	if err != nil || mineErr != nil || !os.SameFile(there, mine) {
		t.close()
		t.retry = time.Time{}
	}
}
