package nftables

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"reflect"
	"slices"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// countChain is where what passes is counted: on its way out, behind the translations and the guard. There a packet to a real server bears its address, and
// conntrack knows the VIP; a packet from it bears the VIP, and conntrack knows the real server:
//
//	set in  { inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service; counter }   tcp . 10.10.60.22 . 80 . 192.168.60.78 . 80
//	set out { like in }
//	chain count     filter, postrouting, after the guard
//	        ct direction original meta l4proto . ct original ip daddr . ct original proto-dst . ip daddr . th dport @in accept
//	        ct direction reply    meta l4proto . ip saddr . th sport . ct reply ip saddr . ct reply proto-src @out accept
//	        the same for a connection that was taken up from its real server, whose directions are the other way round
const countChain = "count"

const inSet, outSet = "in", "out"

// afterGuard is the place of the chain.
const afterGuard = afterSNAT + 1

// member is a real server of a service.
type member struct {
	front endpoint
	real  netip.AddrPort
}

// Compare orders members.
func (m member) Compare(o member) int {
	return cmp.Or(m.front.Compare(o.front), m.real.Compare(o.real))
}

func memberOf(vip spec.VIP, real netip.AddrPort) member { return member{front(vip), real} }

// memberKey is a member as a concatenation.
func memberKey(m member) []byte { return append(endpointKey(m.front), key(m.real)...) }

func memberElements(members []member) (elements []nft.SetElement) {
	for _, m := range members {
		elements = append(elements, nft.SetElement{Key: memberKey(m)})
	}
	return elements
}

// counted are the sets whose elements count what finds them.
func (l layout) counted() [2]*nft.Set {
	set := func(name string) *nft.Set {
		return &nft.Set{Table: l.table, Name: name, Concatenation: true, Counter: true,
			KeyType: nft.MustConcatSetType(nft.TypeInetProto, l.address, nft.TypeInetService, l.address, nft.TypeInetService)}
	}
	return [...]*nft.Set{set(inSet), set(outSet)}
}

func (l layout) count() *nft.Chain {
	accept := nft.ChainPolicyAccept
	return &nft.Chain{Table: l.table, Name: countChain, Type: nft.ChainTypeFilter, Hooknum: nft.ChainHookPostrouting,
		Priority: nft.ChainPriorityRef(afterGuard), Policy: &accept}
}

// ofConnection brings something of a direction of a packet's connection into a register, as expr.Ct does, which sends the direction in
// more bytes than the kernel reads and cannot read it back.
type ofConnection struct {
	key, register uint32
	direction     uint8
}

// Keys of enum nft_ct_keys of include/uapi/linux/netfilter/nf_tables.h: the addresses by family. Of NFT_CT_SRC and NFT_CT_DST nft 1.0.6 does not
// know the length, and aborts when it lists them.
const srcIP, dstIP, srcIP6, dstIP6 = 19, 20, 21, 22

// The directions of a connection (IP_CT_DIR_... of include/uapi/linux/netfilter/nf_conntrack_tuple_common.h): that of its first
// packet, and the other one.
const original, reply = 0, 1

// countRules are those of the chain, each a list of expr.Any and ofConnection.
func (l layout) countRules() [][]any {
	header := func(address, port, first uint32) (parts []any) {
		for _, e := range l.load(address, port, first) {
			parts = append(parts, e)
		}
		return parts
	}
	from, to := uint32(srcIP), uint32(dstIP)
	if l.nfproto == unix.NFPROTO_IPV6 {
		from, to = srcIP6, dstIP6
	}
	const vip = 1 // the word behind the protocol
	real := vip + l.size/4 + 1
	rule := func(direction uint8, set string, members ...any) []any {
		return slices.Concat(
			[]any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{direction}},
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}},
			members,
			[]any{&expr.Lookup{SourceRegister: reg1, SetName: set}, &expr.Verdict{Kind: expr.VerdictAccept}})
	}
	in := func(direction uint8) []any {
		return rule(direction, inSet, append(
			[]any{ofConnection{to, word(vip), direction}, ofConnection{unix.NFT_CT_PROTO_DST, word(vip + l.size/4), direction}},
			header(l.destination, destinationPort, real)...)...)
	}
	out := func(direction uint8) []any {
		return rule(direction, outSet, append(header(l.source, sourcePort, vip),
			ofConnection{from, word(real), direction}, ofConnection{unix.NFT_CT_PROTO_SRC, word(real + l.size/4), direction})...)
	}
	return [][]any{in(original), out(reply), in(reply), out(original)}
}

// countMessages are those that make the rules; the library cannot say them.
func (l layout) countMessages() (messages []netlink.Message, err error) {
	nested := func(kind uint16, data []byte) netlink.Attribute {
		return netlink.Attribute{Type: unix.NLA_F_NESTED | kind, Data: data}
	}
	join := func(attributes ...netlink.Attribute) []byte {
		data, failed := netlink.MarshalAttributes(attributes)
		err = errors.Join(err, failed)
		return data
	}
	for _, rule := range l.countRules() {
		var list []netlink.Attribute
		for _, part := range rule {
			switch e := part.(type) {
			case ofConnection:
				list = append(list, nested(unix.NFTA_LIST_ELEM, join(netlink.Attribute{Type: unix.NFTA_EXPR_NAME, Data: []byte("ct\x00")},
					nested(unix.NFTA_EXPR_DATA, join(
						netlink.Attribute{Type: unix.NFTA_CT_KEY, Data: binary.BigEndian.AppendUint32(nil, e.key)},
						netlink.Attribute{Type: unix.NFTA_CT_DREG, Data: binary.BigEndian.AppendUint32(nil, e.register)},
						netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{e.direction}})))))
			case expr.Any:
				data, failed := expr.Marshal(byte(l.table.Family), e)
				err = errors.Join(err, failed)
				list = append(list, nested(unix.NFTA_LIST_ELEM, data))
			}
		}
		message, failed := request(l.table.Family, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND,
			append(l.inChain(countChain), nested(unix.NFTA_RULE_EXPRESSIONS, join(list...)))...)
		err = errors.Join(err, failed)
		messages = append(messages, message)
	}
	return messages, err
}

