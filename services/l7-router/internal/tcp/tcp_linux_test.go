package tcp_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// An accepted connection is given little ahead, until it is trusted; a called one has no such bound.
func TestUnsent(t *testing.T) {
	t.Parallel()
	fds, err := tcp.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close(fds...)
	called, err := tcp.Connect(tcp.LocalAddress(fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close(called)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, 60_000); n != 1 {
		t.Fatalf("nothing to accept: %v", err)
	}
	accepted, _, err := unix.Accept4(fds[0], unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close(accepted)
	want := func(fd, bound int) {
		t.Helper()
		if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err != nil || got != bound {
			t.Errorf("%d bytes, %v; want %d", got, err, bound)
		}
	}
	want(called, 0)
	want(accepted, tcp.Unsent)
	if err := tcp.Trust(accepted); err != nil {
		t.Fatal(err)
	}
	want(accepted, 0)
}
