package netdev

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// wireV6 is what a wire works on with IPv6: the kernel shows no header, and tells by control messages what stood in it.
type wireV6 struct {
	toGroup, toPeer     unix.SockaddrInet6
	fromGroup, fromPeer []byte // control messages with the source
	sender              unix.RawSockaddrInet6
	control             [128]byte
	part                unix.Iovec
	message             unix.Msghdr
}

// openAdvertsV6 is openAdverts for IPv6.
func openAdvertsV6(p nic.Port) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, packet.Protocol)
	if err != nil {
		return nil, err
	}
	set := func(option, value int) func() error {
		return func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option, value) }
	}
	membership := unix.IPv6Mreq{Multiaddr: packet.Group(true).As16(), Interface: uint32(p.Index)}
	for _, step := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) },
		set(unix.IPV6_TCLASS, packet.TypeOfService),
		set(unix.IPV6_MULTICAST_HOPS, packet.TTL),
		set(unix.IPV6_UNICAST_HOPS, packet.TTL),
		set(unix.IPV6_MULTICAST_LOOP, 0),
		// As with IPv4: only the group that was joined here.
		set(unix.IPV6_MULTICAST_ALL, 0),
		set(unix.IPV6_MULTICAST_IF, p.Index),
		set(unix.IPV6_RECVPKTINFO, 1),
		set(unix.IPV6_RECVHOPLIMIT, 1),
		func() error { return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &membership) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	return os.NewFile(uintptr(fd), "vrrp"), nil
}

// prepareV6 makes the calls of the wire those of IPv6.
func (w *Wire) prepareV6() {
	v := &w.v6
	index := uint32(w.port.Index)
	v.toGroup = unix.SockaddrInet6{Addr: packet.Group(true).As16(), ZoneId: index}
	v.fromGroup = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: w.port.Source.As16(), Ifindex: index})
	v.fromPeer = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: index})
	w.send = func(fd uintptr) {
		_, w.err = unix.SendmsgN(int(fd), w.buffer, v.fromGroup, &v.toGroup, unix.MSG_DONTWAIT)
	}
	w.sendTo = func(fd uintptr) {
		_, w.err = unix.SendmsgN(int(fd), w.buffer, v.fromPeer, &v.toPeer, unix.MSG_DONTWAIT)
	}
	v.message.Name = (*byte)(unsafe.Pointer(&v.sender))
	v.message.Iov, v.message.Control = &v.part, &v.control[0]
	v.message.SetIovlen(1)
	w.recv = w.receiveV6
}

// aim makes an address the one that sendTo sends to.
func (v *wireV6) aim(p nic.Port, to netip.Addr) {
	source := p.From(to).As16()
	v.toPeer.Addr, v.toPeer.ZoneId = to.As16(), uint32(p.Index)
	copy(v.fromPeer[unix.CmsgLen(0):], source[:]) // struct in6_pktinfo begins with it
}

// receiveV6 reads a payload behind the place for its header, and the header from what the kernel tells of it. It calls the
// kernel itself: the library makes a new address of the sender for each packet. A packet that does not fit is cut off, and
// has the wrong length then. Of one that has come by another card nothing is shown but that it is not ours.
func (w *Wire) receiveV6(fd uintptr) {
	v := &w.v6
	w.n = 0
	if len(w.buffer) <= packet.HeaderV6 {
		w.err = unix.EINVAL
		return
	}
	v.part.Base = &w.buffer[packet.HeaderV6]
	v.part.SetLen(len(w.buffer) - packet.HeaderV6)
	v.message.Namelen = unix.SizeofSockaddrInet6
	v.message.SetControllen(len(v.control))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&v.message)), unix.MSG_DONTWAIT)
	if errno != 0 {
		w.err = errno
		return
	}
	w.err = nil
	destination, card, hopLimit := v.read()
	if card != uint32(w.port.Index) {
		destination = [16]byte{}
	}
	packet.PutHeaderV6(w.buffer, v.sender.Addr, destination, hopLimit, int(n))
	w.n = packet.HeaderV6 + int(n)
}

// read finds in the control messages where the packet was sent to, by which card it came, and its hop limit.
func (v *wireV6) read() (destination [16]byte, card uint32, hopLimit byte) {
	rest := v.control[:v.message.Controllen]
	head := unix.CmsgLen(0)
	for len(rest) >= head {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&rest[0]))
		length := int(h.Len)
		if length < head || length > len(rest) {
			return destination, card, hopLimit
		}
		if data := rest[head:length]; h.Level == unix.IPPROTO_IPV6 {
			switch {
			case h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
				destination, card = [16]byte(data), binary.NativeEndian.Uint32(data[16:])
			case h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
				hopLimit = byte(binary.NativeEndian.Uint32(data))
			}
		}
		rest = rest[min(unix.CmsgSpace(length-head), len(rest)):]
	}
	return destination, card, hopLimit
}

// filterV6 is the program of filter for neighbor advertisements, by their target (RFC 4861, section 4.4).
func filterV6(addresses []netip.Addr) []unix.SockFilter {
	const (
		nextHeaderAt = 14 + 6 // behind the Ethernet header; RFC 8200
		typeAt       = 14 + packet.HeaderV6
		targetAt     = typeAt + 8
		icmp6        = 58
		advertised   = 136
	)
	load := func(size uint16, at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
	}
	// unless jumps over the next n instructions if what was loaded is not v.
	unless := func(v uint32, n int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jf: uint8(n)}
	}
	const eachAddress = 4*2 + 1 // four words, and the answer
	refuse := len(addresses) * eachAddress
	program := []unix.SockFilter{
		load(unix.BPF_B, nextHeaderAt), unless(icmp6, refuse+2), load(unix.BPF_B, typeAt), unless(advertised, refuse),
	}
	for _, a := range addresses {
		raw := a.As16()
		for word := range 4 {
			program = append(program, load(unix.BPF_W, uint32(targetAt+4*word)),
				unless(binary.BigEndian.Uint32(raw[4*word:]), eachAddress-2*(word+1)))
		}
		program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
}
