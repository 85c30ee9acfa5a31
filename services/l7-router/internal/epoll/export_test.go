package epoll

import (
	"context"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// Break makes every listening socket fail as if by itself.
func (d *Driver) Break() {
	d.all(func(loop *loop) {
		for _, a := range loop.acceptors {
			_ = unix.Shutdown(int(a.fd), unix.SHUT_RDWR) // accept fails from here on
		}
	})
}

// Plant gives each loop an idle connection to a server, which does not hear of its end: nobody knows which loop the next
// client comes to.
func (d *Driver) Plant(t testing.TB, c *net.TCPConn, server *pool.Server) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = d.finish(context.Background(), func(l *loop) {
		_ = raw.Control(func(fd uintptr) {
			own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			u := &upstream{loop: l}
			u.timer.owner = u
			if err := l.watch(&u.sock, own, deaf{u}); err != nil {
				t.Error(err)
			}
			l.keep(u, server)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deaf is an idle connection that does not hear of its end.
type deaf struct{ *upstream }

func (d deaf) ready() {
	if d.conn != nil {
		d.upstream.ready()
	}
}
