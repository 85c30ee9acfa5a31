package nftables

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// KeptTable is the table of the connections whose slot has moved, in the family ip and, for those of IPv6, ip6. It is there while there
// are any, and it is apart from the table of the services, which is made anew for many a reason:
//
//	map flows { inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service : ipv4_addr . inet_service }
//	                                     tcp . 10.10.60.1 . 40000 . 10.10.60.22 . 80 : 192.168.60.78 . 80
//	chain prerouting    nat, dstnat - 1  tcp, a SYN: accept
//	                                     dnat to meta l4proto . ip saddr . th sport . ip daddr . th dport map @flows
//
// What it does not know the table of the services deals. A client that uses a port of UDP again while its flow is remembered stays
// where that was.
const KeptTable = "twotier_director_kept"

const flowsMap = "flows"

// beforeDNAT is the place of the chain: before the one that deals by hash.
const beforeDNAT = -101

// Kept is the connections whose slot has moved, in the network namespace that its methods are called in, always the same one.
type Kept struct {
	generation uint32        // of the rules when this was read; 0: nothing has been read
	halves     [2]keptOfHalf // by family, as layouts
}

// keptOfHalf is what was read of one family.
type keptOfHalf struct {
	holds map[kept.Ends]netip.AddrPort // nil: there is no table, or one that is not ours
	there bool                         // there is a table
}

// layouts are those of the families.
var layouts = [2]layout{layout4, layout6}

func (l layout) keptTable() *nft.Table { return &nft.Table{Name: KeptTable, Family: l.table.Family} }

func (l layout) keptFlows() *nft.Set {
	address := l.address
	return &nft.Set{
		Table: l.keptTable(), Name: flowsMap, IsMap: true, Concatenation: true,
		KeyType:  nft.MustConcatSetType(nft.TypeInetProto, address, nft.TypeInetService, address, nft.TypeInetService),
		DataType: l.addressPort,
	}
}

func (l layout) keptChain() *nft.Chain {
	accept := nft.ChainPolicyAccept
	return &nft.Chain{
		Table: l.keptTable(), Name: hookChain, Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookPrerouting,
		Priority: nft.ChainPriorityRef(beforeDNAT), Policy: &accept,
	}
}

// keptRules give a connection that is taken up in its middle the real server that it has. UDP has no beginning that could be told.
func (l layout) keptRules() [][]expr.Any {
	begins := append(tcp(),
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{synFlag}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: []byte{0}},
		&expr.Verdict{Kind: expr.VerdictAccept},
	)
	words := l.size / 4 // of an address
	return [][]expr.Any{begins, slices.Concat(
		l.loadEndpoint(l.source, sourcePort), l.load(l.destination, destinationPort, 1+words+1),
		[]expr.Any{
			&expr.Lookup{SourceRegister: reg1, SetName: flowsMap, IsDestRegSet: true, DestRegister: reg1},
			&expr.NAT{
				Type: expr.NATTypeDestNAT, Family: l.nfproto, Specified: true,
				RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: word(words), RegProtoMax: word(words),
			},
		})}
}

func keptElement(e kept.Ends, real netip.AddrPort) nft.SetElement {
	return nft.SetElement{Key: append(endpointKey(endpoint{e.Client, e.VIP.Protocol}), key(e.VIP.AddrPort)...), Val: key(real)}
}

// Keep makes the kernel send the middle of just these connections to their real servers. It reads what the kernel has only when
// somebody has changed rules of the namespace since.
func (k *Kept) Keep(ctx context.Context, flows map[kept.Ends]netip.AddrPort) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now, err := generation()
	if err != nil {
		return err
	}
	if now != k.generation {
		*k = Kept{}
		for i, l := range layouts {
			if k.halves[i], err = l.readKept(openHalf(l).conn); err != nil {
				return fmt.Errorf("read table %s: %w", KeptTable, err)
			}
		}
		k.generation = now
	}
	for i, l := range layouts {
		mine := make(map[kept.Ends]netip.AddrPort, len(flows))
		for ends, real := range flows {
			if openHalf(l).has(ends.VIP) {
				mine[ends] = real
			}
		}
		changed, err := l.keep(k.halves[i], mine)
		if changed {
			k.generation = 0 // read what has become of it
		}
		if err != nil {
			return fmt.Errorf("keep %d connections: %w", len(mine), err)
		}
	}
	return nil
}

