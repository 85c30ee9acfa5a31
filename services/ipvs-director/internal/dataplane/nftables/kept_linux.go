package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// KeptTable is the table of the connections whose slot has moved, in the family ip. It is there while there are any, and it is
// apart from the table of the services, which is made anew for many a reason:
//
//	map flows { ipv4_addr . inet_service . ipv4_addr . inet_service : ipv4_addr . inet_service }
//	                                     10.10.60.1 . 40000 . 10.10.60.22 . 80 : 192.168.60.78 . 80
//	chain prerouting    nat, dstnat - 1  not a SYN: dnat to ip saddr . tcp sport . ip daddr . tcp dport map @flows
//
// What it does not know the table of the services deals.
const KeptTable = "twotier_director_kept"

const flowsMap = "flows"

// beforeDNAT is the place of the chain: before the one that deals by hash.
const beforeDNAT = -101

// The words of reg1, of 32 bits, that hold the parts of a concatenation.
var keptWords = [4]uint32{unix.NFT_REG_1, unix.NFT_REG32_01, unix.NFT_REG32_02, unix.NFT_REG32_03}

// Kept is the connections whose slot has moved, in the network namespace that its methods are called in, always the same one.
type Kept struct {
	generation uint32                       // of the rules when this was read; 0: nothing has been read
	holds      map[kept.Ends]netip.AddrPort // nil: there is no table, or one that is not ours
	there      bool                         // there is a table
}

func keptTable() *nft.Table { return &nft.Table{Name: KeptTable, Family: nft.TableFamilyIPv4} }

func keptFlows() *nft.Set {
	return &nft.Set{
		Table: keptTable(), Name: flowsMap, IsMap: true, Concatenation: true,
		KeyType:  nft.MustConcatSetType(nft.TypeIPAddr, nft.TypeInetService, nft.TypeIPAddr, nft.TypeInetService),
		DataType: nft.MustConcatSetType(nft.TypeIPAddr, nft.TypeInetService),
	}
}

func keptChain() *nft.Chain {
	accept := nft.ChainPolicyAccept
	return &nft.Chain{
		Table: keptTable(), Name: hookChain, Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookPrerouting,
		Priority: nft.ChainPriorityRef(beforeDNAT), Policy: &accept,
	}
}

// keptRule gives a connection that is taken up in its middle the real server that it has.
func keptRule() []expr.Any {
	rule := append(tcp(),
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{synFlag}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{0}},
	)
	const source, destination, size = 12, 16, 4 // of the addresses in the header of IPv4
	for i, part := range []struct {
		base           expr.PayloadBase
		offset, length uint32
	}{
		{expr.PayloadBaseNetworkHeader, source, size}, {expr.PayloadBaseTransportHeader, sourcePort, 2},
		{expr.PayloadBaseNetworkHeader, destination, size}, {expr.PayloadBaseTransportHeader, destinationPort, 2},
	} {
		rule = append(rule, &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: keptWords[i], Base: part.base, Offset: part.offset, Len: part.length})
	}
	return append(rule,
		&expr.Lookup{SourceRegister: reg1, SetName: flowsMap, IsDestRegSet: true, DestRegister: reg1},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: keptWords[1], RegProtoMax: keptWords[1],
		})
}

func keptElement(e kept.Ends, real netip.AddrPort) nft.SetElement {
	return nft.SetElement{Key: append(key(e.Client), key(e.VIP)...), Val: key(real)}
}

// Keep makes the kernel send the middle of just these connections, of TCP over IPv4, to their real servers. It reads what the
// kernel has only when somebody has changed rules of the namespace since.
func (k *Kept) Keep(ctx context.Context, flows map[kept.Ends]netip.AddrPort) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now, err := generation()
	if err != nil {
		return err
	}
	conn := openHalf(layout4).conn
	if now != k.generation {
		*k = Kept{}
		if err := k.read(conn); err != nil {
			return fmt.Errorf("read table ip %s: %w", KeptTable, err)
		}
		k.generation = now
	}
	gone, new := differ(k.holds, flows), differ(flows, k.holds)
	switch {
	case len(flows) == 0 && !k.there, k.holds != nil && len(gone)+len(new) == 0 && len(flows) > 0:
		return nil
	case len(flows) == 0:
		conn.DelTable(keptTable())
	case k.holds == nil:
		// Adding a table that is there changes nothing, so that the deletion always finds one.
		conn.AddTable(keptTable())
		conn.DelTable(keptTable())
		conn.AddTable(keptTable())
		if err := conn.AddSet(keptFlows(), nil); err != nil {
			return err
		}
		conn.AddChain(keptChain())
		conn.AddRule(&nft.Rule{Table: keptTable(), Chain: keptChain(), Exprs: keptRule()})
		fallthrough
	default:
		for part := range slices.Chunk(gone, elementsPerMessage) {
			if err := conn.SetDeleteElements(keptFlows(), part); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(new, elementsPerMessage) {
			if err := conn.SetAddElements(keptFlows(), part); err != nil {
				return err
			}
		}
	}
	*k = Kept{} // read what has become of it
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("keep %d connections: %w", len(flows), err)
	}
	return nil
}

