// Package door opens listeners, and refuses those that would let strangers in.
package door

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// ErrOpenDoor is the reason to refuse a listener that others than this machine can reach, and that has no TLS.
var ErrOpenDoor = errors.New("an address that is not loopback or unix: needs TLS with client certificates (--tls-cert, --tls-key, --tls-ca)")

// MaxConnections is how many connections one listener has at a time; more wait until others end. Each is a file
// descriptor, and the service needs some for its work.
const MaxConnections = 256

// Local tells whether only this machine can reach address: a loopback address or unix:PATH. "localhost" counts, a host
// name otherwise does not.
func Local(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Listen opens HOST:PORT or unix:PATH. Without secured (TLS with client certificates) only a local address will do. The
// socket of a unix: address is for the user of this process alone; one that a dead process has left is replaced.
func Listen(address string, secured bool) (net.Listener, error) {
	if !secured && !Local(address) {
		return nil, fmt.Errorf("listen on %s: %w", address, ErrOpenDoor)
	}
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return nil, err
		}
		return limit(listener), nil
	}
	path = strings.TrimPrefix(path, "//")
	if err := removeDeadSocket(path); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return limit(listener), nil
}

// limited lets MaxConnections in at a time.
type limited struct {
	net.Listener
	socket net.Listener // what is limited
}

func limit(l net.Listener) net.Listener {
	return &limited{Listener: netutil.LimitListener(l, MaxConnections), socket: l}
}

// Inherit makes a listener of the socket of another process, as File has given it away. It closes file.
func Inherit(file *os.File) (net.Listener, error) {
	listener, err := net.FileListener(file) // a duplicate
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return limit(listener), nil
}

// File is another descriptor of the socket of a listener that Listen or Inherit has made, for a process that takes its
// place. From then on the listener leaves the path of a unix: address where it is.
func File(l net.Listener) (*os.File, error) {
	own, ok := l.(*limited)
	if !ok {
		return nil, fmt.Errorf("%T is no listener of this package", l)
	}
	switch socket := own.socket.(type) {
	case *net.TCPListener:
		return socket.File()
	case *net.UnixListener:
		socket.SetUnlinkOnClose(false)
		return socket.File()
	}
	return nil, fmt.Errorf("%T has no socket", own.socket)
}

// removeDeadSocket removes a socket nobody listens on. Anything else at that path is left alone, and listening fails.
func removeDeadSocket(path string) error {
	found, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if found.Mode().Type() != fs.ModeSocket {
		return nil
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close() // someone lives there; listening will say so
		return nil
	}
	return os.Remove(path)
}
