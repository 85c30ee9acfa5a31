// Package route says what becomes of a request: which rule decides about it, which edits it meets on its way there, and who its
// client is. It is pure, and allocates nothing.
package route

import (
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Decision is what the rules of a frontend make of a request. It is reused: Decide sets everything.
type Decision struct {
	// Rule is the index of the rule that decides, NoRule: none does, and the frontend's default backend takes the request.
	Rule int
	// Backend is the name of the backend that takes the request, empty when none does.
	Backend string
	// Deny and Redirect say that the router answers itself; at most one is set.
	Deny     *spec.Deny
	Redirect *spec.Redirect
	// Edits that the request meets, in their order.
	Edits []*spec.Edit

	few [4]*spec.Edit
}

// NoRule stands for the default backend.
const NoRule = -1

// Trace is told of each rule that is asked whether it holds and, if not, what is missing: the path of the field of its
// condition that does not hold.
type Trace func(rule int, holds bool, missing string)

// Decide asks the rules in their order. Edits add up; the first other rule that holds decides, whether its backend has a
// living server or not (HAProxy: http-request, use_backend). Conditions look at the request as the client has sent it. trace
// may be nil.
func (d *Decision) Decide(f *spec.Frontend, r *Request, trace Trace) {
	d.Rule, d.Backend, d.Deny, d.Redirect, d.Edits = NoRule, f.DefaultBackend, nil, nil, d.few[:0]
	for i := range f.Rules {
		rule := &f.Rules[i]
		holds := r.holds(rule)
		if trace != nil {
			trace(i, holds, r.missing)
		}
		switch {
		case !holds:
		case rule.Edit != nil:
			d.Edits = append(d.Edits, rule.Edit)
		default:
			d.Rule, d.Backend, d.Deny, d.Redirect = i, rule.Backend, rule.Deny, rule.Redirect
			return
		}
	}
}

// holds reports whether the condition of a rule holds. One that denies is to hold whichever way a server may read the path.
func (r *Request) holds(rule *spec.Rule) bool {
	if r.condition(&rule.Condition, spec.PathSent) {
		return true
	}
	if rule.Deny == nil || r.plain() {
		return false
	}
	return r.condition(&rule.Condition, spec.PathNormalised) || r.condition(&rule.Condition, spec.PathDecoded)
}
