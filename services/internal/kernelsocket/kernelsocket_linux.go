// Package kernelsocket is a conversation with the kernel by netlink (RFC 3549): datagrams there and back, and when has it not answered?
// What is in them is for others.
package kernelsocket

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Buffer takes the largest datagram that the kernel makes, in bytes: 32 KiB of a listing (netlink_dump of net/netlink/af_netlink.c).
const Buffer = 64 << 10

// ErrSilent means that the kernel did not answer in time.
var ErrSilent = errors.New("the kernel did not answer")

// Socket belongs to the network namespace of the thread that opened it. One goroutine may use it at a time.
type Socket struct {
	fd      int
	timeout time.Duration
	buffer  []byte
}

// Open opens a socket for a protocol of netlink, as unix.NETLINK_GENERIC. The timeout bounds the wait for one datagram of an answer: the
// kernel makes it while it is asked, and what has not come by then was lost. Close it.
func Open(protocol int, timeout time.Duration) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &Socket{fd: fd, timeout: timeout, buffer: make([]byte, Buffer)}
	wait := unix.NsecToTimeval(timeout.Nanoseconds())
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a netlink socket: %w", err), s.Close())
	}
	return s, nil
}

// Close ends the conversation.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// MakeRoom has the socket send datagrams of up to so many bytes, or of what the system's limit is when this process may not exceed it.
func (s *Socket) MakeRoom(bytes int) {
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes)
}

// Send sends a datagram. The kernel has done what it asks for when this returns.
func (s *Socket) Send(datagram []byte) error {
	if err := unix.Sendto(s.fd, datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d bytes: %w", len(datagram), err)
	}
	return nil
}

// Receive waits for a datagram, which is the caller's own.
func (s *Socket) Receive() ([]byte, error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(s.fd, s.buffer, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("%w within %s", ErrSilent, s.timeout)
		case err != nil:
			return nil, fmt.Errorf("receive: %w", err)
		case flags&unix.MSG_TRUNC != 0:
			return nil, fmt.Errorf("an answer of more than %d bytes", len(s.buffer))
		}
		return slices.Clone(s.buffer[:n]), nil
	}
}
