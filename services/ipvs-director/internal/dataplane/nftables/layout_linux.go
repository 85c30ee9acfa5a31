// Package nftables is the data plane for kernels without IPVS: connections are spread by nf_tables, translated and
// followed by conntrack. It speaks netlink; no nft program is needed.
//
// Everything is in two tables of its own, "ip twotier_director" and, for services of IPv6, "ip6 twotier_director"; no other table
// is changed. Both are made alike. As nft prints the first (V stands for VIP_PORT, or udp_VIP_PORT):
//
//	map services { inet_proto . ipv4_addr . inet_service : verdict }   tcp . 10.10.60.22 . 80 : goto service_V
//	chain prerouting    nat, dstnat                       meta l4proto . ip daddr . th dport vmap @services
//
// For each virtual service:
//
//	chain service_V                                       numgen inc mod N vmap @slots_V, or
//	                                                      jhash ip saddr . th sport mod N seed S vmap @slots_V
//	map slots_V { mark : verdict }                        the table that package slots makes
//	map weights_V { ipv4_addr . inet_service : mark }     the weights as wanted
//	chain real_V_ADDRESS_PORT                             counter dnat to ADDRESS:PORT
//
// The nat hook sees the first packet of a connection only; conntrack translates the rest and the replies. So the
// counters count connections, and a change of the slots moves no connection that is there.
//
// A director that takes over from another sees the middle of connections whose beginning it has not seen. Conntrack takes
// them up in mid-stream (nf_conntrack_tcp_loose); a segment of the client finds its real server by the same hash as before,
// and for one that the real server sends first there is the way back:
//
//	map reverse { like services }                         tcp . 192.168.60.78 . 80 : goto back_V
//	chain postrouting   nat, srcnat                       meta l4proto . ip saddr . th sport vmap @reverse
//	chain back_V                                          snat to VIP
//
// A service with persistence has beside that (with R for ADDRESS_PORT):
//
//	map sticky_V { ipv4_addr : classid }                    flags dynamic,timeout: where each client went last, as a number
//	map takers_V { classid : verdict }                      NUMBER : goto stick_V_R, for those that take connections
//	chain service_V, before the rule above                  meta priority set ip saddr [& prefix] map @sticky_V meta priority vmap @takers_V
//	                                                        delete @sticky_V { ip saddr [& prefix] }
//	chain stick_V_R, where the slots lead instead           meta priority set none
//	                                                        update @sticky_V { ip saddr [& prefix] timeout T : NUMBER }
//	                                                        goto real_V_R
//
// A real server that several services use has no way back: which VIP the connection was for cannot be known.
//
// What no rule claims is dropped and never answered, because an answer would be a reset, or for UDP an ICMP error, which ends the
// connection on the other side:
//
//	set vips { inet_proto . ipv4_addr . inet_service }    every VIP
//	chain input         filter                            not from lo: meta l4proto . ip daddr . th dport @vips drop
//	set reals { like vips }                               every real server
//	chain guard         filter, after srcnat              TCP: meta l4proto . ip saddr . th sport @reals, not a SYN,
//	                                                      ct state new or invalid: drop
//
// What passes is counted; see countChain.
//
// The guard is for TCP: nobody answers a datagram from a strange address with an end of the flow, and a server may well ask
// others from the port that it answers on.
package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// TableName is the one table of this plane, in the families ip and ip6.
const TableName = "twotier_director"

const (
	hookChain     = "prerouting"
	servicesMap   = "services"
	reverseChain  = "postrouting"
	reverseMap    = "reverse"
	inputChain    = "input"
	vipsSet       = "vips"
	guardChain    = "guard"
	realsSet      = "reals"
	backPrefix    = "back_"
	servicePrefix = "service_"
	realPrefix    = "real_"
	slotsPrefix   = "slots_"
	weightsPrefix = "weights_"
	schedulerNote = "scheduler " // the comment of a service's rule, with the scheduler that was asked for

	// What IPVS answers when a service has no taker.
	icmpPortUnreachable   = 3 // RFC 792, type 3
	icmpv6PortUnreachable = 4 // RFC 4443 section 3.1
)

const (
	reg1 = unix.NFT_REG_1
	reg2 = unix.NFT_REG_2
)

