package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is good when one query over UDP is answered without error (RFC 1035 section 4.1.1, RCODE 0).
type DNS struct {
	// Address is HOST:PORT of the name server.
	Address string
	// Name to ask for. Default: the root.
	Name string
	// Type of the record. Default SOA.
	Type dnsmessage.Type
}

// Probe asks once.
func (p DNS) Probe(ctx context.Context) error {
	name, err := dnsmessage.NewName(strings.TrimSuffix(p.Name, ".") + ".")
	if err != nil {
		return fmt.Errorf("name %q: %w", p.Name, err)
	}
	kind := p.Type
	if kind == 0 {
		kind = dnsmessage.TypeSOA
	}
	id := uint16(rand.Uint32())
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return fmt.Errorf("name %q: %w", p.Name, err)
	}
	answer, err := exchange(ctx, p.Address, packed)
	if err != nil {
		return err
	}
	var parser dnsmessage.Parser
	header, err := parser.Start(answer)
	switch {
	case err != nil:
		return fmt.Errorf("the answer is not DNS: %w", err)
	case header.ID != id || !header.Response:
		return fmt.Errorf("the answer is to another question")
	case header.RCode != dnsmessage.RCodeSuccess:
		return fmt.Errorf("%s %s: %s", strings.TrimPrefix(kind.String(), "Type"), name, strings.TrimPrefix(header.RCode.String(), "RCode"))
	}
	return nil
}
