package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"

	nft "github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ask sends one request about the tables of a family to nf_tables and returns the answers. The library has no call for it.
func ask(family nft.TableFamily, kind, flags int, attributes []netlink.Attribute) (answers []netlink.Message, err error) {
	door, err := openDoor()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, door.Close()) }()
	message, err := request(family, kind, flags, attributes...)
	if err != nil {
		return nil, err
	}
	return door.ask(message)
}

// request is a message to nf_tables about the tables of a family. It begins with struct nfgenmsg of
// include/uapi/linux/netfilter/nfnetlink.h: family, version, and no resource.
func request(family nft.TableFamily, kind, flags int, attributes ...netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attributes)
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.HeaderFlags(flags),
		},
		Data: append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	}, err
}

// headerSize is that of struct nfgenmsg, before the attributes of an answer.
const headerSize = 4

// generation is the number of the rules of this network namespace (NFT_MSG_GETGEN): each transaction makes another,
// whoever's tables it changes. Counters do not.
func generation() (uint32, error) {
	answers, err := ask(nft.TableFamilyUnspecified, unix.NFT_MSG_GETGEN, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of the rules: %w", err)
	}
	for _, m := range answers {
		attributes, err := netlink.NewAttributeDecoder(m.Data[min(headerSize, len(m.Data)):])
		if err != nil {
			return 0, fmt.Errorf("read the generation of the rules: %w", err)
		}
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID && len(attributes.Bytes()) == 4 {
				return binary.BigEndian.Uint32(attributes.Bytes()), nil
			}
		}
	}
	return 0, errors.New("the kernel does not tell the generation of the rules")
}

// counters reads how many packets the counter of each chain of the table of a family has seen, in one listing.
func counters(family nft.TableFamily) (map[string]uint64, error) {
	answers, err := ask(family, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(TableName + "\x00")}})
	if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	all := map[string]uint64{}
	for _, m := range answers {
		attributes, err := netlink.NewAttributeDecoder(m.Data[min(headerSize, len(m.Data)):])
		if err != nil {
			return nil, fmt.Errorf("read a counter: %w", err)
		}
		chain, packets, counts := "", uint64(0), false
		for attributes.Next() {
			switch attributes.Type() {
			case unix.NFTA_RULE_CHAIN:
				chain = attributes.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				attributes.Nested(func(list *netlink.AttributeDecoder) error {
					for list.Next() {
						list.Nested(func(e *netlink.AttributeDecoder) error {
							if n, ok := counter(e); ok {
								packets, counts = n, true
							}
							return nil
						})
					}
					return nil
				})
			}
		}
		if err := attributes.Err(); err != nil {
			return nil, fmt.Errorf("read the counter of chain %s: %w", chain, err)
		}
		if counts {
			all[chain] = packets
		}
	}
	return all, nil
}

// counter reads an expression if it is a counter.
func counter(e *netlink.AttributeDecoder) (packets uint64, ok bool) {
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_EXPR_NAME:
			if e.String() != "counter" {
				return 0, false
			}
		case unix.NFTA_EXPR_DATA:
			e.Nested(func(data *netlink.AttributeDecoder) error {
				for data.Next() {
					if b := data.Bytes(); data.Type() == unix.NFTA_COUNTER_PACKETS && len(b) == 8 {
						packets, ok = binary.BigEndian.Uint64(b), true
					}
				}
				return nil
			})
		}
	}
	return packets, ok
}