// inChain names a chain of the table in a message about rules.
func (l layout) inChain(chain string) []netlink.Attribute {
	return []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(l.table.Name + "\x00")}, {Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain + "\x00")}}
}

// counts tells whether the chain holds just the rules that it should.
func (l layout) counts() (bool, error) {
	answers, err := ask(l.table.Family, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, l.inChain(countChain))
	if err != nil {
		return false, fmt.Errorf("list the rules of chain %s: %w", countChain, err)
	}
	var rules [][]any
	for _, m := range answers {
		rule, ok := l.parse(m)
		if !ok {
			return false, nil
		}
		rules = append(rules, rule)
	}
	return reflect.DeepEqual(rules, l.countRules()), nil
}

// parse reads a rule of the chain; false: it holds what none of ours does.
func (l layout) parse(m netlink.Message) (rule []any, ok bool) {
	ok = true
	one := func(e *netlink.AttributeDecoder) error {
		name := ""
		for e.Next() {
			switch e.Type() {
			case unix.NFTA_EXPR_NAME:
				name = e.String()
			case unix.NFTA_EXPR_DATA:
				part, understood := l.expression(name, e.Bytes())
				rule, ok = append(rule, part), ok && understood
			}
		}
		return nil
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[min(headerSize, len(m.Data)):])
	if err != nil {
		return nil, false
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_RULE_EXPRESSIONS {
			attributes.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(one)
				}
				return nil
			})
		}
	}
	return rule, ok && attributes.Err() == nil
}

// expression reads one that is in our rules.
func (l layout) expression(name string, data []byte) (part any, ok bool) {
	var e expr.Any
	switch name {
	case "ct":
		c, whole := ofConnection{}, true
		attributes, err := netlink.NewAttributeDecoder(data)
		if err != nil {
			return nil, false
		}
		attributes.ByteOrder = binary.BigEndian
		directed := false
		for attributes.Next() {
			switch attributes.Type() {
			case unix.NFTA_CT_KEY:
				c.key = attributes.Uint32()
			case unix.NFTA_CT_DREG:
				c.register = attributes.Uint32()
			case unix.NFTA_CT_DIRECTION:
				c.direction, directed = attributes.Uint8(), true
			default:
				whole = false
			}
		}
		if !directed {
			return &expr.Ct{Key: expr.CtKey(c.key), Register: c.register}, whole && attributes.Err() == nil
		}
		return c, whole && attributes.Err() == nil
	case "cmp":
		e = &expr.Cmp{}
	case "meta":
		e = &expr.Meta{}
	case "payload":
		e = &expr.Payload{}
	case "lookup":
		e = &expr.Lookup{}
	case "immediate":
		e = &expr.Verdict{}
	default:
		return nil, false
	}
	return e, expr.Unmarshal(byte(l.table.Family), data, e) == nil
}

// tally is what an element has counted.
type tally struct{ packets, bytes uint64 }

// tallies reads what the elements of a set have counted, by their keys. The library makes ten objects of each of them.
func (l layout) tallies(set string) (map[string]tally, error) {
	answers, err := ask(l.table.Family, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(l.table.Name + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set + "\x00")},
	})
	if err != nil {
		return nil, fmt.Errorf("list the elements of set %s: %w", set, err)
	}
	all := map[string]tally{}
	for _, m := range answers {
		for kind, list := range attributes(m.Data[min(headerSize, len(m.Data)):]) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, element := range attributes(list) {
				key, t := "", tally{}
				for kind, part := range attributes(element) {
					switch kind {
					case unix.NFTA_SET_ELEM_KEY:
						for _, value := range attributes(part) {
							key = string(value)
						}
					case unix.NFTA_SET_ELEM_EXPR: // a counter: its name, and what it holds
						for kind, holds := range attributes(part) {
							if kind == unix.NFTA_EXPR_DATA {
								t = readTally(holds)
							}
						}
					}
				}
				all[key] = t
			}
		}
	}
	return all, nil
}

func readTally(holds []byte) (t tally) {
	for kind, value := range attributes(holds) {
		switch {
		case len(value) != 8:
		case kind == unix.NFTA_COUNTER_PACKETS:
			t.packets = binary.BigEndian.Uint64(value)
		case kind == unix.NFTA_COUNTER_BYTES:
			t.bytes = binary.BigEndian.Uint64(value)
		}
	}
	return t
}

// attributes are those of the kernel's, up to the first that is not whole (struct nlattr of include/uapi/linux/netlink.h).
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	const header = 4
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= header {
			size := int(binary.NativeEndian.Uint16(b))
			if size < header || size > len(b) || !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[header:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// passed reads what has passed to and from each real server, by the key of the member.
func (l layout) passed() (map[string]plan.Traffic, error) {
	in, err := l.tallies(inSet)
	if err != nil {
		return nil, err
	}
	out, err := l.tallies(outSet)
	if err != nil {
		return nil, err
	}
	return bothWays(in, out), nil
}

func bothWays(in, out map[string]tally) map[string]plan.Traffic {
	all := make(map[string]plan.Traffic, len(in))
	for key, t := range in {
		all[key] = plan.Traffic{PacketsIn: t.packets, BytesIn: t.bytes}
	}
	for key, t := range out {
		both := all[key]
		both.PacketsOut, both.BytesOut = t.packets, t.bytes
		all[key] = both
	}
	return all
}
