package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// witness sees every frame on its card and writes down adverts and gratuitous ARP, one line each.
type witness struct {
	mu    sync.Mutex
	lines []string
}

// shown is how many lines of a witness are shown when a test fails.
const shown = 40

// watch makes the machine a witness.
func (m *machine) watch(t *testing.T, device string) *witness {
	t.Helper()
	w := &witness{}
	m.frames(t, device, w.see)
	t.Cleanup(func() {
		if t.Failed() {
			lines := w.all()
			t.Logf("%s saw last\n%s", m.name, strings.Join(lines[max(0, len(lines)-shown):], "\n"))
		}
	})
	return w
}

// arrived counts the packets of VRRP that have come to the machine's eth0 from an Ethernet address.
func (m *machine) arrived(t *testing.T, from string) (seen func() int) {
	t.Helper()
	mac, err := net.ParseMAC(from)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	m.frames(t, "eth0", func(frame []byte) {
		v4 := binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IP && frame[14+9] == 112
		v6 := binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IPV6 && frame[14+6] == 112
		if string(frame[6:12]) == string(mac) && (v4 || v6) {
			n.Add(1)
		}
	})
	return func() int { return int(n.Load()) }
}

// frames shows every frame on a card of the machine, from 34 bytes on, until the end of the test.
func (m *machine) frames(t *testing.T, device string, see func(frame []byte)) {
	t.Helper()
	var file *os.File
	m.Do(t, func() {
		index, err := net.InterfaceByName(device)
		if err != nil {
			t.Fatal(err)
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index.Index}); err != nil {
			t.Fatal(err)
		}
		file = os.NewFile(uintptr(fd), "witness")
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 2048)
		for {
			n, err := file.Read(buffer)
			if err != nil {
				return
			}
			if n >= 34 {
				see(buffer[:n])
			}
		}
	}()
	t.Cleanup(func() {
		_ = file.Close() // ends the goroutine
		<-done
	})
}

func (w *witness) see(frame []byte) {
	line := ""
	payload := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		// Only what names one address as sender and target.
		if string(payload[14:18]) != string(payload[24:28]) {
			return
		}
		line = fmt.Sprintf("arp %s from %s to %s: operation %d sender %s target %s",
			net.IP(payload[14:18]), net.HardwareAddr(frame[6:12]), net.HardwareAddr(frame[:6]), payload[7],
			net.HardwareAddr(payload[8:14]), net.HardwareAddr(payload[18:24]))
	case unix.ETH_P_IP:
		if payload[9] != 112 || len(payload) < 28 {
			return
		}
		line = fmt.Sprintf("advert %d priority %d from %s to %s (%s)%s: ttl %d tos %#x df %v: %s",
			payload[21], payload[22], net.IP(payload[12:16]), net.IP(payload[16:20]), net.HardwareAddr(frame[:6]), by(frame),
			payload[8], payload[1], payload[6]&0x40 != 0, hex.EncodeToString(payload[20:binary.BigEndian.Uint16(payload[2:])]))
	case unix.ETH_P_IPV6:
		if line = seeV6(frame); line == "" {
			return
		}
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
}

// by names the sender of a frame if it is a virtual Ethernet address (RFC 9568, section 7.3).
func by(frame []byte) string {
	if [5]byte(frame[6:]) == [5]byte{0, 0, 0x5e, 0, 1} || [5]byte(frame[6:]) == [5]byte{0, 0, 0x5e, 0, 2} {
		return " by " + net.HardwareAddr(frame[6:12]).String()
	}
	return ""
}

// seeV6 writes down an advert of IPv6, or a neighbor advertisement that nobody has asked for.
func seeV6(frame []byte) string {
	payload := frame[14:]
	if len(payload) < 48 {
		return ""
	}
	switch {
	case payload[6] == 112:
		return fmt.Sprintf("advert %d priority %d from %s to %s (%s)%s: hops %d class %#x: %s",
			payload[41], payload[42], net.IP(payload[8:24]), net.IP(payload[24:40]), net.HardwareAddr(frame[:6]), by(frame),
			payload[7], binary.BigEndian.Uint16(payload)>>4&0xff, hex.EncodeToString(payload[40:40+binary.BigEndian.Uint16(payload[4:])]))
	case payload[6] == 58 && payload[40] == 136 && len(payload) >= 72 && payload[44]&0x40 == 0:
		return fmt.Sprintf("neighbor %s at %s to %s: hops %d flags %#x",
			net.IP(payload[48:64]), net.HardwareAddr(payload[66:72]), net.HardwareAddr(frame[:6]), payload[7], payload[44])
	}
	return ""
}

// claimV6 tells all nodes of the network that the machine has an address.
func (m *machine) claimV6(t *testing.T, address string) {
	t.Helper()
	mac, err := net.ParseMAC(m.mac(t, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	m.send(t, packet.NeighborAdvertisement(packet.MAC(mac), netip.MustParseAddr(address), false))
}

// send puts a frame on eth0 of the machine.
func (m *machine) send(t *testing.T, frame []byte) {
	t.Helper()
	m.Do(t, func() {
		card, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: card.Index})
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
	})
}

func (w *witness) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.lines...)
}

// count tells how many lines from the given one on begin with prefix.
func (w *witness) count(since int, prefix string) int {
	n := 0
	for _, line := range w.all()[since:] {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// ask sends an ARP request in the name of an address, as the machine's kernel does when it answers from that address.
func (m *machine) ask(t *testing.T, device, from, to string) {
	t.Helper()
	mac, err := net.ParseMAC(m.mac(t, device))
	if err != nil {
		t.Fatal(err)
	}
	m.send(t, slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
		mac, []byte(net.ParseIP(from).To4()), make([]byte, 6), []byte(net.ParseIP(to).To4())))
}
