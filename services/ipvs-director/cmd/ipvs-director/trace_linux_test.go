package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// Offsets in a packet by IPv4 without options (RFC 791 section 3.1) and TCP (RFC 9293 section 3.1), and the flags there.
const (
	protocolAt = 9
	sourceAt   = 12
	portsAt    = 20
	flagsAt    = 33
	flagSYN    = 0x02
	flagRST    = 0x04
	flagACK    = 0x10
)

// traced is what passed the client's card: how connections to the VIP begin, and who says no.
type traced struct {
	asked, answered int
	open            map[uint16]bool // client ports whose question has no answer yet
	refused         []string
}

// trace watches the client's card from beneath until stop is called.
func trace(t *testing.T, n *planetest.Network) (stop func() traced) {
	t.Helper()
	var fd int
	n.Client.Do(t, func() {
		var err error
		if fd, err = sniffer(); err != nil {
			t.Fatalf("watch the wire: %v", err)
		}
	})
	end, result := make(chan struct{}), make(chan traced, 1)
	go func() {
		seen := traced{open: map[uint16]bool{}}
		defer func() { result <- seen }()
		packet := make([]byte, 128)
		for ending := false; ; {
			size, _, err := unix.Recvfrom(fd, packet, 0)
			switch {
			case err == nil:
				seen.take(packet[:min(size, len(packet))])
			case ending || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
				return // nothing is left
			default:
				select {
				case <-end:
					ending = true
				default:
				}
			}
		}
	}()
	return func() traced {
		t.Helper()
		close(end)
		seen := <-result
		missed, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil || missed.Drops > 0 {
			t.Errorf("the trace has holes: %+v, %v", missed, err)
		}
		_ = unix.Close(fd) // it was only read from
		return seen
	}
}

// sniffer gets ICMP, and the packets of TCP that begin a connection or refuse one.
func sniffer() (fd int, err error) {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: protocolAt, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: flagsAt, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: flagSYN | flagRST, SkipTrue: 1},
		bpf.RetConstant{Val: 128},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return 0, err
	}
	var filter []unix.SockFilter
	for _, i := range program {
		filter = append(filter, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	// Without a protocol it hears nothing until it is bound, with the filter in place.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	const every = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order; what the client sends too
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: (100 * time.Millisecond).Microseconds()}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every}),
	)
	return fd, err
}

// take notes one packet.
func (s *traced) take(b []byte) {
	if len(b) <= flagsAt || b[0] != 0x45 {
		return // not IPv4, or with options, which nobody here sends
	}
	from := netip.AddrFrom4([4]byte(b[sourceAt:]))
	source, target := binary.BigEndian.Uint16(b[portsAt:]), binary.BigEndian.Uint16(b[portsAt+2:])
	switch flags := b[flagsAt]; {
	case b[protocolAt] == unix.IPPROTO_ICMP:
		s.refused = append(s.refused, "ICMP from "+from.String())
	case from == vip.Addr() && flags&flagRST != 0:
		s.refused = append(s.refused, "a reset from "+from.String())
	case from == vip.Addr() && flags&(flagSYN|flagACK) == flagSYN|flagACK && s.open[target]:
		s.answered++
		delete(s.open, target)
	case target == vip.Port() && flags&(flagSYN|flagACK) == flagSYN && !s.open[source]: // else it asks once more
		s.asked++
		s.open[source] = true
	}
}
