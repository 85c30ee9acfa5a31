package kept

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Lent is what the director that holds a VIP tells the others of its loans: they deal by the same table then.
type Lent struct {
	VIP   spec.VIP
	Loans []spec.Loan
}

// lentNote is a note of them, beside which there is nothing in it.
type lentNote struct {
	Lent *lentWords `json:"lent"`
}

type lentWords struct {
	VIP string `json:"vip"`
	// Slots by who has them.
	Slots map[netip.AddrPort][]int `json:"slots"`
}

// EncodeLent writes a note. One of a whole table has some 20 KiB.
func EncodeLent(l Lent) ([]byte, error) {
	words := lentWords{VIP: l.VIP.String(), Slots: map[netip.AddrPort][]int{}}
	for _, loan := range l.Loans {
		words.Slots[loan.To] = append(words.Slots[loan.To], loan.Slot)
	}
	return json.Marshal(lentNote{&words})
}

// DecodeLent reads a note; false: it is one of connections, for Decode. Whether there are such slots is for slots.Fit.
func DecodeLent(note []byte) (l Lent, is bool, err error) {
	var n lentNote
	if err := json.Unmarshal(note, &n); err != nil || n.Lent == nil {
		return l, false, nil
	}
	if l.VIP, err = spec.ParseVIP(n.Lent.VIP); err != nil {
		return l, true, err
	}
	for to, all := range n.Lent.Slots {
		for _, slot := range all {
			l.Loans = append(l.Loans, spec.Loan{Slot: slot, To: to})
		}
	}
	slices.SortFunc(l.Loans, func(a, b spec.Loan) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), a.To.Compare(b.To)) })
	return l, true, nil
}
