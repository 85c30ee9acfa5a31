package kernelsocket_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/kernelsocket"
)

// TestSocket: the kernel answers what it is asked, and to silence there is an end.
func TestSocket(t *testing.T) {
	t.Parallel()
	s, err := kernelsocket.Open(unix.NETLINK_ROUTE, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if b, err := s.Receive(); !errors.Is(err, kernelsocket.ErrSilent) {
		t.Errorf("unasked: %x %v", b, err)
	}
	const sequence = 77
	ask := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr)
	ask = binary.NativeEndian.AppendUint16(ask, unix.NLMSG_NOOP)
	ask = binary.NativeEndian.AppendUint16(ask, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	ask = binary.NativeEndian.AppendUint32(ask, sequence)
	if err := s.Send(append(ask, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	b, err := s.Receive()
	if err != nil || len(b) < unix.SizeofNlMsghdr || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR || binary.NativeEndian.Uint32(b[8:]) != sequence {
		t.Errorf("an acknowledgement: %x %v", b, err)
	}
}
