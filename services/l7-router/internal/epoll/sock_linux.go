package epoll

import (
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// The calls below go to the kernel past the Go scheduler (RawSyscall): on a socket that does not block they are over
// before another thread could have been woken to use the time.

// sock is one socket of a loop. What the flags say was true when the kernel last told; a call that would block corrects
// them.
type sock struct {
	fd  int32
	gen int32 // tells an event for this socket from one for an earlier socket of the same number
	// readable, writable: a read, a write may succeed. ended: the other side has closed its direction, or all is over.
	readable, writable, ended bool
	handler                   handler
	poured                    int64 // bytes that pipes have passed on to it
}

// handler gets to know that the flags of its socket have changed.
type handler interface{ ready() }

// watch registers s with the loop, for all events once and for all: edge-triggered.
func (l *loop) watch(s *sock, fd int, h handler) error {
	l.gen++
	s.fd, s.gen, s.handler, s.poured = int32(fd), l.gen, h, 0
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd:     s.fd, Pad: s.gen,
	}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	for len(l.socks) <= fd {
		l.socks = append(l.socks, nil)
	}
	l.socks[fd] = s
	return nil
}

// shut closes the socket. What has happened to it in the same wake-up is not told any more.
func (l *loop) shut(s *sock) {
	l.socks[s.fd] = nil
	_ = unix.Close(int(s.fd)) // whatever had to be said has been said
	s.handler = nil
}

// note takes what the kernel says.
func (s *sock) note(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.ended = true
	}
}

// read reads once: EAGAIN when nothing is there, 0 at the end of the stream. recvfrom(2) does not go through the file system
// as read(2) does.
func (s *sock) read(p []byte) (int, unix.Errno) {
	for {
		n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
		switch err {
		case 0:
			// Less than asked for means that it was all (epoll(7)), unless the end has been announced behind it.
			if int(n) < len(p) && !s.ended {
				s.readable = false
			}
			return int(n), 0
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			s.readable = false
		}
		return 0, err
	}
}

// write writes once, EAGAIN when nothing can be taken.
func (s *sock) write(p []byte) (int, unix.Errno) {
	for {
		n, _, err := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		switch err {
		case 0:
			if int(n) < len(p) {
				s.writable = false
			}
			return int(n), 0
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			s.writable = false
		}
		return 0, err
	}
}

// peek looks at what can be read without taking it: n is 0 with no error at the end of the stream.
func (s *sock) peek() (n int, err unix.Errno) {
	var b [1]byte
	for {
		r, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if err != unix.EINTR {
			return int(r), err
		}
	}
}

// sendsMore reports whether something can be read.
func (s *sock) sendsMore() bool {
	n, err := s.peek()
	return err == 0 && n > 0
}

// gone reports whether the other side has closed or reset the connection and nothing is left to read.
func (s *sock) gone() bool {
	if !s.ended {
		return false
	}
	n, err := s.peek()
	return err == 0 && n == 0 || err != 0 && err != unix.EAGAIN
}

// disconnect resets the connection, and has both sides see it: connect(2) with AF_UNSPEC.
func (s *sock) disconnect() {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none)) // one that has ended has no need of it
}

// acked returns how many bytes the other side has acknowledged (tcpi_bytes_acked, RFC 4898 tcpEStatsAppHCThruOctetsAcked),
// negative when that cannot be known.
func (s *sock) acked() int64 {
	info, err := unix.GetsockoptTCPInfo(int(s.fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return -1
	}
	return int64(info.Bytes_acked)
}

// closeWrite ends the sending direction.
func (s *sock) closeWrite() error { return unix.Shutdown(int(s.fd), unix.SHUT_WR) }

// reset makes the close that follows a reset, for streams whose end would otherwise look like a good one.
func (s *sock) reset() {
	// Without it the close is an ordinary one.
	_ = unix.SetsockoptLinger(int(s.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// failure returns how a connect has ended.
func (s *sock) failure() error {
	code, err := unix.GetsockoptInt(int(s.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// accept takes one connection and tells the address of its other end.
func accept(listener int) (fd int, remote netip.AddrPort, err unix.Errno) {
	var raw unix.RawSockaddrAny
	for {
		size := uint32(unsafe.Sizeof(raw))
		n, _, err := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if err == unix.EINTR {
			continue
		}
		if err != 0 {
			return -1, remote, err
		}
		switch raw.Addr.Family {
		case unix.AF_INET:
			from := (*unix.RawSockaddrInet4)(unsafe.Pointer(&raw))
			remote = netip.AddrPortFrom(netip.AddrFrom4(from.Addr), port(&from.Port))
		case unix.AF_INET6:
			from := (*unix.RawSockaddrInet6)(unsafe.Pointer(&raw))
			remote = netip.AddrPortFrom(netip.AddrFrom16(from.Addr).Unmap(), port(&from.Port))
		}
		return int(n), remote, 0
	}
}

// port reads a port in network byte order.
func port(p *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(p))
	return uint16(b[0])<<8 | uint16(b[1])
}

// pipeSize is how much a pipe should hold between two sockets; the kernel may give less.
const pipeSize = 256 << 10

// pipe carries bytes from one socket to another inside the kernel: splice(2).
type pipe struct {
	r, w int
	held int64 // bytes inside
}

// borrowPipe returns nil when none can be had.
func (l *loop) borrowPipe() *pipe {
	if p := l.pipes.pop(); p != nil {
		return p
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	// A larger pipe only saves calls; a user may be at the limit of fs.pipe-user-pages-soft.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{r: fds[0], w: fds[1]}
}

// giveBackPipe keeps an empty pipe for later; what is left in another must not reach a stranger.
func (l *loop) giveBackPipe(p *pipe) {
	if p.held == 0 && len(l.pipes.spare) < maxPipes && l.pipes.push(p) {
		return
	}
	tcp.Close(p.r, p.w)
}

// maxPipes is the most pipes that a loop keeps for later; more are made while they are needed.
const maxPipes = 32

func splice(from, to int32, n int64) (int64, unix.Errno) {
	for {
		moved, _, err := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int64(moved), syscall.Errno(err)
		}
	}
}

// fill takes at most n bytes from s into the pipe, which must be empty; 0 at the end of the stream.
func (p *pipe) fill(s *sock, n int64) (int64, unix.Errno) {
	moved, err := splice(s.fd, int32(p.w), min(n, pipeSize))
	if err == unix.EAGAIN {
		s.readable = false
	}
	if err == 0 {
		p.held = moved
	}
	return moved, err
}

// trustAfter is how many bytes a connection must have taken before the kernel may hold more for it than tcp.Unsent, which
// costs a large body a fifth of its processor time.
const trustAfter = 4 << 20

// pour passes some of what the pipe holds on to s.
func (p *pipe) pour(s *sock) unix.Errno {
	moved, err := splice(int32(p.r), s.fd, p.held)
	if err == unix.EAGAIN {
		s.writable = false
	}
	if err == 0 {
		p.held -= moved
		before := s.poured
		if s.poured += moved; before < trustAfter && s.poured >= trustAfter {
			_ = tcp.Trust(int(s.fd)) // without it the body is only dearer
		}
	}
	return err
}
