package kept

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/twotier/twotier/services/internal/board"

	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

var vip = spec.MustParseVIP("10.10.60.22:80")

func table(scheduler spec.Scheduler, weights ...int) slots.Table {
	s := spec.Service{VIP: vip, Scheduler: scheduler}
	for i, w := range weights {
		s.Reals = append(s.Reals, spec.Real{Address: real(i), Weight: w})
	}
	return slots.Of(s)
}

func real(i int) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("192.168.60.%d:80", 71+i))
}

// dealt are connections as a table deals them.
func dealt(table slots.Table, n int) (flows []Flow) {
	for i := range n {
		f := Flow{Ends: Ends{Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 10, byte(60 + i/20000), 1}), uint16(20000+i%20000)), VIP: vip}}
		slot, _ := table.Slot(f.Client)
		f.Real = table.Slots[slot]
		flows = append(flows, f)
	}
	return flows
}

// Who is told of the strays finds all: the next look has nothing to tell. After a small change they are few.
func TestStraysAreToldOnce(t *testing.T) {
	const n = 10000
	before := table(spec.MH, 1, 2, 3)
	flows := dealt(before, n)
	for name, c := range map[string]struct {
		after       slots.Table
		least, most int
	}{
		"as it was":     {before, 0, 0},
		"a weight":      {table(spec.MH, 1, 2, 4), n / 20, n / 3},
		"one drained":   {table(spec.MH, 1, 2, 0), n * 45 / 100, n * 60 / 100},
		"one more":      {table(spec.MH, 1, 2, 3, 1), n / 10, n / 3},
		"all drained":   {table(spec.MH, 0, 0, 0), n, n},
		"another size":  {table(spec.MH, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), n / 2, n},
		"dealt in turn": {table(spec.RR, 1, 2, 4), 0, 0},
	} {
		tables := map[spec.VIP]slots.Table{vip: c.after}
		strays := Strays(flows, tables, nil)
		if len(strays) < c.least || len(strays) > c.most {
			t.Errorf("%s: %d strays of %d, want %d to %d", name, len(strays), n, c.least, c.most)
		}
		known := map[Ends]netip.AddrPort{}
		for _, f := range strays {
			known[f.Ends] = f.Real
		}
		if again := Strays(flows, tables, known); len(again) > 0 {
			t.Errorf("%s: %d strays although all are known", name, len(again))
		}
	}
	gone := Strays(flows[:1], nil, nil)
	if !slices.Equal(gone, flows[:1]) {
		t.Errorf("of a service that is gone: %v", gone)
	}
	wrong := map[Ends]netip.AddrPort{flows[0].Ends: real(9)}
	if again := Strays(flows[:1], map[spec.VIP]slots.Table{vip: before}, wrong); !slices.Equal(again, flows[:1]) {
		t.Errorf("what is known and wrong is not put right: %v", again)
	}
}

func TestNotes(t *testing.T) {
	flows := dealt(table(spec.MH, 1, 2, 3), 2*PerNote+1)
	for _, other := range []string{"10.10.60.22:80/udp", "[2001:db8::22]:80", "[2001:db8::22]:80/udp"} {
		f := Flow{Ends: Ends{Client: netip.MustParseAddrPort("10.10.60.9:9"), VIP: spec.MustParseVIP(other)}, Real: real(0)}
		if f.VIP.Is6() {
			f.Client, f.Real = netip.MustParseAddrPort("[2001:db8::9]:9"), netip.MustParseAddrPort("[2001:db8:60::78]:80")
		}
		flows = append(flows, f)
	}
	notes, err := Encode(flows)
	if err != nil || len(notes) != 3 {
		t.Fatalf("%d notes, %v", len(notes), err)
	}
	var read []Flow
	for _, note := range notes {
		part, err := Decode(note)
		if err != nil {
			t.Fatal(err)
		}
		read = append(read, part...)
	}
	by := func(a, b Flow) int { return cmp.Or(a.Client.Compare(b.Client), a.VIP.Compare(b.VIP)) }
	slices.SortFunc(flows, by)
	slices.SortFunc(read, by)
	if !slices.Equal(flows, read) {
		t.Errorf("read back: %d of %d", len(read), len(flows))
	}
	for _, bad := range []string{"", "[]", `{"":["10.0.0.1:1"]}`, `{"10.0.0.1:1":["10.0.0.1:1"]}`, `{"10.0.0.1:1 x":["10.0.0.1:1"]}`,
		`{"10.0.0.1:1 10.0.0.2:1":["10.0.0.1"]}`, `{"10.0.0.1:1 10.0.0.2:1":[""]}`, `{"10.0.0.1:1 10.0.0.2:1":7}`} {
		if flows, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, flows)
		}
	}
}

func TestNotesOfLoans(t *testing.T) {
	want := Lent{VIP: spec.MustParseVIP("[2001:db8::1]:53/udp")}
	for i := range 4093 {
		want.Loans = append(want.Loans, spec.Loan{Slot: i, To: real(i % 128)})
	}
	for _, loans := range [][]spec.Loan{want.Loans, nil} {
		want.Loans = loans
		note, err := EncodeLent(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, is, err := DecodeLent(note); !is || err != nil || got.VIP != want.VIP || !slices.Equal(got.Loans, loans) {
			t.Errorf("read back: %d of %d, %t, %v", len(got.Loans), len(loans), is, err)
		}
		if len(note) > board.MaxNote {
			t.Errorf("a note of a whole table has %d bytes", len(note))
		}
	}
	flows, err := Encode(dealt(table(spec.MH, 1), 3))
	if err != nil {
		t.Fatal(err)
	}
	if _, is, err := DecodeLent(flows[0]); is || err != nil {
		t.Errorf("a note of connections: %t, %v", is, err)
	}
	for bad, isOne := range map[string]bool{"": false, "[]": false, `{"lent":7}`: false, `{"lent":{"vip":"x"}}`: true, `{"lent":{"vip":"10.0.0.1:1","slots":{"x":[1]}}}`: false} {
		if got, is, err := DecodeLent([]byte(bad)); is != isOne || is && err == nil {
			t.Errorf("%q: %v, %t, %v", bad, got, is, err)
		}
	}
}
