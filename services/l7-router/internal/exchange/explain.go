package exchange

import (
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// Explanation says what would become of a request, were it to come now.
type Explanation struct {
	// Asked are the rules that are asked, in their order.
	Asked []Asked
	// Rule is the index of the one that decides, or route.NoRule.
	Rule int
	// Client is who the client is taken for; the zero Addr: nobody knows. Trusted says whether the sender of the connection is
	// a trusted hop.
	Client  netip.Addr
	Trusted bool
	// Answer is what the router answers itself; nil: a server does.
	Answer *Answer
	// Page says that the statistics page takes the request, before any rule is asked.
	Page bool
	// Backend takes the request, when there is one. Head is what a server gets.
	Backend *pool.Backend
	Head    []byte
	// Server is the one that gets it; nil: none can, or it waits for whoever is free first. Named is the one that the
	// client's cookie names, if that is usable.
	Server, Named *pool.Server
}

// Asked is a rule that was asked.
type Asked struct {
	Rule  int
	Holds bool
	// Missing is the field of the condition that does not hold.
	Missing string
}

// Explain decides about a request as Begin and Next do, by the same code, and changes nothing: it is not counted, and no
// server loses its turn.
func Explain(f *Frontend, h *http1.Head, c *Client) *Explanation {
	e := &Explanation{}
	var r Request
	r.decide(f, h, c, func(rule int, holds bool, missing string) {
		if holds {
			missing = ""
		}
		e.Asked = append(e.Asked, Asked{rule, holds, missing})
	})
	if r.Answer == nil {
		r.appendHead(&f.Spec.Forwarded, h, c)
		e.Server, e.Named = r.Backend.Peek(&r.Ticket), r.Named
	}
	e.Rule, e.Client, e.Trusted = r.decision.Rule, r.asked.Client(), r.asked.Trusted()
	e.Page = r.Backend != nil && r.Backend == f.page(h)
	e.Answer, e.Backend, e.Head = r.Answer, r.Backend, slices.Clone(r.Head)
	return e
}
