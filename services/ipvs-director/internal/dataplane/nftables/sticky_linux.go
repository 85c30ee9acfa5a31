package nftables

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	stickyPrefix = "sticky_"
	takersPrefix = "takers_"
	stickPrefix  = "stick_"
	// maxSticky is the most clients that one service remembers; a client beyond that is dealt as if there were no persistence.
	maxSticky = 1 << 20
	// dynsetUpdate and dynsetDelete are NFT_DYNSET_OP_UPDATE and ..._DELETE of include/uapi/linux/netfilter/nf_tables.h.
	dynsetUpdate, dynsetDelete = 1, 2
)

func stickChain(vip spec.VIP, real netip.AddrPort) string {
	return stickPrefix + suffix(vip) + "_" + name(real)
}

// sticky is the map of the clients that a service remembers. No transaction writes its elements, but for the one that empties it.
func (l layout) sticky(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: stickyPrefix + suffix(vip), IsMap: true, Dynamic: true, HasTimeout: true, Size: maxSticky,
		KeyType: l.address, DataType: l.addressPort}
}

// takers leads from a remembered real server to its chain, if it takes connections.
func (l layout) takers(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: takersPrefix + suffix(vip), IsMap: true, KeyType: l.addressPort, DataType: nft.TypeVerdict, Concatenation: true}
}

// loadClient brings what counts of the client's address into reg1.
func (l layout) loadClient(prefix int) []expr.Any {
	load := l.load(l.source, sourcePort, 0)[:1]
	bits := int(l.size) * 8
	if prefix == bits {
		return load
	}
	return append(load, &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: l.size, Mask: net.CIDRMask(prefix, bits), Xor: make([]byte, l.size)})
}

// immediate brings an address and a port into reg2; one immediate holds 16 bytes at most.
func (l layout) immediate(key []byte) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg2, Data: key[:l.size]},
		&expr.Immediate{Register: word(4 + l.size/4), Data: key[l.size:]},
	}
}

// rememberRules are those of a service before the one that deals: the client goes where it went, if that takes connections, or it is
// forgotten.
func (l layout) rememberRules(s spec.Service) [][]expr.Any {
	return [][]expr.Any{
		append(l.loadClient(s.Persistence.Prefix),
			&expr.Lookup{SourceRegister: reg1, SetName: stickyPrefix + suffix(s.VIP), IsDestRegSet: true, DestRegister: reg2},
			&expr.Lookup{SourceRegister: reg2, SetName: takersPrefix + suffix(s.VIP), IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}),
		// Of a map the kernel wants to know what it maps to, even to delete it (nft_dynset_init of net/netfilter/nft_dynset.c).
		append(append(l.loadClient(s.Persistence.Prefix), l.immediate(make([]byte, l.size+4))...),
			&expr.Dynset{SrcRegKey: reg1, SrcRegData: reg2, SetName: stickyPrefix + suffix(s.VIP), Operation: dynsetDelete}),
	}
}

// stickRules remember that the client went to a real server, and send it there, even when there is no room to remember it.
func (l layout) stickRules(s spec.Service, real netip.AddrPort) [][]expr.Any {
	return [][]expr.Any{
		append(append(l.loadClient(s.Persistence.Prefix), l.immediate(key(real))...),
			&expr.Dynset{SrcRegKey: reg1, SrcRegData: reg2, SetName: stickyPrefix + suffix(s.VIP), Operation: dynsetUpdate, Timeout: s.Persistence.Timeout}),
		{&expr.Verdict{Kind: expr.VerdictGoto, Chain: realChain(s.VIP, real)}},
	}
}

// entry is the chain that the slots of a service lead to.
func entry(s spec.Service, real netip.AddrPort) string {
	if s.Persistence != (spec.Persistence{}) {
		return stickChain(s.VIP, real)
	}
	return realChain(s.VIP, real)
}

// takerElements are those of the map of takers.
func takerElements(s spec.Service) (elements []nft.SetElement) {
	for _, r := range s.Reals {
		if r.Weight > 0 {
			elements = append(elements, gotoElement(key(r.Address), stickChain(s.VIP, r.Address)))
		}
	}
	return elements
}

// stick queues what a persistent service has beside its slots. The chains of its real servers are there.
func (p *half) stick(s spec.Service) error {
	for _, r := range s.Reals {
		p.addRules(p.chain(stickChain(s.VIP, r.Address)), nil, p.stickRules(s, r.Address)...)
	}
	return p.addElements(p.takers(s.VIP), takerElements(s))
}

