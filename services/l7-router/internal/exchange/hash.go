package exchange

import (
	"bytes"

	"github.com/twotier/twotier/services/l7-router/internal/balance"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// hash takes out of a request what its backend balances by.
func (r *Request) hash(h *http1.Head) {
	b := &r.Backend.Spec.Balance
	switch b.Algorithm {
	case spec.Source:
		if address := r.asked.Client(); address.IsValid() {
			r.Hash, r.Hashed = balance.OfAddress(b, address), true
		}
	case spec.URI:
		r.Hash, r.Hashed = balance.OfTarget(b, h.Target()), true
	case spec.ByHeader:
		for i := range h.Fields() {
			if !http1.EqualFold(h.Name(i), b.Header) {
				continue
			}
			value, _, _ := bytes.Cut(h.Value(i), []byte{','})
			if value = http1.Trim(value); len(value) > 0 {
				r.Hash, r.Hashed = balance.OfText(b, value), true
			}
			return
		}
	}
}
