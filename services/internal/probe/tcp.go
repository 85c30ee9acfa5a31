package probe

import (
	"context"
	"net"
)

// TCP is good when a connection can be made.
type TCP struct {
	// Address is HOST:PORT. Example: 172.16.0.99:80
	Address string
}

// Probe connects and hangs up.
func (p TCP) Probe(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return err
	}
	_ = conn.Close() // the connection was all that was asked for
	return nil
}
