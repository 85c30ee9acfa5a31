package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// receiveBuffer is the buffer of the advert socket, in bytes; the kernel doubles it, and counts 500 bytes at least for a
// packet, so that it holds less than a thousand.
const receiveBuffer = 208 << 10

// Wire sends and receives adverts and sends gratuitous ARP, or neighbor advertisements, at one port. Send, Announce and Receive are for one
// goroutine, Wait for another, Claims for a third; Watch and Close may be called by any.
type Wire struct {
	port    nic.Port
	adverts *os.File  // raw socket
	arp     *os.File  // packet socket
	claims  *os.File  // packet socket that hears what Watch lets through
	claim   [128]byte // what Claims works on
	raw     syscall.RawConn
	arpRaw  syscall.RawConn

	// What the three calls below work on; kept here so that sending allocates nothing.
	buffer               []byte
	n                    int
	err                  error
	send, announce, recv func(fd uintptr)
	sendTo               func(fd uintptr)
	toPeer               unix.SockaddrInet4
	toGroup              unix.SockaddrInet4
	v6                   wireV6
	toCard               unix.SockaddrLinklayer
	advertsPoll          [1]unix.PollFd
	readable             func(fd uintptr) bool
	waitErr              error
}

// Listen joins the adverts of a port. Close the wire.
func (h *Host) Listen(p nic.Port) (*Wire, error) {
	open, protocol := openAdverts, uint16(unix.ETH_P_ARP)
	if p.Source.Is6() {
		open, protocol = openAdvertsV6, unix.ETH_P_IPV6
	}
	adverts, err := open(p)
	if err != nil {
		return nil, fmt.Errorf("open the advert socket on %s: %w", p.Name, err)
	}
	arp, err := openARP()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the packet socket on %s: %w", p.Name, err), adverts.Close())
	}
	claims, err := openClaims(p, protocol)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the packet socket on %s: %w", p.Name, err), adverts.Close(), arp.Close())
	}
	w := &Wire{port: p, adverts: adverts, arp: arp, claims: claims}
	w.raw, err = adverts.SyscallConn()
	if err == nil {
		w.arpRaw, err = arp.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.toGroup.Addr = packet.Group(false).As4()
	w.toCard = unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: p.Index}
	w.send = func(fd uintptr) { w.err = unix.Sendto(int(fd), w.buffer, unix.MSG_DONTWAIT, &w.toGroup) }
	w.sendTo = func(fd uintptr) { w.err = unix.Sendto(int(fd), w.buffer, unix.MSG_DONTWAIT, &w.toPeer) }
	w.recv = func(fd uintptr) { w.n, w.err = unix.Read(int(fd), w.buffer) }
	if p.Source.Is6() {
		w.prepareV6()
	}
	w.announce = func(fd uintptr) { w.err = unix.Sendto(int(fd), w.buffer, unix.MSG_DONTWAIT, &w.toCard) }
	w.readable = func(fd uintptr) bool {
		w.advertsPoll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n, err := unix.Poll(w.advertsPoll[:], 0)
		if errors.Is(err, unix.EINTR) {
			n, err = 1, nil // look; finding nothing is no harm
		}
		w.waitErr = err
		return n > 0 || err != nil
	}
	return w, nil
}

// openAdverts opens a raw socket for protocol 112 that hears the group on one card only, and sends there.
func openAdverts(p nic.Port) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, packet.Protocol)
	if err != nil {
		return nil, err
	}
	set := func(option, value int) func() error {
		return func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, option, value) }
	}
	membership := unix.IPMreqn{Multiaddr: packet.Group(false).As4(), Ifindex: int32(p.Index)}
	sender := unix.IPMreqn{Address: p.Source.As4(), Ifindex: int32(p.Index)}
	for _, step := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) },
		set(unix.IP_TOS, packet.TypeOfService),
		set(unix.IP_MULTICAST_TTL, packet.TTL),
		set(unix.IP_TTL, packet.TTL),
		set(unix.IP_MULTICAST_LOOP, 0),
		// Without this a raw socket hears every group that anyone on this node has joined, on every card.
		set(unix.IP_MULTICAST_ALL, 0),
		// No path MTU discovery: adverts carry no DF bit.
		set(unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT),
		func() error { return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &membership) },
		func() error { return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &sender) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	return os.NewFile(uintptr(fd), "vrrp"), nil
}