// word is the register that begins with a word of 32 bits: the parts of a concatenation lie in consecutive words. The kernel gives
// those that begin one of 128 bits back under the name of that (nft_dump_register of net/netfilter/nf_tables_api.c).
func word(n uint32) uint32 {
	if n%4 == 0 {
		return reg1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// suffix names the objects of one service.
func suffix(vip spec.VIP) string {
	if vip.Protocol == spec.UDP {
		return "udp_" + name(vip.AddrPort)
	}
	return name(vip.AddrPort)
}

// name is an address and a port in the letters that nft takes for a name.
func name(a netip.AddrPort) string {
	return fmt.Sprintf("%s_%d", strings.ReplaceAll(a.Addr().String(), ":", "."), a.Port())
}

func serviceChain(vip spec.VIP) string { return servicePrefix + suffix(vip) }

func backChain(vip spec.VIP) string { return backPrefix + suffix(vip) }

func realChain(vip spec.VIP, real netip.AddrPort) string {
	return realPrefix + suffix(vip) + "_" + name(real)
}

// layout makes the objects of the table of one family, by name; nothing is sent.
type layout struct {
	table *nft.Table
	// endpoint is the type of a protocol, address and port, addressPort without the protocol.
	endpoint, addressPort, address nft.SetDatatype
	// source and destination are where the addresses stand in the header, and size is how long they are.
	source, destination, size uint32
	nfproto                   uint32
	unreachable               uint8
}

var (
	layout4 = layout{
		table:       &nft.Table{Name: TableName, Family: nft.TableFamilyIPv4},
		endpoint:    nft.MustConcatSetType(nft.TypeInetProto, nft.TypeIPAddr, nft.TypeInetService),
		addressPort: nft.MustConcatSetType(nft.TypeIPAddr, nft.TypeInetService),
		address:     nft.TypeIPAddr,
		source:      12, destination: 16, size: 4, nfproto: unix.NFPROTO_IPV4, unreachable: icmpPortUnreachable,
	}
	layout6 = layout{
		table:       &nft.Table{Name: TableName, Family: nft.TableFamilyIPv6},
		endpoint:    nft.MustConcatSetType(nft.TypeInetProto, nft.TypeIP6Addr, nft.TypeInetService),
		addressPort: nft.MustConcatSetType(nft.TypeIP6Addr, nft.TypeInetService),
		address:     nft.TypeIP6Addr,
		source:      8, destination: 24, size: 16, nfproto: unix.NFPROTO_IPV6, unreachable: icmpv6PortUnreachable,
	}
)

// hook is a chain that the kernel calls, with its one rule.
type hook struct {
	chain *nft.Chain
	rule  []expr.Any
}

// afterSNAT is the place of the guard: right behind the translation of the source, so that it sees what was not translated.
const afterSNAT = 101

// hooks are all of them, in the order of making.
func (l layout) hooks() []hook {
	accept := nft.ChainPolicyAccept
	chain := func(name string, kind nft.ChainType, at *nft.ChainHook, priority *nft.ChainPriority) *nft.Chain {
		return &nft.Chain{Table: l.table, Name: name, Type: kind, Hooknum: at, Priority: priority, Policy: &accept}
	}
	return []hook{
		{chain(inputChain, nft.ChainTypeFilter, nft.ChainHookInput, nft.ChainPriorityFilter), l.inputRule()},
		{chain(guardChain, nft.ChainTypeFilter, nft.ChainHookPostrouting, nft.ChainPriorityRef(afterSNAT)), l.guardRule()},
		{chain(reverseChain, nft.ChainTypeNAT, nft.ChainHookPostrouting, nft.ChainPriorityNATSource), l.reverseRule()},
		{chain(hookChain, nft.ChainTypeNAT, nft.ChainHookPrerouting, nft.ChainPriorityNATDest), l.hookRule()},
	}
}

// chains is a map from an endpoint to the chain that follows.
func (l layout) chains(name string) *nft.Set {
	return &nft.Set{Table: l.table, Name: name, IsMap: true, KeyType: l.endpoint, DataType: nft.TypeVerdict, Concatenation: true}
}

func (l layout) services() *nft.Set { return l.chains(servicesMap) }

func (l layout) reverse() *nft.Set { return l.chains(reverseMap) }

// endpoints is a set of them.
func (l layout) endpoints(name string) *nft.Set {
	return &nft.Set{Table: l.table, Name: name, KeyType: l.endpoint, Concatenation: true}
}

func (l layout) vips() *nft.Set { return l.endpoints(vipsSet) }

func (l layout) reals() *nft.Set { return l.endpoints(realsSet) }

func (l layout) chain(name string) *nft.Chain { return &nft.Chain{Table: l.table, Name: name} }

func (l layout) slots(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: slotsPrefix + suffix(vip), IsMap: true, KeyType: nft.TypeMark, DataType: nft.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian}
}

func (l layout) weights(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: weightsPrefix + suffix(vip), IsMap: true, KeyType: l.addressPort, DataType: nft.TypeMark, Concatenation: true}
}

