// Package tcp makes TCP sockets that do not block: with which options is an address listened on or called?
package tcp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// KeepAlive is how often the kernel probes a quiet connection, so that one whose other side has vanished ends.
const KeepAlive = 30 * time.Second

// Unsent is how many bytes the kernel takes for an accepted connection beyond what may be on its way (tcp(7),
// TCP_NOTSENT_LOWAT). Without it each client that reads slowly, or not at all, is given up to net.ipv4.tcp_wmem, commonly
// 4 MiB, and some hundred of them take all the memory that the machine has for TCP.
const Unsent = 256 << 10

// option is one socket option.
type option struct{ level, name, value int }

// connOptions are those of every connection: no waiting for more to send, and a look at the other side when it is quiet.
var connOptions = []option{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(KeepAlive / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(KeepAlive / time.Second)},
}

// open makes a TCP socket that does not block.
func open(family int, options ...option) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			_ = unix.Close(fd) // it was never used
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	return fd, nil
}

// sockaddr turns an address into the kernel's form.
func sockaddr(a netip.AddrPort) (family int, address unix.Sockaddr) {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}
	}
	to := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if n, err := strconv.Atoi(zone); err == nil {
			to.ZoneId = uint32(n)
		} else if i, err := net.InterfaceByName(zone); err == nil {
			to.ZoneId = uint32(i.Index)
		}
	}
	return unix.AF_INET6, to
}

// Connect begins a connection.
func Connect(to netip.AddrPort) (fd int, err error) {
	family, address := sockaddr(to)
	if fd, err = open(family, connOptions...); err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, address); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd) // it was never used
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// GiveUp has a connection end when what it has sent is not acknowledged, or not taken, for so long (tcp(7),
// TCP_USER_TIMEOUT).
func GiveUp(raw syscall.RawConn, after time.Duration) error {
	var wrong error
	err := raw.Control(func(fd uintptr) {
		wrong = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(min(after.Milliseconds(), 1<<31-1)))
	})
	return errors.Join(err, os.NewSyscallError("setsockopt", wrong))
}

// Trust takes the bound of Unsent from a connection.
func Trust(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 0))
}

// Listen binds n sockets to one address, among which the kernel shares the connections out. The zero Addr stands for
// every address, IPv4 and IPv6; port 0 for any that is free.
func Listen(at netip.AddrPort, n int) (fds []int, err error) {
	defer func() {
		if err != nil {
			Close(fds...)
		}
	}()
	// Without SO_REUSEPORT first: with it another process of the same user could share the address unnoticed.
	if at.Port() != 0 {
		fd, _, err := bind(at)
		if err != nil {
			return nil, err
		}
		_ = unix.Close(fd) // it was to see whether it can be had
	}
	return join(at, n)
}

// Join adds sockets to those of an address, until there are n. They must be of Listen, perhaps in another process of the
// same user.
func Join(at netip.AddrPort, fds []int, n int) ([]int, error) {
	if len(fds) >= n {
		return fds, nil
	}
	more, err := join(netip.AddrPortFrom(at.Addr(), LocalAddress(fds[0]).Port()), n-len(fds))
	if err != nil {
		Close(more...)
		return fds, err
	}
	return append(fds, more...), nil
}

func join(at netip.AddrPort, n int) (fds []int, err error) {
	for range n {
		fd, bound, err := bind(at, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
		at = netip.AddrPortFrom(at.Addr(), bound.Port())
	}
	// The connections that are accepted inherit the options.
	for _, fd := range fds {
		if err := unix.Listen(fd, 65535); err != nil { // the kernel cuts it down to net.core.somaxconn
			return fds, os.NewSyscallError("listen", err)
		}
	}
	return fds, nil
}

// Duplicate gives the same sockets other descriptors.
func Duplicate(fds []int) (copies []int, err error) {
	for _, fd := range fds {
		duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			Close(copies...)
			return nil, os.NewSyscallError("fcntl", err)
		}
		copies = append(copies, duplicate)
	}
	return copies, nil
}

// Close closes descriptors. A socket that has another one goes on.
func Close(fds ...int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing is written that could be lost
	}
}

// bind makes a bound socket and tells its address.
func bind(at netip.AddrPort, options ...option) (fd int, bound netip.AddrPort, err error) {
	options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	options = append(options, connOptions...)
	options = append(options, option{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, Unsent})
	everywhere := !at.Addr().IsValid()
	if everywhere {
		at = netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
	}
	family, address := sockaddr(at)
	if family == unix.AF_INET6 {
		only := 1 // an IPv6 address, [::] too, means IPv6 only
		if everywhere {
			only = 0
		}
		fd, err = open(family, append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only})...)
		if everywhere && err != nil { // a kernel without IPv6
			family, address = sockaddr(netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
		}
	}
	if family == unix.AF_INET {
		fd, err = open(family, options...)
	}
	if err != nil {
		return -1, bound, err
	}
	if err := unix.Bind(fd, address); err != nil {
		_ = unix.Close(fd) // it was never used
		return -1, bound, os.NewSyscallError("bind", err)
	}
	return fd, LocalAddress(fd), nil
}

// LocalAddress is the own end of a socket; the zero AddrPort when the kernel does not tell.
func LocalAddress(fd int) netip.AddrPort {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(address)
}

// RemoteAddress is the other end of a socket; the zero AddrPort when the kernel does not tell.
func RemoteAddress(fd int) netip.AddrPort {
	address, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(address)
}

func addrPort(address unix.Sockaddr) netip.AddrPort {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
