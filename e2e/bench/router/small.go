package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// smallAnswer is what the small origin answers: 100 bytes of text.
var smallAnswer = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100))

// serveSmall answers every request in the same way. It understands just enough for two proxies that send requests without a
// body, one at a time on each connection, and so costs much less than either: else the core of the load is full before that of
// the proxy, and the rates say nothing about the proxy.
func serveSmall(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(listener, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(listener, 4096); err != nil {
		return os.NewSyscallError("listen", err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	watch := func(fd int) error {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event))
	}
	if err := watch(listener); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	request := make([]byte, 16<<10)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, event := range events[:max(n, 0)] {
			fd := int(event.Fd)
			if fd == listener {
				c, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				if err == unix.EAGAIN || err == unix.ECONNABORTED {
					continue
				}
				if err == nil {
					err = watch(c)
				}
				if err != nil {
					return os.NewSyscallError("accept4", err)
				}
				continue
			}
			n, err := unix.Read(fd, request)
			if err == nil && n > 0 {
				if !bytes.HasSuffix(request[:n], []byte("\r\n\r\n")) {
					return fmt.Errorf("not one whole request: %q", request[:n])
				}
				_, err = unix.Write(fd, smallAnswer)
			}
			if err != nil || n <= 0 {
				_ = unix.Close(fd) // the proxy has ended it
			}
		}
	}
}
