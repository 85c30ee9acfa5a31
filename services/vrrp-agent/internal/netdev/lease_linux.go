package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// leases keeps the node from answering for addresses that have not been renewed. The kernel removes them, but from a
// work queue: a machine that was stopped as a whole and goes on answers first what has come in meanwhile. nf_tables
// looks at the time itself, whenever somebody asks. What is dropped here are questions, by ARP and neighbor solicitation, for
// an address that is in the set "ours" and not in the set "renewed".
//
// The tables belong to the socket, and go with it, however the process ends.
type leases struct {
	mu     sync.Mutex // for all of it: the socket takes one request at a time
	socket *nl.NetlinkSocket
	failed bool                // the kernel has refused, and is asked no more
	tables map[uint8]bool      // those that are there, by family
	ours   map[netip.Addr]bool // what is in that set
}

const (
	leaseTable = "vrrp-agent"
	// tableOwner has the table removed with the socket that has made it (NFT_TABLE_F_OWNER, from Linux 5.12 on).
	tableOwner = 2
	// acceptsARP and acceptsIPv6 are where packets for this node come by (NF_ARP_IN, NF_INET_LOCAL_IN).
	acceptsARP, acceptsIPv6 = 0, 1
	// Any number, which the nft program takes for the type of the set's elements.
	typeIPv4, typeIPv6 = 7, 8
)

// command is one of a batch.
type command struct {
	kind, flags uint16
	family      uint8
	attributes  []*nl.RtAttr
}

// open connects to nf_tables, which it leaves alone until there is an address. Close it.
func (l *leases) open() error {
	socket, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_NETFILTER) // where we are
	if err != nil {
		return l.gaveUp(err)
	}
	l.socket, l.tables, l.ours = socket, map[uint8]bool{}, map[netip.Addr]bool{}
	return nil
}

// extend lets the node answer for an address for that long from now on. It fails once, for a kernel that cannot do it; from
// then on nothing is held back any more.
func (l *leases) extend(a netip.Addr, life time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed {
		return nil
	}
	var all []command
	family := leaseFamily(a)
	if !l.tables[family] {
		all = table(family)
	}
	if !l.ours[a] {
		all = append(all, lease(unix.NFT_MSG_NEWSETELEM, "ours", a, 0))
	}
	// The kernel does not lengthen the life of an element that is there, and takes some ten milliseconds to undo a batch
	// that removes one that is not. So it is added, if it is not there, before it is removed.
	renewed := lease(unix.NFT_MSG_NEWSETELEM, "renewed", a, life)
	err := l.batch(append(all, renewed, lease(unix.NFT_MSG_DELSETELEM, "renewed", a, 0), renewed)...)
	if err != nil {
		return l.gaveUp(err)
	}
	l.tables[family], l.ours[a] = true, true
	return nil
}

// end forgets an address, which is on no card of this node any more.
func (l *leases) end(a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed || !l.ours[a] {
		return nil
	}
	delete(l.ours, a)
	return l.gaveUp(l.batch(lease(unix.NFT_MSG_DELSETELEM, "ours", a, 0)))
}

// gaveUp takes everything away after an error: better that a machine answers late than that nobody does.
func (l *leases) gaveUp(err error) error {
	if err == nil {
		return nil
	}
	l.failed = true
	l.close()
	return fmt.Errorf("hold back answers for addresses that are not renewed: nf_tables: %w", err)
}

// close takes the tables away.
func (l *leases) close() {
	if l.socket != nil {
		l.socket.Close()
		l.socket = nil
	}
}

func leaseFamily(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_ARP
}

// lease adds an address to a set, for a time if that is not 0, or takes it away.
func lease(kind uint16, set string, a netip.Addr, life time.Duration) command {
	element := attribute(unix.NFTA_LIST_ELEM)
	element.AddChild(nested(unix.NFTA_SET_ELEM_KEY, nl.NewRtAttr(unix.NFTA_DATA_VALUE, a.AsSlice())))
	if life > 0 {
		element.AddChild(nl.NewRtAttr(unix.NFTA_SET_ELEM_TIMEOUT, binary.BigEndian.AppendUint64(nil, uint64(life.Milliseconds()))))
	}
	return command{kind, unix.NLM_F_CREATE, leaseFamily(a), []*nl.RtAttr{
		text(unix.NFTA_SET_ELEM_LIST_TABLE, leaseTable), text(unix.NFTA_SET_ELEM_LIST_SET, set), nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, element)}}
}

