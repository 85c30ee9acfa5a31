package door_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/twotier/twotier/services/internal/door"
)

// Whoever connects without end waits; the others are not robbed of their file descriptors.
func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
		listener, err := door.Listen(address, false)
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan net.Conn)
		go func() {
			defer close(accepted)
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				accepted <- conn
			}
		}()
		var first net.Conn
		for n := range door.MaxConnections + 1 {
			conn, err := net.Dial(listener.Addr().Network(), listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }() // of no interest
			if n == door.MaxConnections {
				break
			}
			server := <-accepted
			defer func() { _ = server.Close() }() // may be closed already
			if n == 0 {
				first = server
			}
		}
		select {
		case <-accepted:
			t.Fatalf("%s: more than %d connections", address, door.MaxConnections)
		default:
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		if one := <-accepted; one == nil {
			t.Errorf("%s: nobody takes the place of one who has gone", address)
		} else if err := one.Close(); err != nil {
			t.Error(err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		for range accepted {
		}
	}
}