// Offsets in the headers of TCP and, of the ports, UDP, and what stands there.
const (
	sourcePort, destinationPort = 0, 2
	tcpFlags                    = 13
	synFlag                     = 0x02
)

// tcp matches TCP.
func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// load brings an address and a port of the packet into words, one behind the other.
func (l layout) load(address, port, first uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: word(first), Base: expr.PayloadBaseNetworkHeader, Offset: address, Len: l.size},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: word(first + l.size/4), Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
	}
}

// loadEndpoint brings the protocol, an address and a port of the packet into reg1.
func (l layout) loadEndpoint(address, port uint32) []expr.Any {
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}}, l.load(address, port, 1)...)
}

// hookRule sends the first packet of a connection to a VIP into the chain of its service.
func (l layout) hookRule() []expr.Any {
	return append(l.loadEndpoint(l.destination, destinationPort),
		&expr.Lookup{SourceRegister: reg1, SetName: servicesMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// reverseRule sends a connection that is taken up with a packet from a real server into the chain that names its VIP.
func (l layout) reverseRule() []expr.Any {
	return append(l.loadEndpoint(l.source, sourcePort),
		&expr.Lookup{SourceRegister: reg1, SetName: reverseMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// inputRule keeps what no service claims from the node's own TCP and UDP, which would answer with a reset or an ICMP error. The
// node's own programs get that answer.
func (l layout) inputRule() []expr.Any {
	return slices.Concat(
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: reg1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_LOOPBACK)},
		},
		l.loadEndpoint(l.destination, destinationPort),
		[]expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: vipsSet}, &expr.Verdict{Kind: expr.VerdictDrop}},
	)
}

// guardRule drops what a real server sends in mid-stream and nobody has translated: a client that gets it answers with a
// reset. New and invalid are the states of include/uapi/linux/netfilter/nf_conntrack_common.h.
func (l layout) guardRule() []expr.Any {
	states := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW|expr.CtStateBitINVALID)
	none := make([]byte, 4)
	return slices.Concat(
		tcp(), l.loadEndpoint(l.source, sourcePort),
		[]expr.Any{
			&expr.Lookup{SourceRegister: reg1, SetName: realsSet},
			&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
			&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{synFlag}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{0}},
			&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
			&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: states, Xor: none},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: none},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})
}

// serviceRules are those of a service: the client goes where it went, or where the table says.
func (l layout) serviceRules(s spec.Service, table slots.Table) [][]expr.Any {
	deal := l.serviceRule(s.VIP, table)
	if s.Persistence == (spec.Persistence{}) {
		return [][]expr.Any{deal}
	}
	return append(l.rememberRules(s), deal)
}

