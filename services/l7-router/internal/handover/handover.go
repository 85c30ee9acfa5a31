// Package handover passes the listening sockets of a router to the one that takes its place: who asks for them, are they
// told apart, and when does the old one let go?
//
// The one that runs listens on a unix socket. A new one connects to it and gets the sockets; the old one goes on accepting.
// When the new one accepts on them it says so, the old one lets go, answers, and ends when its connections have. Until then
// the end of the new one changes nothing for the old one.
package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/logging"
)

const (
	// protocol is the version of what is said over the socket.
	protocol = 1
	// ReadyTimeout is how long the new process may take until it accepts.
	ReadyTimeout = time.Minute
	// answerTimeout is how long every other step may take.
	answerTimeout = 10 * time.Second
	// acceptPause is the pause after an accept that failed for want of descriptors or memory.
	acceptPause = 100 * time.Millisecond
	// maxMessage is the most bytes of a message.
	maxMessage = 64 << 10
	// maxSockets is the most descriptors in a message (SCM_MAX_FD, include/net/scm.h).
	maxSockets = 253
)

var errGone = errors.New("the other process has gone")

// message is what is said, one in each packet.
type message struct {
	Protocol int `json:"protocol"`
	// Socket is the name of the sockets that come with the message; empty: there are no more.
	Socket string `json:"socket,omitempty"`
	// Error: what was asked for is not to be had.
	Error string `json:"error,omitempty"`
	// Kept are the names of the sockets that are in use by now.
	Kept []string `json:"kept,omitempty"`
}

// Sockets are descriptors by a name that both processes understand.
type Sockets map[string][]int

// Close closes all that are left.
func (s Sockets) Close() {
	for name, fds := range s {
		for _, fd := range fds {
			_ = unix.Close(fd) // nothing is written that could be lost
		}
		delete(s, name)
	}
}

// Taken is what a new process has been given. The zero value is nothing: nobody was there to give anything.
type Taken struct {
	Sockets Sockets
	conn    *net.UnixConn
}

// Take asks the router at path for its sockets. That nobody is there is no error.
func Take(ctx context.Context, path string) (_ *Taken, err error) {
	t := &Taken{Sockets: Sockets{}}
	dialed, err := new(net.Dialer).DialContext(ctx, "unixpacket", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hand-over: %w", err)
	}
	t.conn = dialed.(*net.UnixConn)
	defer func() {
		if err != nil {
			t.Sockets.Close()
			err = errors.Join(fmt.Errorf("hand-over from %s: %w", path, err), t.conn.Close())
		}
	}()
	if err := send(t.conn, message{}, nil); err != nil {
		return nil, err
	}
	for {
		m, fds, err := receive(t.conn, answerTimeout)
		if err != nil {
			return nil, err
		}
		if m.Socket == "" {
			return t, nil
		}
		t.Sockets[m.Socket] = fds
	}
}

// Given reports whether there was a process that has given something.
func (t *Taken) Given() bool { return t.conn != nil }

// Ready tells the process before that these sockets are accepted on here, and waits until it has let go. Without such a
// process it does nothing.
func (t *Taken) Ready(kept []string) error {
	if t.conn == nil {
		return nil
	}
	err := send(t.conn, message{Kept: kept}, nil)
	if err == nil {
		_, _, err = receive(t.conn, ReadyTimeout)
	}
	return errors.Join(err, t.conn.Close())
}

// Server gives the sockets of this process away.
type Server struct {
	listener *net.UnixListener
	log      *zap.Logger
}

// Listen begins to listen at path for a process that takes the place of this one. The socket is for the user of this process
// alone; one that another process has there is replaced, in one step.
func Listen(path string, log *zap.Logger) (*Server, error) {
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("hand-over: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: temporary, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("hand-over: %w", err)
	}
	l.SetUnlinkOnClose(false) // by then the path may be another process's
	err = os.Chmod(temporary, 0o600)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hand-over: %w", err), l.Close(), os.Remove(temporary))
	}
	return &Server{listener: l, log: log.Named("handover")}, nil
}