// keep does it for one family, and tells whether there was something to do.
func (l layout) keep(has keptOfHalf, flows map[kept.Ends]netip.AddrPort) (changed bool, err error) {
	conn := openHalf(l).conn
	gone, new := differ(has.holds, flows), differ(flows, has.holds)
	switch {
	case len(flows) == 0 && !has.there, has.holds != nil && len(gone)+len(new) == 0 && len(flows) > 0:
		return false, nil
	case len(flows) == 0:
		conn.DelTable(l.keptTable())
	case has.holds == nil:
		// Adding a table that is there changes nothing, so that the deletion always finds one.
		conn.AddTable(l.keptTable())
		conn.DelTable(l.keptTable())
		conn.AddTable(l.keptTable())
		if err := conn.AddSet(l.keptFlows(), nil); err != nil {
			return true, err
		}
		conn.AddChain(l.keptChain())
		for _, rule := range l.keptRules() {
			conn.AddRule(&nft.Rule{Table: l.keptTable(), Chain: l.keptChain(), Exprs: rule})
		}
		fallthrough
	default:
		for part := range slices.Chunk(gone, elementsPerMessage) {
			if err := conn.SetDeleteElements(l.keptFlows(), part); err != nil {
				return true, err
			}
		}
		for part := range slices.Chunk(new, elementsPerMessage) {
			if err := conn.SetAddElements(l.keptFlows(), part); err != nil {
				return true, err
			}
		}
	}
	return true, conn.Flush()
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

// readKept reads the table. One that is not exactly what Keep makes counts as none, and is made anew.
func (l layout) readKept(conn *nft.Conn) (k keptOfHalf, err error) {
	tables, err := conn.ListTablesOfFamily(l.table.Family)
	if err != nil {
		return k, err
	}
	i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.Name == KeptTable })
	if k.there = i >= 0; !k.there || tables[i].Flags != 0 {
		return k, nil
	}
	chains, err := conn.ListChainsOfTableFamily(l.table.Family)
	if err != nil {
		return k, err
	}
	chains = slices.DeleteFunc(chains, func(c *nft.Chain) bool { return c.Table.Name != KeptTable })
	if len(chains) != 1 || !sameHook(chains[0], l.keptChain()) {
		return k, nil
	}
	rules, err := conn.GetRules(l.keptTable(), chains[0])
	if err != nil || !sameRules(rules, l.keptRules()) {
		return k, err
	}
	elements, err := conn.GetSetElements(l.keptFlows())
	if err != nil {
		return k, err
	}
	holds := make(map[kept.Ends]netip.AddrPort, len(elements))
	for _, e := range elements {
		end := 4 + int(l.size) + 4 // bytes of a protocol, an address and a port
		if len(e.Key) != end+int(l.size)+4 {
			return k, nil
		}
		client, ok1 := parseEndpoint(e.Key[:end])
		vip, ok2 := parseKey(e.Key[end:])
		real, ok3 := parseKey(e.Val)
		if !ok1 || !ok2 || !ok3 {
			return k, nil
		}
		holds[kept.Ends{Client: client.AddrPort, VIP: spec.VIP{AddrPort: vip, Protocol: client.Protocol}}] = real
	}
	k.holds = holds
	return k, nil
}

// removeKept takes the tables away. No table is no error.
func removeKept() error {
	for _, l := range layouts {
		conn := openHalf(l).conn
		conn.AddTable(l.keptTable())
		conn.DelTable(l.keptTable())
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("remove table %s: %w", KeptTable, err)
		}
	}
	return nil
}

// Flows are the open connections to some VIPs; of UDP those that the kernel remembers.
func (k *Kept) Flows(ctx context.Context, vips map[spec.VIP]bool) (flows []kept.Flow, err error) {
	for _, six := range []bool{false, true} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(vips)), func(v spec.VIP) bool { return v.Is6() == six }) {
			continue
		}
		all, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(familyOf(six)))
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		for _, f := range all {
			if !isOpen(f) {
				continue
			}
			ways := keysOfFlow(f)
			ends := []kept.Ends{
				{Client: end(f.Forward.SrcIP, f.Forward.SrcPort), VIP: ways[0].VIP},
				{Client: end(f.Reverse.SrcIP, f.Reverse.SrcPort), VIP: ways[1].VIP}, // taken up from the real server
			}
			for i, e := range ends {
				if real := ways[i].Real; vips[e.VIP] && real != e.VIP.AddrPort {
					flows = append(flows, kept.Flow{Ends: e, Real: real})
					break
				}
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
