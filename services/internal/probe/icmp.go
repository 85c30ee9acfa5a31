package probe

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// The numbers of the protocols in the IP header (RFC 792, RFC 4443).
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// ICMP is good when an echo request is answered (RFC 792, RFC 4443 section 4). It needs CAP_NET_RAW.
type ICMP struct {
	Address netip.Addr
}

// Probe asks once.
func (p ICMP) Probe(ctx context.Context) error {
	network, protocol := "ip4:icmp", protocolICMP
	request, reply := icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if p.Address.Is6() {
		network, protocol = "ip6:ipv6-icmp", protocolICMPv6
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	// A raw socket that is connected hears that address alone: hundreds that wait for the dead do not hear all the living.
	conn, err := net.DialIP(network, nil, &net.IPAddr{IP: p.Address.AsSlice(), Zone: p.Address.Zone()})
	if err != nil {
		return fmt.Errorf("open a socket for ICMP: %w", err)
	}
	stop := interruptible(ctx, conn)
	defer stop()
	// Every raw socket hears every reply of its address: 64 random bits tell ours.
	id, token := int(uint16(rand.Uint32())), binary.BigEndian.AppendUint64(nil, rand.Uint64())
	message := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: 1, Data: token}}
	packed, err := message.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(packed); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		heard, err := icmp.ParseMessage(protocol, buf[:n])
		if err != nil || heard.Type != reply {
			continue
		}
		if echo, ok := heard.Body.(*icmp.Echo); ok && echo.ID == id && string(echo.Data) == string(token) {
			return nil
		}
	}
}