// differ are the elements of a that b has not, or has with another real server.
func differ(a, b map[kept.Ends]netip.AddrPort) (elements []nft.SetElement) {
	for ends, real := range a {
		if other, ok := b[ends]; !ok || other != real {
			elements = append(elements, keptElement(ends, real))
		}
	}
	return elements
}

// read reads the table. One that is not exactly what Keep makes counts as none, and is made anew.
func (k *Kept) read(conn *nft.Conn) error {
	tables, err := conn.ListTablesOfFamily(nft.TableFamilyIPv4)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.Name == KeptTable })
	if k.there = i >= 0; !k.there || tables[i].Flags != 0 {
		return nil
	}
	chains, err := conn.ListChainsOfTableFamily(nft.TableFamilyIPv4)
	if err != nil {
		return err
	}
	chains = slices.DeleteFunc(chains, func(c *nft.Chain) bool { return c.Table.Name != KeptTable })
	if len(chains) != 1 || !sameHook(chains[0], keptChain()) {
		return nil
	}
	rules, err := conn.GetRules(keptTable(), chains[0])
	if err != nil || !sameRule(rules, keptRule()) {
		return err
	}
	elements, err := conn.GetSetElements(keptFlows())
	if err != nil {
		return err
	}
	holds := make(map[kept.Ends]netip.AddrPort, len(elements))
	for _, e := range elements {
		const end = 8 // bytes of an address and a port
		if len(e.Key) != 2*end {
			return nil
		}
		client, ok1 := parseKey(e.Key[:end])
		vip, ok2 := parseKey(e.Key[end:])
		real, ok3 := parseKey(e.Val)
		if !ok1 || !ok2 || !ok3 {
			return nil
		}
		holds[kept.Ends{Client: client, VIP: vip}] = real
	}
	k.holds = holds
	return nil
}

// removeKept takes the table away. No table is no error.
func removeKept() error {
	conn := openHalf(layout4).conn
	conn.AddTable(keptTable())
	conn.DelTable(keptTable())
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove table ip %s: %w", KeptTable, err)
	}
	return nil
}

// Flows are the open connections of TCP over IPv4 to some VIPs.
func (k *Kept) Flows(ctx context.Context, vips map[netip.AddrPort]bool) (flows []kept.Flow, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	for _, f := range all {
		if f.Forward.Protocol != unix.IPPROTO_TCP || !isOpen(f) {
			continue
		}
		ways := keysOfFlow(f)
		ends := []kept.Ends{
			{Client: end(f.Forward.SrcIP, f.Forward.SrcPort), VIP: ways[0].VIP.AddrPort},
			{Client: end(f.Reverse.SrcIP, f.Reverse.SrcPort), VIP: ways[1].VIP.AddrPort}, // taken up from the real server
		}
		for i, e := range ends {
			if real := ways[i].Real; vips[e.VIP] && real != e.VIP && ways[i].VIP.Protocol == spec.TCP {
				flows = append(flows, kept.Flow{Ends: e, Real: real})
				break
			}
		}
	}
	return flows, nil
}

// Forget makes the kernel forget all connections to some VIPs.
func (k *Kept) Forget(ctx context.Context, vips map[spec.VIP]bool) error {
	for _, six := range []bool{false, true} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(familyOf(six)), toVIPs(vips)); err != nil {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

// toVIPs matches connections to VIPs.
type toVIPs map[spec.VIP]bool

// MatchConntrackFlow is called for each connection.
func (vips toVIPs) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, way := range keysOfFlow(f) {
		if vips[way.VIP] && way.Real != way.VIP.AddrPort { // else it is the node's own
			return true
		}
	}
	return false
}