// Run waits until another process has taken the place of this one, and returns its id; 0 when ctx has ended before. give
// returns descriptors of all sockets, which Run closes. release lets go of them when the other process accepts on those it
// has kept.
func (s *Server) Run(ctx context.Context, give func() (Sockets, error), release func(kept []string) error) (successor int, err error) {
	defer s.listener.Close()
	defer context.AfterFunc(ctx, func() { _ = s.listener.SetDeadline(time.Unix(1, 0)) })() // a closed one waits for nothing
	for {
		conn, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			return 0, nil
		}
		if scarce(err) {
			s.log.Warn("accept", zap.Error(err)) // the router goes on without
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("hand-over: %w", err)
		}
		pid, err := s.serve(conn, give, release)
		if err := errors.Join(err, conn.Close()); err != nil {
			s.log.Warn("nothing is handed over, and this process goes on", zap.Error(err))
		}
		if pid != 0 {
			return pid, nil
		}
	}
}

// scarce reports whether an accept has failed for want of something that may come back.
func scarce(err error) bool {
	for _, passing := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// serve talks with one process, and returns its id if it has taken the place of this one.
func (s *Server) serve(conn *net.UnixConn, give func() (Sockets, error), release func(kept []string) error) (successor int, err error) {
	peer, err := credentials(conn)
	if err != nil {
		return 0, err
	}
	if peer.Uid != uint32(os.Getuid()) && peer.Uid != 0 {
		return 0, fmt.Errorf("process %d is of user %d", peer.Pid, peer.Uid)
	}
	if _, _, err := receive(conn, answerTimeout); errors.Is(err, errGone) || errors.Is(err, unix.ECONNRESET) {
		return 0, nil // it only wanted to know who is here
	} else if err != nil {
		return 0, err
	}
	sockets, err := give()
	if err != nil {
		return 0, errors.Join(err, send(conn, message{Error: err.Error()}, nil))
	}
	defer sockets.Close()
	for name, fds := range sockets {
		if err := send(conn, message{Socket: name}, fds); err != nil {
			return 0, err
		}
	}
	if err := send(conn, message{}, nil); err != nil {
		return 0, err
	}
	s.log.Info("another process asks for the sockets", zap.Int32("pid", peer.Pid))
	m, _, err := receive(conn, ReadyTimeout)
	if err != nil {
		return 0, fmt.Errorf("process %d has not become ready: %w", peer.Pid, err)
	}
	sockets.Close() // before release, which may close some for good
	begin := time.Now()
	if err := release(m.Kept); err != nil {
		s.log.Error("not everything could be let go", zap.Error(err))
	}
	s.log.Info("handed over", zap.Int32("pid", peer.Pid), logging.Duration(time.Since(begin)))
	// It serves whether it hears of this or not.
	return int(peer.Pid), send(conn, message{}, nil)
}

// credentials are those of the process at the other end, as the kernel knows them (unix(7), SO_PEERCRED).
func credentials(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		peer  *unix.Ucred
		wrong error
	)
	if err := raw.Control(func(fd uintptr) { peer, wrong = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	return peer, wrong
}

func send(conn *net.UnixConn, m message, fds []int) error {
	m.Protocol = protocol
	if len(fds) > maxSockets {
		return fmt.Errorf("%s has %d sockets, at most %d can be passed", m.Socket, len(fds), maxSockets)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("message of %d bytes, want %d at most", len(text), maxMessage)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(text, rights, nil)
	return err
}

func receive(conn *net.UnixConn, timeout time.Duration) (m message, fds []int, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return m, nil, err
	}
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxSockets))
	n, r, flags, _, err := conn.ReadMsgUnix(text, rights)
	if errors.Is(err, io.EOF) { // a read of nothing
		err = errGone
	}
	if err != nil {
		return m, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:r])
	for _, control := range messages {
		got, wrong := unix.ParseUnixRights(&control)
		fds, err = append(fds, got...), errors.Join(err, wrong)
	}
	defer func() {
		if err != nil {
			Sockets{"": fds}.Close()
			fds = nil
		}
	}()
	switch {
	case err != nil:
		return m, fds, err
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return m, fds, errors.New("a message is cut")
	}
	if err := json.Unmarshal(text[:n], &m); err != nil {
		return m, fds, err
	}
	switch {
	case m.Protocol != protocol:
		return m, fds, fmt.Errorf("the other process speaks version %d of the hand-over, this one %d", m.Protocol, protocol)
	case m.Error != "":
		return m, fds, errors.New(m.Error)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return m, fds, nil
}

// Who tells which process listens at path.
func Who(path string) (pid int, err error) {
	conn, err := net.DialTimeout("unixpacket", path, answerTimeout)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	peer, err := credentials(conn.(*net.UnixConn))
	if err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}