// table makes a family's table, with its sets and the rule.
func table(family uint8) []command {
	hook, kind, length := number(acceptsARP), number(typeIPv4), 4
	// Operation 1 is a request, and the target comes last (RFC 826).
	rule := slices.Concat(is(unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 0, 1), load(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, length))
	if family == unix.NFPROTO_IPV6 {
		hook, kind, length = number(acceptsIPv6), number(typeIPv6), 16
		// Type 135 is a solicitation, and the target is in octets 8 to 23 (RFC 4861, section 4.3).
		rule = slices.Concat(is(unix.NFT_PAYLOAD_NETWORK_HEADER, 6, unix.IPPROTO_ICMPV6), is(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 135),
			load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 8, length))
	}
	rule = slices.Concat(rule, in("ours", 0), in("renewed", unix.NFT_LOOKUP_F_INV), drop())
	set := func(name string, id, flags uint32) command {
		return command{unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, family, []*nl.RtAttr{text(unix.NFTA_SET_TABLE, leaseTable), text(unix.NFTA_SET_NAME, name),
			nl.NewRtAttr(unix.NFTA_SET_FLAGS, number(flags)), nl.NewRtAttr(unix.NFTA_SET_KEY_TYPE, kind),
			nl.NewRtAttr(unix.NFTA_SET_KEY_LEN, number(uint32(length))), nl.NewRtAttr(unix.NFTA_SET_ID, number(id))}}
	}
	return []command{
		{unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE | unix.NLM_F_EXCL, family, []*nl.RtAttr{
			text(unix.NFTA_TABLE_NAME, leaseTable), nl.NewRtAttr(unix.NFTA_TABLE_FLAGS, number(tableOwner))}},
		set("ours", 1, 0),
		set("renewed", 2, unix.NFT_SET_TIMEOUT),
		{unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, family, []*nl.RtAttr{text(unix.NFTA_CHAIN_TABLE, leaseTable), text(unix.NFTA_CHAIN_NAME, "questions"),
			text(unix.NFTA_CHAIN_TYPE, "filter"), nested(unix.NFTA_CHAIN_HOOK,
				nl.NewRtAttr(unix.NFTA_HOOK_HOOKNUM, hook), nl.NewRtAttr(unix.NFTA_HOOK_PRIORITY, number(0)))}},
		{unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE | unix.NLM_F_APPEND, family, []*nl.RtAttr{text(unix.NFTA_RULE_TABLE, leaseTable),
			text(unix.NFTA_RULE_CHAIN, "questions"), nested(unix.NFTA_RULE_EXPRESSIONS, rule...)}},
	}
}

// load puts octets of a header into the register that the next expression looks at.
func load(header uint32, offset, length int) []*nl.RtAttr {
	return expression("payload", nl.NewRtAttr(unix.NFTA_PAYLOAD_DREG, number(unix.NFT_REG_1)), nl.NewRtAttr(unix.NFTA_PAYLOAD_BASE, number(header)),
		nl.NewRtAttr(unix.NFTA_PAYLOAD_OFFSET, number(uint32(offset))), nl.NewRtAttr(unix.NFTA_PAYLOAD_LEN, number(uint32(length))))
}

// is goes on only with packets that have these octets there.
func is(header uint32, offset int, octets ...byte) []*nl.RtAttr {
	return slices.Concat(load(header, offset, len(octets)), expression("cmp", nl.NewRtAttr(unix.NFTA_CMP_SREG, number(unix.NFT_REG_1)),
		nl.NewRtAttr(unix.NFTA_CMP_OP, number(unix.NFT_CMP_EQ)), nested(unix.NFTA_CMP_DATA, nl.NewRtAttr(unix.NFTA_DATA_VALUE, octets))))
}

// in goes on only if the register is in the set, or not in it.
func in(set string, flags uint32) []*nl.RtAttr {
	return expression("lookup", text(unix.NFTA_LOOKUP_SET, set), nl.NewRtAttr(unix.NFTA_LOOKUP_SREG, number(unix.NFT_REG_1)),
		nl.NewRtAttr(unix.NFTA_LOOKUP_FLAGS, number(flags)))
}

func drop() []*nl.RtAttr {
	const verdict = 0 // NF_DROP
	return expression("immediate", nl.NewRtAttr(unix.NFTA_IMMEDIATE_DREG, number(unix.NFT_REG_VERDICT)), nested(unix.NFTA_IMMEDIATE_DATA,
		nested(unix.NFTA_DATA_VERDICT, nl.NewRtAttr(unix.NFTA_VERDICT_CODE, number(verdict)))))
}

func expression(name string, data ...*nl.RtAttr) []*nl.RtAttr {
	return []*nl.RtAttr{nested(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, data...))}
}

// number is how nf_tables has them.
func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func text(kind int, s string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(s)) }

func attribute(kind int) *nl.RtAttr { return nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil) }

func nested(kind int, children ...*nl.RtAttr) *nl.RtAttr {
	a := attribute(kind)
	for _, c := range children {
		a.AddChild(c)
	}
	return a
}

// batch has all of the messages done, or none. The kernel has answered when the request is sent.
func (l *leases) batch(all ...command) error {
	framed := slices.Concat([]command{{kind: unix.NFNL_MSG_BATCH_BEGIN}}, all, []command{{kind: unix.NFNL_MSG_BATCH_END}})
	var b []byte
	for n, m := range framed {
		head := []byte{m.family, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
		if m.kind == unix.NFNL_MSG_BATCH_BEGIN || m.kind == unix.NFNL_MSG_BATCH_END {
			binary.BigEndian.PutUint16(head[2:], unix.NFNL_SUBSYS_NFTABLES)
		} else {
			m.kind |= unix.NFNL_SUBSYS_NFTABLES << 8
		}
		if n == len(all) { // the last but the end
			m.flags |= unix.NLM_F_ACK
		}
		for _, a := range m.attributes {
			head = append(head, a.Serialize()...)
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(head)))
		b = binary.NativeEndian.AppendUint16(b, m.kind)
		b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|m.flags)
		b = append(b, make([]byte, 8)...) // no number, and the kernel's own sender
		b = append(b, head...)
	}
	fd := l.socket.GetFd()
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	var failed error
	for answer := make([]byte, unix.Getpagesize()); ; {
		n, _, err := unix.Recvfrom(fd, answer, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return failed
		}
		if err != nil {
			return err
		}
		if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
			continue
		}
		if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 && failed == nil {
			failed = unix.Errno(-code)
		}
	}
}