// unstick queues the removal of that; the rule and the slots of the service are gone.
func (p *half) unstick(s spec.Service) {
	p.conn.FlushSet(p.takers(s.VIP))
	for _, r := range s.Reals {
		chain := p.chain(stickChain(s.VIP, r.Address))
		p.conn.FlushChain(chain)
		p.conn.DelChain(chain)
	}
}

// memory queues the maps of a persistent service, or their removal. Clients are remembered over changes, but for one of how many bits
// of their addresses count.
func (p *half) memory(was, becomes spec.Service) error {
	before, after := was.Persistence, becomes.Persistence
	none := spec.Persistence{}
	switch {
	case before == none && after != none:
		for _, set := range []*nft.Set{p.sticky(becomes.VIP), p.takers(becomes.VIP)} {
			if err := p.conn.AddSet(set, nil); err != nil {
				return fmt.Errorf("add %s: %w", set.Name, err)
			}
		}
	case before != none && after == none:
		p.conn.DelSet(p.takers(was.VIP))
		p.conn.DelSet(p.sticky(was.VIP))
	case before.Prefix != after.Prefix:
		p.conn.FlushSet(p.sticky(was.VIP))
	}
	return nil
}

// isSticky tells whether a map has elements that are no transaction's.
func isSticky(name string) bool { return strings.HasPrefix(name, stickyPrefix) }

// Remembered tells which real server a client is to stay with; false: it is not remembered. Any goroutine may call it.
func Remembered(ctx context.Context, client netip.Addr, vip spec.VIP, prefix int) (real netip.AddrPort, kept bool, err error) {
	if err := ctx.Err(); err != nil {
		return real, false, err
	}
	counts, err := client.Prefix(prefix)
	if err != nil {
		return real, false, fmt.Errorf("the part of %s that counts: %w", client, err)
	}
	nested := func(kind uint16, inside ...netlink.Attribute) netlink.Attribute {
		data, marshalErr := netlink.MarshalAttributes(inside)
		err = errors.Join(err, marshalErr)
		return netlink.Attribute{Type: unix.NLA_F_NESTED | kind, Data: data}
	}
	elements := nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, nested(unix.NFTA_LIST_ELEM,
		nested(unix.NFTA_SET_ELEM_KEY, netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: counts.Addr().AsSlice()})))
	if err != nil {
		return real, false, err
	}
	family := layout4.table.Family
	if vip.Is6() {
		family = layout6.table.Family
	}
	answers, err := ask(family, unix.NFT_MSG_GETSETELEM, 0, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(TableName + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(stickyPrefix + suffix(vip) + "\x00")},
		elements,
	})
	if errors.Is(err, os.ErrNotExist) {
		return real, false, nil
	}
	if err != nil {
		return real, false, fmt.Errorf("look for what %s remembers of %s: %w", vip, client, err)
	}
	for _, m := range answers {
		attributes, err := netlink.NewAttributeDecoder(m.Data[min(headerSize, len(m.Data)):])
		if err != nil {
			return real, false, fmt.Errorf("read what %s remembers of %s: %w", vip, client, err)
		}
		for attributes.Next() {
			if attributes.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			attributes.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(element *netlink.AttributeDecoder) error {
						for element.Next() {
							if element.Type() != unix.NFTA_SET_ELEM_DATA {
								continue
							}
							element.Nested(func(data *netlink.AttributeDecoder) error {
								for data.Next() {
									if data.Type() == unix.NFTA_DATA_VALUE {
										real, kept = parseKey(data.Bytes())
									}
								}
								return nil
							})
						}
						return nil
					})
				}
				return nil
			})
		}
		if err := attributes.Err(); err != nil {
			return netip.AddrPort{}, false, fmt.Errorf("read what %s remembers of %s: %w", vip, client, err)
		}
	}
	return real, kept, nil
}

// persistenceNote says a persistence in the comment of a service's rule, and parsePersistence reads it.
const persistenceNote = ", persistence "

func persistenceText(p spec.Persistence) string {
	if p == (spec.Persistence{}) {
		return ""
	}
	return fmt.Sprintf("%s%d/%d", persistenceNote, p.Timeout/time.Second, p.Prefix)
}

func parsePersistence(text string) (p spec.Persistence, ok bool) {
	var seconds int
	if n, err := fmt.Sscanf(text, "%d/%d", &seconds, &p.Prefix); n != 2 || err != nil || seconds <= 0 || p.Prefix <= 0 {
		return p, false
	}
	p.Timeout = time.Duration(seconds) * time.Second
	return p, persistenceText(p) == persistenceNote+text
}
