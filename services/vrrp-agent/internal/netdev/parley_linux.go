package netdev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
)

// Talk is the UDP socket by which agents speak to each other, in both families. Tell is for any goroutine, Hear for one.
type Talk struct {
	conn *net.UDPConn
	oob  [128]byte
}

// OpenTalk listens on the agents' UDP port on all cards. Close it.
func OpenTalk() (*Talk, error) {
	config := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) {
			set := func(level int, options map[int]int) {
				for option, value := range options {
					err = errors.Join(err, unix.SetsockoptInt(int(fd), level, option, value))
				}
			}
			set(unix.IPPROTO_IP, map[int]int{
				unix.IP_PKTINFO: 1, unix.IP_RECVTTL: 1, unix.IP_TTL: parley.TTL, unix.IP_TOS: packet.TypeOfService,
			})
			if network == "udp6" { // a socket of both families; where the kernel has but one it is udp4
				set(unix.IPPROTO_IPV6, map[int]int{
					unix.IPV6_RECVPKTINFO: 1, unix.IPV6_RECVHOPLIMIT: 1, unix.IPV6_UNICAST_HOPS: parley.TTL, unix.IPV6_TCLASS: packet.TypeOfService,
				})
			}
		})
		return errors.Join(controlErr, err)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", parley.Port))
	if err != nil {
		return nil, fmt.Errorf("listen for other agents: %w", err)
	}
	return &Talk{conn: conn.(*net.UDPConn)}, nil
}

// Tell sends a message from a port, over its card and nowhere else. It does not wait for anybody.
func (t *Talk) Tell(from nic.Port, to netip.Addr, message []byte) error {
	var info []byte
	if to.Is6() {
		info = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(from.Index), Addr: from.From(to).As16()})
	} else {
		info = unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(from.Index), Spec_dst: from.Source.As4()})
	}
	_, _, err := t.conn.WriteMsgUDPAddrPort(message, info, netip.AddrPortFrom(to, parley.Port))
	return err
}

// Hear waits for a message. One that a router has passed on is left out. It ends with an error when the talk is closed.
func (t *Talk) Hear(b []byte) (int, netip.Addr, error) {
	for {
		n, oobn, _, from, err := t.conn.ReadMsgUDPAddrPort(b, t.oob[:])
		if err != nil {
			return 0, netip.Addr{}, err
		}
		if ttl(t.oob[:oobn]) == parley.TTL {
			return n, from.Addr().Unmap().WithZone(""), nil
		}
	}
}

// ttl is the time to live, or hop limit, that a datagram came with; 0: the kernel did not say.
func ttl(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT
		if (v4 || v6) && len(m.Data) > 0 {
			return int(m.Data[0]) | int(m.Data[len(m.Data)-1]) // an int of the machine, below 256
		}
	}
	return 0
}

// Close ends the talk, and Hear.
func (t *Talk) Close() error { return t.conn.Close() }
