// Package nftables is the data plane for kernels without IPVS: connections are spread by nf_tables, translated and
// followed by conntrack. It speaks netlink; no nft program is needed.
//
// Everything is in one table of its own, "ip twotier_director"; no other table is changed. As nft prints it (V stands for
// VIP_PORT):
//
//	map services { ipv4_addr . inet_service : verdict }   10.10.60.22 . 80 : goto service_V
//	chain prerouting    nat, dstnat                       ip daddr . tcp dport vmap @services
//
// For each virtual service:
//
//	chain service_V                                       numgen inc mod N vmap @slots_V, or
//	                                                      jhash ip saddr . tcp sport mod N seed S vmap @slots_V
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
//	map reverse { ipv4_addr . inet_service : verdict }    192.168.60.78 . 80 : goto back_V
//	chain postrouting   nat, srcnat                       ip saddr . tcp sport vmap @reverse
//	chain back_V                                          snat to VIP
//
// A real server that several services use has no way back: which VIP the connection was for cannot be known.
//
// What no rule claims is dropped and never answered, because an answer would be a reset, which ends the connection on the
// other side:
//
//	set vips { ipv4_addr . inet_service }                 every VIP
//	chain input         filter                            not from lo: ip daddr . tcp dport @vips drop
//	set reals { ipv4_addr . inet_service }                every real server
//	chain guard         filter, after srcnat              ip saddr . tcp sport @reals, not a SYN, ct state new or invalid: drop
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

// TableName is the one table of this plane, in the family ip.
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

	icmpPortUnreachable = 3 // RFC 792, type 3: what IPVS answers when a service has no taker
)

const (
	reg1 = unix.NFT_REG_1
	reg2 = unix.NFT_REG_2
	// reg1Second is the second word of reg1: the parts of a concatenation lie in consecutive words of 32 bits.
	reg1Second = unix.NFT_REG32_01
)

var addressPort = nft.MustConcatSetType(nft.TypeIPAddr, nft.TypeInetService)

// suffix names the objects of one service.
func suffix(vip spec.VIP) string { return name(vip.AddrPort) }

func name(a netip.AddrPort) string { return fmt.Sprintf("%s_%d", a.Addr(), a.Port()) }

func serviceChain(vip spec.VIP) string { return servicePrefix + suffix(vip) }

func backChain(vip spec.VIP) string { return backPrefix + suffix(vip) }

func realChain(vip spec.VIP, real netip.AddrPort) string {
	return realPrefix + suffix(vip) + "_" + name(real)
}

// layout makes the objects of the table, by name; nothing is sent.
type layout struct{ table *nft.Table }

func newLayout() layout {
	return layout{table: &nft.Table{Name: TableName, Family: nft.TableFamilyIPv4}}
}

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
		{chain(inputChain, nft.ChainTypeFilter, nft.ChainHookInput, nft.ChainPriorityFilter), inputRule()},
		{chain(guardChain, nft.ChainTypeFilter, nft.ChainHookPostrouting, nft.ChainPriorityRef(afterSNAT)), guardRule()},
		{chain(reverseChain, nft.ChainTypeNAT, nft.ChainHookPostrouting, nft.ChainPriorityNATSource), reverseRule()},
		{chain(hookChain, nft.ChainTypeNAT, nft.ChainHookPrerouting, nft.ChainPriorityNATDest), hookRule()},
	}
}

// chains is a map from an address and port to the chain that follows.
func (l layout) chains(name string) *nft.Set {
	return &nft.Set{Table: l.table, Name: name, IsMap: true, KeyType: addressPort, DataType: nft.TypeVerdict, Concatenation: true}
}

func (l layout) services() *nft.Set { return l.chains(servicesMap) }

func (l layout) reverse() *nft.Set { return l.chains(reverseMap) }

// addresses is a set of addresses and ports.
func (l layout) addresses(name string) *nft.Set {
	return &nft.Set{Table: l.table, Name: name, KeyType: addressPort, Concatenation: true}
}

func (l layout) vips() *nft.Set { return l.addresses(vipsSet) }

func (l layout) reals() *nft.Set { return l.addresses(realsSet) }

func (l layout) chain(name string) *nft.Chain { return &nft.Chain{Table: l.table, Name: name} }

func (l layout) slots(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: slotsPrefix + suffix(vip), IsMap: true, KeyType: nft.TypeMark, DataType: nft.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian}
}

func (l layout) weights(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: weightsPrefix + suffix(vip), IsMap: true, KeyType: addressPort, DataType: nft.TypeMark, Concatenation: true}
}

