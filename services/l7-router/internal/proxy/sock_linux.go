package proxy

import (
	"crypto/tls"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/mux"
)

// stream is a *net.TCPConn, or a *net.UnixConn to a server inside this process.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// sock is one connection with the few calls that package net has no words for. Its raw calls keep their results in
// the struct, so that none allocates; each may be used by one goroutine at a time.
type sock struct {
	stream
	raw    syscall.RawConn
	secure *tls.Conn // what is spoken over it; nil: cleartext
	// h2 is what this is instead of a connection; nil: it is one.
	h2    *mux.Stream
	ahead *buffer // what has been read already of what TLS is to read; nil: nothing
	// late is writeLate, made once.
	late func(int) error
	// writing is the direction that is written to the socket, nil: none; with TLS it is asked when that takes long.
	writing *direction
	// sendMu guards sending, and while that is true what writing points to from everybody but who called Write.
	sendMu  sync.Mutex
	sending bool // with TLS: Write is under way
	oneB    [1]byte
	server  uint64 // the ID of the server that it leads to; 0: to a client

	readDue, writeDue due

	read    *buffer
	readN   int
	readErr error
	readNow func(uintptr) bool

	filled   *pipe
	fillMost int64
	fillErr  error
	fillNow  func(uintptr) bool

	peekErr error
	peekN   int
	peekB   [1]byte
	peekNow func(uintptr)
}

func newSock(c stream) (*sock, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &sock{stream: c, raw: raw}
	s.readNow = s.readReady
	s.fillNow = s.fillReady
	s.peekNow = s.peekFD
	return s, nil
}

// readFirst waits until something has come and only then borrows a buffer for it, so that an idle connection holds none.
func (s *sock) readFirst() (*buffer, error) {
	if s.secure != nil {
		return s.firstSecure()
	}
	if s.h2 != nil {
		return s.firstStream()
	}
	s.read, s.readN, s.readErr = nil, 0, nil
	err := s.raw.Read(s.readNow)
	b := s.read
	s.read = nil
	switch {
	case err != nil:
	case s.readErr != nil:
		err = s.readErr
	case s.readN == 0:
		err = errEnd
	default:
		b.w = s.readN
		return b, nil
	}
	giveBack(b)
	return nil, err
}

func (s *sock) readReady(fd uintptr) bool {
	b := borrow()
	for {
		n, err := syscall.Read(int(fd), b.b)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			giveBack(b)
			return false
		}
		s.read, s.readN, s.readErr = b, n, err
		return true
	}
}

// peek looks at what can be read without waiting: n is 0 with nil error at the end of the stream.
func (s *sock) peek() (n int, err error) {
	if s.h2 != nil {
		return s.peekStream()
	}
	if err := s.raw.Control(s.peekNow); err != nil {
		return 0, err
	}
	return s.peekN, s.peekErr
}

// peekFD makes a call that never waits, of which the scheduler of Go need not know; it is made once for each request.
func (s *sock) peekFD(fd uintptr) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&s.peekB)), uintptr(len(s.peekB)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			s.peekN, s.peekErr = int(n), nil
			return
		case unix.EINTR:
		default:
			s.peekN, s.peekErr = 0, errno
			return
		}
	}
}

// acked returns how many bytes the other side has acknowledged (tcpi_bytes_acked, RFC 4898 tcpEStatsAppHCThruOctetsAcked).
func (s *sock) acked() (n int64, ok bool) {
	if s.h2 != nil {
		return 0, false // a server says so: mux.ErrUntouched
	}
	err := s.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n, ok = int64(info.Bytes_acked), true
		}
	})
	return n, ok && err == nil
}

// Alive reports whether the connection is open and quiet.
func (s *sock) Alive() bool {
	_, err := s.peek()
	return err == syscall.EAGAIN
}

// ended reports whether the other side has closed or reset the connection and nothing is left to read.
func (s *sock) ended() bool {
	if s.h2 != nil {
		return s.h2.Ended()
	}
	n, err := s.peek()
	if s.secure != nil && err == nil && n > 0 {
		return s.hasEnded()
	}
	return err == nil && n == 0 || err != nil && err != syscall.EAGAIN
}

// abort closes with a reset, for streams whose end would otherwise look like a good one.
func (s *sock) abort() {
	if s.h2 != nil {
		s.h2.Abort()
		return
	}
	if tcp, ok := s.stream.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it the close is an ordinary one
	}
	_ = s.stream.Close() // nothing to be saved
}

// queued takes the connections that wait to be accepted, without waiting for more.
func queued(l *net.TCPListener) (all []*net.TCPConn) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil // it is closed
	}
	var fds []int
	_ = raw.Control(func(listening uintptr) { // closed in between: nothing waits any more
		for {
			fd, _, err := unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch err {
			case nil:
				fds = append(fds, fd)
			case unix.EINTR, unix.ECONNABORTED:
			default:
				return
			}
		}
	})
	for _, fd := range fds {
		file := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(file) // a duplicate; no descriptors left: the client is reset
		_ = file.Close()             // nothing was written to it
		if tcp, ok := c.(*net.TCPConn); ok && err == nil {
			all = append(all, tcp)
		}
	}
	return all
}

// disconnect resets the connection, and has both sides see it: connect(2) with AF_UNSPEC. Any goroutine may call it.
func (s *sock) disconnect() {
	if s.h2 != nil {
		s.h2.Break()
		return
	}
	_ = s.raw.Control(func(fd uintptr) { // a closed one has ended already
		none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none)) // so has one that cannot be
	})
}
