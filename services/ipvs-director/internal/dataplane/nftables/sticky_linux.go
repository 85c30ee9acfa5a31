package nftables

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"slices"
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

// numbers are what stands for the real servers of a service where packets look: 32 bits, the most that a packet carries from one look-up to
// the next. A number is the FNV-1a hash of the address, so that it stays the same whatever comes and goes; it is the next that is free
// where another one has it, and never 0, which is what a packet has that carries nothing.
func numbers(reals []spec.Real) map[netip.AddrPort][]byte {
	numbers, taken := map[netip.AddrPort][]byte{}, map[uint32]bool{0: true}
	for _, r := range slices.SortedFunc(slices.Values(reals), func(a, b spec.Real) int { return a.Address.Compare(b.Address) }) {
		h := fnv.New32a()
		h.Write(key(r.Address))
		n := h.Sum32()
		for taken[n] {
			n++
		}
		taken[n] = true
		numbers[r.Address] = binary.BigEndian.AppendUint32(nil, n) // as nft prints it
	}
	return numbers
}

// sticky is the map of the clients that a service remembers. No transaction writes its elements, but for the one that empties it.
func (l layout) sticky(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: stickyPrefix + suffix(vip), IsMap: true, Dynamic: true, HasTimeout: true, Size: maxSticky,
		KeyType: l.address, DataType: nft.TypeClassID}
}

// takers leads from the number of a remembered real server to its chain, if it takes connections.
func (l layout) takers(vip spec.VIP) *nft.Set {
	return &nft.Set{Table: l.table, Name: takersPrefix + suffix(vip), IsMap: true, KeyType: nft.TypeClassID, DataType: nft.TypeVerdict}
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

// nobody is the number of no real server, and the priority of a packet that nobody has given one.
var nobody = make([]byte, 4)

// rememberRules are those of a service before the one that deals: the client goes where it went, if that takes connections, or it is
// forgotten. Between the look-ups the number is the priority of the packet (skb->priority): nft 1.0.6 aborts when it lists a rule that looks
// up what another look-up has just found.
func (l layout) rememberRules(s spec.Service) [][]expr.Any {
	return [][]expr.Any{
		append(l.loadClient(s.Persistence.Prefix),
			&expr.Lookup{SourceRegister: reg1, SetName: stickyPrefix + suffix(s.VIP), IsDestRegSet: true, DestRegister: reg1},
			&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: reg1},
			&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg1},
			&expr.Lookup{SourceRegister: reg1, SetName: takersPrefix + suffix(s.VIP), IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}),
		// Of a map the kernel wants to know what it maps to, even to delete it (nft_dynset_init of net/netfilter/nft_dynset.c).
		append(l.loadClient(s.Persistence.Prefix), &expr.Immediate{Register: reg2, Data: nobody},
			&expr.Dynset{SrcRegKey: reg1, SrcRegData: reg2, SetName: stickyPrefix + suffix(s.VIP), Operation: dynsetDelete}),
	}
}

// stickRules take the number off the packet, remember that the client went to the real server of that number, and send it there, even when there
// is no room to remember it.
func (l layout) stickRules(s spec.Service, real netip.AddrPort, number []byte) [][]expr.Any {
	return [][]expr.Any{
		{&expr.Immediate{Register: reg1, Data: nobody}, &expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: reg1}},
		append(l.loadClient(s.Persistence.Prefix), &expr.Immediate{Register: reg2, Data: number},
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
func takerElements(s spec.Service, numbers map[netip.AddrPort][]byte) (elements []nft.SetElement) {
	for _, r := range s.Reals {
		if r.Weight > 0 {
			elements = append(elements, gotoElement(numbers[r.Address], stickChain(s.VIP, r.Address)))
		}
	}
	return elements
}

// stick queues what a persistent service has beside its slots. The chains of its real servers are there.
func (p *half) stick(s spec.Service) error {
	numbers := numbers(s.Reals)
	for _, r := range s.Reals {
		p.addRules(p.chain(stickChain(s.VIP, r.Address)), nil, p.stickRules(s, r.Address, numbers[r.Address])...)
	}
	return p.addElements(p.takers(s.VIP), takerElements(s, numbers))
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

// Remembered tells which real server a client is to stay with; false: it is not remembered, or at one that is gone. Any goroutine may call it.
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
	asked := nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, nested(unix.NFTA_LIST_ELEM,
		nested(unix.NFTA_SET_ELEM_KEY, netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: counts.Addr().AsSlice()})))
	if err != nil {
		return real, false, err
	}
	l := layout4
	if vip.Is6() {
		l = layout6
	}
	answers, err := ask(l.table.Family, unix.NFT_MSG_GETSETELEM, 0, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(TableName + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(stickyPrefix + suffix(vip) + "\x00")},
		asked,
	})
	if errors.Is(err, os.ErrNotExist) {
		return real, false, nil
	}
	if err != nil {
		return real, false, fmt.Errorf("look for what %s remembers of %s: %w", vip, client, err)
	}
	number := []byte(nil)
	for _, m := range answers {
		for kind, list := range attributes(m.Data[min(headerSize, len(m.Data)):]) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, element := range attributes(list) {
				for kind, part := range attributes(element) {
					if kind == unix.NFTA_SET_ELEM_DATA {
						for _, value := range attributes(part) {
							number = value
						}
					}
				}
			}
		}
	}
	elements, err := openHalf(l).conn.GetSetElements(l.weights(vip))
	if err != nil {
		return real, false, fmt.Errorf("read whom %s has: %w", vip, err)
	}
	var reals []spec.Real
	for _, e := range elements {
		if address, ok := parseKey(e.Key); ok {
			reals = append(reals, spec.Real{Address: address})
		}
	}
	for real, n := range numbers(reals) {
		if bytes.Equal(n, number) {
			return real, true, nil
		}
	}
	return netip.AddrPort{}, false, nil
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