// Offsets in the headers of IPv4 and TCP, and what stands there.
const (
	sourceAddress, destinationAddress = 12, 16
	sourcePort, destinationPort       = 0, 2
	tcpFlags                          = 13
	synFlag                           = 0x02
)

// tcp matches TCP.
func tcp() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// load brings an address and a port of the packet into reg1, one behind the other.
func load(address, port uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: address, Len: 4},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1Second, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
	}
}

// hookRule sends the first packet of a connection to a VIP into the chain of its service.
func hookRule() []expr.Any {
	return slices.Concat(tcp(), load(destinationAddress, destinationPort), []expr.Any{
		&expr.Lookup{SourceRegister: reg1, SetName: servicesMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
	})
}

// reverseRule sends a connection that is taken up with a segment from a real server into the chain that names its VIP.
func reverseRule() []expr.Any {
	return slices.Concat(tcp(), load(sourceAddress, sourcePort), []expr.Any{
		&expr.Lookup{SourceRegister: reg1, SetName: reverseMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
	})
}

// inputRule keeps what no service claims from the node's own TCP, which would answer with a reset. The node's own programs
// get that answer.
func inputRule() []expr.Any {
	return slices.Concat(
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: reg1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_LOOPBACK)},
		},
		tcp(), load(destinationAddress, destinationPort),
		[]expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: vipsSet}, &expr.Verdict{Kind: expr.VerdictDrop}},
	)
}

// guardRule drops what a real server sends in mid-stream and nobody has translated: a client that gets it answers with a
// reset. New and invalid are the states of include/uapi/linux/netfilter/nf_conntrack_common.h.
func guardRule() []expr.Any {
	states := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW|expr.CtStateBitINVALID)
	none := make([]byte, 4)
	return slices.Concat(
		tcp(), load(sourceAddress, sourcePort),
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

// serviceRule sends a connection to the real server that the table says. With no slots it refuses, as IPVS does.
func serviceRule(vip spec.VIP, table slots.Table) []expr.Any {
	if len(table.Slots) == 0 {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}
	}
	var choose []expr.Any
	modulus := uint32(len(table.Slots))
	switch table.Choice {
	case slots.InTurn:
		choose = []expr.Any{&expr.Numgen{Register: reg1, Modulus: modulus, Type: unix.NFT_NG_INCREMENTAL}}
	case slots.BySource:
		choose = append(load(sourceAddress, sourcePort)[:1],
			&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: 4, Modulus: modulus, Seed: table.Seed, Type: expr.HashTypeJenkins})
	case slots.ByConnection:
		choose = append(load(sourceAddress, sourcePort),
			&expr.Hash{SourceRegister: reg1, DestRegister: reg1, Length: 8, Modulus: modulus, Seed: table.Seed, Type: expr.HashTypeJenkins})
	}
	return append(choose,
		&expr.Lookup{SourceRegister: reg1, SetName: slotsPrefix + suffix(vip), IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// translate rewrites one end of a connection to an address and port.
func translate(kind expr.NATType, to netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: reg2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		// The kernel gives the ends of the ranges back even when only their starts were set.
		&expr.NAT{
			Type: kind, Family: unix.NFPROTO_IPV4, Specified: true,
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: reg2, RegProtoMax: reg2,
		},
	}
}

// backRule gives a connection that is taken up from its real server the VIP back.
func backRule(vip spec.VIP) []expr.Any { return translate(expr.NATTypeSourceNAT, vip.AddrPort) }

// realRule counts the connection and gives it its real server.
func realRule(real netip.AddrPort) []expr.Any {
	return append([]expr.Any{&expr.Counter{}}, translate(expr.NATTypeDestNAT, real)...)
}

// comment carries the scheduler, which nf_tables itself has no use for.
func comment(s spec.Scheduler) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, schedulerNote+string(s))
}

// schedulerOf reads the comment back.
func schedulerOf(data []byte) (spec.Scheduler, bool) {
	text, ok := userdata.GetString(data, userdata.TypeComment)
	if !ok {
		return "", false
	}
	s, ok := strings.CutPrefix(text, schedulerNote)
	return spec.Scheduler(s), ok
}

// key is an address and a port as a concatenation: four bytes, two bytes, and two of padding.
func key(a netip.AddrPort) []byte {
	ip := a.Addr().As4()
	return binary.BigEndian.AppendUint32(ip[:], uint32(a.Port())<<16)
}

// parseKey is the inverse of key.
func parseKey(b []byte) (netip.AddrPort, bool) {
	if len(b) != 8 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[4:])), true
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