// serviceRule sends a connection to the real server that the table says. With no slots it refuses, as IPVS does.
func (l layout) serviceRule(vip spec.VIP, table slots.Table) []expr.Any {
	if len(table.Slots) == 0 {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: l.unreachable}}
	}
	var choose []expr.Any
	modulus := uint32(len(table.Slots))
	switch table.Choice {
	case slots.InTurn:
		choose = []expr.Any{&expr.Numgen{Register: reg1, Modulus: modulus, Type: unix.NFT_NG_INCREMENTAL}}
	case slots.BySource:
		choose = append(l.load(l.source, sourcePort, 0)[:1],
			&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: l.size, Modulus: modulus, Seed: table.Seed, Type: expr.HashTypeJenkins})
	case slots.ByConnection:
		choose = append(l.load(l.source, sourcePort, 0),
			&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: l.size + 4, Modulus: modulus, Seed: table.Seed, Type: expr.HashTypeJenkins})
	}
	return append(choose,
		&expr.Lookup{SourceRegister: reg1, SetName: slotsPrefix + suffix(vip), IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// translate rewrites one end of a connection to an address and port.
func (l layout) translate(kind expr.NATType, to netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: reg2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		// The kernel gives the ends of the ranges back even when only their starts were set.
		&expr.NAT{
			Type: kind, Family: l.nfproto, Specified: true,
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: reg2, RegProtoMax: reg2,
		},
	}
}

// backRule gives a connection that is taken up from its real server the VIP back.
func (l layout) backRule(vip spec.VIP) []expr.Any {
	return l.translate(expr.NATTypeSourceNAT, vip.AddrPort)
}

// realRule counts the connection and gives it its real server.
func (l layout) realRule(real netip.AddrPort) []expr.Any {
	return append([]expr.Any{&expr.Counter{}}, l.translate(expr.NATTypeDestNAT, real)...)
}

// comment carries the scheduler, which nf_tables itself has no use for, and the persistence.
func comment(s spec.Service) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, schedulerNote+string(s.Scheduler)+persistenceText(s.Persistence))
}

// parseComment reads it back.
func parseComment(data []byte) (scheduler spec.Scheduler, persistence spec.Persistence, ok bool) {
	text, ok := userdata.GetString(data, userdata.TypeComment)
	if !ok {
		return "", persistence, false
	}
	text, ok = strings.CutPrefix(text, schedulerNote)
	text, how, persists := strings.Cut(text, persistenceNote)
	if persists && ok {
		persistence, ok = parsePersistence(how)
	}
	return spec.Scheduler(text), persistence, ok
}

// key is an address and a port as a concatenation: the address, two bytes, and two of padding.
func key(a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint32(a.Addr().AsSlice(), uint32(a.Port())<<16)
}

// parseKey is the inverse of key.
func parseKey(b []byte) (netip.AddrPort, bool) {
	const port = 4
	if len(b) < port {
		return netip.AddrPort{}, false
	}
	a, ok := netip.AddrFromSlice(b[:len(b)-port])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[len(b)-port:])), ok
}

// protocols are the numbers of the protocols (IPPROTO_... of include/uapi/linux/in.h).
var protocols = map[spec.Protocol]byte{spec.TCP: unix.IPPROTO_TCP, spec.UDP: unix.IPPROTO_UDP}

// endpointKey is an endpoint as a concatenation: a byte, three of padding, and what key makes.
func endpointKey(e endpoint) []byte {
	return append([]byte{protocols[e.Protocol], 0, 0, 0}, key(e.AddrPort)...)
}

// parseEndpoint is the inverse of endpointKey.
func parseEndpoint(b []byte) (e endpoint, ok bool) {
	const address = 4
	if len(b) < address {
		return e, false
	}
	e.AddrPort, ok = parseKey(b[address:])
	for protocol, number := range protocols {
		if number == b[0] {
			e.Protocol = protocol
			return e, ok
		}
	}
	return e, false
}

// turn is the number of a slot as numgen makes it: in the byte order of the machine.
func turn(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func parseTurn(b []byte) (int, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return int(binary.NativeEndian.Uint32(b)), true
}

// weight is a weight as nft prints it; no rule reads it.
func weight(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func parseWeight(b []byte) (int, bool) {
	if len(b) != 4 || binary.BigEndian.Uint32(b) > spec.MaxWeight {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(b)), true
}

// gotoChain reads the verdict of an element of a verdict map; the library leaves it undecoded. Its layout is two
// netlink attributes: NFTA_VERDICT_CODE (4 bytes, big endian) and NFTA_VERDICT_CHAIN.
func gotoChain(e nft.SetElement) (string, bool) {
	const code, chain = 4, 12
	if len(e.Val) <= chain || int32(binary.BigEndian.Uint32(e.Val[code:])) != unix.NFT_GOTO {
		return "", false
	}
	name, _, _ := strings.Cut(string(e.Val[chain:]), "\x00")
	return name, true
}
