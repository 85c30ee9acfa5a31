package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// MaxAnswer is the most of an answer to a datagram that is looked at, in bytes. Thousands of checks wait at a time.
const MaxAnswer = 4 << 10

// UDP sends one datagram. Without Expect an answer is good, and so is none: only a refusal by ICMP (nobody listens there) is
// bad. With Expect the answer must begin with it.
type UDP struct {
	// Address is HOST:PORT.
	Address string
	// Payload of the datagram.
	Payload []byte
	// Expect is what the answer must begin with. Default: no answer is needed.
	Expect []byte
}

// Probe sends once and waits for an answer until ctx ends.
func (p UDP) Probe(ctx context.Context) error {
	answer, err := exchange(ctx, p.Address, p.Payload)
	if len(p.Expect) == 0 {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, p.Expect) {
		return fmt.Errorf("the answer begins with %.40q", answer)
	}
	return nil
}

// exchange sends a datagram and returns the first that comes back.
func exchange(ctx context.Context, address string, payload []byte) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	stop := interruptible(ctx, conn)
	defer stop()
	if _, err := conn.Write(payload); err != nil {
		return nil, err
	}
	answer := make([]byte, MaxAnswer)
	n, err := conn.Read(answer)
	return answer[:n], err
}

// interruptible ends reading and writing when ctx does, and closes the connection when the probe is over.
func interruptible(ctx context.Context, conn interface {
	SetDeadline(time.Time) error
	Close() error
}) (stop func()) {
	undo := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed one needs no deadline
	return func() {
		undo()
		_ = conn.Close() // nothing more is expected of it
	}
}
