package epoll

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// TestTrust: a connection is given little ahead until it has taken trustAfter bytes of bodies.
func TestTrust(t *testing.T) {
	t.Parallel()
	listeners, err := tcp.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close(listeners...)
	client, err := tcp.Connect(tcp.LocalAddress(listeners[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close(client)
	wait := func(fd int, events int16) {
		t.Helper()
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 60_000); n != 1 {
			t.Fatalf("socket %d: %v", fd, err)
		}
	}
	wait(listeners[0], unix.POLLIN)
	accepted, _, errno := accept(listeners[0])
	if errno != 0 {
		t.Fatal(errno)
	}
	defer tcp.Close(accepted)
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer tcp.Close(fds[:]...)

	s, p := &sock{fd: int32(accepted)}, &pipe{r: fds[0], w: fds[1]}
	piece, got := make([]byte, 32<<10), make([]byte, 64<<10)
	for s.poured < trustAfter+int64(len(piece)) {
		n, err := unix.Write(p.w, piece)
		if err != nil {
			t.Fatal(err)
		}
		for p.held = int64(n); p.held > 0; {
			if errno := p.pour(s); errno != 0 {
				t.Fatal(errno)
			}
			want := tcp.Unsent
			if s.poured >= trustAfter {
				want = 0
			}
			if bound, err := unix.GetsockoptInt(accepted, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err != nil || bound != want {
				t.Fatalf("after %d bytes: %d bytes ahead, %v; want %d", s.poured, bound, err, want)
			}
		}
		for n > 0 { // so that the next piece finds room
			wait(client, unix.POLLIN)
			m, err := unix.Read(client, got)
			if err != nil || m == 0 {
				t.Fatalf("read: %d, %v", m, err)
			}
			n -= m
		}
	}
}
