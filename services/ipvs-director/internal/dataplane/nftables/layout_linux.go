package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// TableName is the one table of this plane, in the family ip.
const TableName = "twotier_director"

const (
	hookChain     = "prerouting"
	servicesMap   = "services"
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
func suffix(vip netip.AddrPort) string { return fmt.Sprintf("%s_%d", vip.Addr(), vip.Port()) }

func serviceChain(vip netip.AddrPort) string { return servicePrefix + suffix(vip) }

func realChain(vip, real netip.AddrPort) string { return realPrefix + suffix(vip) + "_" + suffix(real) }

// layout makes the objects of the table, by name; nothing is sent.
type layout struct{ table *nft.Table }

func newLayout() layout {
	return layout{table: &nft.Table{Name: TableName, Family: nft.TableFamilyIPv4}}
}

func (l layout) hook() *nft.Chain {
	accept := nft.ChainPolicyAccept
	return &nft.Chain{
		Table: l.table, Name: hookChain, Type: nft.ChainTypeNAT,
		Hooknum: nft.ChainHookPrerouting, Priority: nft.ChainPriorityNATDest, Policy: &accept,
	}
}

func (l layout) services() *nft.Set {
	return &nft.Set{Table: l.table, Name: servicesMap, IsMap: true, KeyType: addressPort, DataType: nft.TypeVerdict, Concatenation: true}
}

func (l layout) chain(name string) *nft.Chain { return &nft.Chain{Table: l.table, Name: name} }

func (l layout) slots(vip netip.AddrPort) *nft.Set {
	return &nft.Set{Table: l.table, Name: slotsPrefix + suffix(vip), IsMap: true, KeyType: nft.TypeMark, DataType: nft.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian}
}

func (l layout) weights(vip netip.AddrPort) *nft.Set {
	return &nft.Set{Table: l.table, Name: weightsPrefix + suffix(vip), IsMap: true, KeyType: addressPort, DataType: nft.TypeMark, Concatenation: true}
}

// hookRule sends the first packet of a connection to a VIP into the chain of its service.
func hookRule() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},        // destination address
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1Second, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // destination port
		&expr.Lookup{SourceRegister: reg1, SetName: servicesMap, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
	}
}

// serviceRule sends it to the real server whose turn it is. With no turns to give it refuses, as IPVS does.
func serviceRule(vip netip.AddrPort, turns int) []expr.Any {
	if turns == 0 {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}
	}
	return []expr.Any{
		&expr.Numgen{Register: reg1, Modulus: uint32(turns), Type: unix.NFT_NG_INCREMENTAL},
		&expr.Lookup{SourceRegister: reg1, SetName: slotsPrefix + suffix(vip), IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
	}
}

// realRule counts the connection and gives it its real server.
func realRule(real netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Counter{},
		&expr.Immediate{Register: reg1, Data: real.Addr().AsSlice()},
		&expr.Immediate{Register: reg2, Data: binary.BigEndian.AppendUint16(nil, real.Port())},
		// The kernel gives the ends of the ranges back even when only their starts were set.
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: reg2, RegProtoMax: reg2,
		},
	}
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