// openARP opens a packet socket that only sends: with protocol 0 it receives nothing.
func openARP() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "arp"), nil
}

// openClaims opens a packet socket that hears ARP, or IPv6, on one card, of others only. Until Watch it hears nothing.
func openClaims(p nic.Port, protocol uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		filter(fd, nil),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: p.Index}),
	); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "claims"), nil
}

// filter lets only ARP through whose sender says to have one of the addresses: a network has much ARP, and none of the
// other is worth waking up for.
func filter(fd int, addresses []netip.Addr) error {
	if len(addresses) > 0 && addresses[0].Is6() {
		return attach(fd, filterV6(addresses))
	}
	const senderAt = 14 + 14 // behind the Ethernet header; RFC 826
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: senderAt}}
	for n, a := range addresses {
		raw := a.As4()
		program = append(program, unix.SockFilter{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(raw[:]), Jt: uint8(len(addresses) - n),
		})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff})
	return attach(fd, program)
}

func attach(fd int, program []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// Watch says for which addresses Claims is to report. Any goroutine may call.
func (w *Wire) Watch(addresses []netip.Addr) error {
	raw, err := w.claims.SyscallConn()
	if err != nil {
		return err
	}
	var filterErr error
	err = raw.Control(func(fd uintptr) { filterErr = filter(int(fd), addresses) })
	return errors.Join(err, filterErr)
}

// Claims waits until somebody else says by ARP, or by a neighbor advertisement, to have one of the addresses. It ends with an error when the wire is
// closed.
func (w *Wire) Claims() (netip.Addr, packet.MAC, error) {
	for {
		n, err := w.claims.Read(w.claim[:])
		if errors.Is(err, unix.ENETDOWN) { // told once; what comes next is heard
			continue
		}
		if err != nil {
			return netip.Addr{}, packet.MAC{}, err
		}
		if a, mac, ok := packet.Claim(w.claim[:n]); ok {
			return a, mac, nil
		}
	}
}

// Send sends an advert to the group. It never waits: an advert that cannot leave now is of no use later.
func (w *Wire) Send(payload []byte) error {
	w.buffer = payload
	if err := w.raw.Control(w.send); err != nil {
		return err
	}
	return w.err
}

// SendTo sends an advert to one address. It never waits.
func (w *Wire) SendTo(to netip.Addr, payload []byte) error {
	w.buffer = payload
	if to.Is6() {
		w.v6.aim(w.port, to)
	} else {
		w.toPeer.Addr = to.As4()
	}
	if err := w.raw.Control(w.sendTo); err != nil {
		return err
	}
	return w.err
}

// Announce sends an Ethernet frame. It never waits.
func (w *Wire) Announce(frame []byte) error {
	w.buffer = frame
	if err := w.arpRaw.Control(w.announce); err != nil {
		return err
	}
	return w.err
}

// Receive reads one IP packet into b, header included; of IPv6 the fixed header, as packet.PutHeaderV6 makes it. It never waits: 0 means that there is none.
func (w *Wire) Receive(b []byte) (int, error) {
	w.buffer = b
	if err := w.raw.Control(w.recv); err != nil {
		return 0, err
	}
	if errors.Is(w.err, unix.EAGAIN) || errors.Is(w.err, unix.EINTR) {
		return 0, nil
	}
	return max(w.n, 0), w.err
}

// Wait waits until there is something to receive. It ends with an error when the wire is closed.
func (w *Wire) Wait() error {
	if err := w.raw.Read(w.readable); err != nil {
		return err
	}
	return w.waitErr
}

// Close ends the wire, and Wait.
func (w *Wire) Close() error { return errors.Join(w.adverts.Close(), w.arp.Close(), w.claims.Close()) }

func htons(v uint16) uint16 { return v<<8 | v>>8 }
