package slots

import (
	"hash/fnv"
	"math"
	"net/netip"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

var vip = spec.MustParseVIP("10.10.60.22:80")

// shares counts the slots of each real server.
func shares(table []netip.AddrPort) map[netip.AddrPort]int {
	count := map[netip.AddrPort]int{}
	for _, real := range table {
		count[real]++
	}
	return count
}

func TestMaglevSharesFollowTheWeights(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]int{{1}, {1, 1, 1}, {3, 1}, {5, 0, 2, 1}, {100, 99, 98}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}} {
		reals := weighted(weights...)
		table := maglev(reals)
		total := 0
		for _, w := range weights {
			total += w
		}
		count := shares(table)
		for i, r := range reals {
			want := float64(len(table)) * float64(weights[i]) / float64(total)
			if math.Abs(float64(count[r.Address])-want) > 2 {
				t.Errorf("weights %v: real server %d has %d of %d slots, want %.1f", weights, i, count[r.Address], len(table), want)
			}
		}
	}
}

func TestMaglevGivesTheLightestASlot(t *testing.T) {
	t.Parallel()
	reals := weighted(spec.MaxWeight, 1, 0)
	count := shares(maglev(reals))
	if count[reals[1].Address] != 1 || count[reals[2].Address] != 0 {
		t.Errorf("weights 65535, 1, 0 have %v slots", count)
	}
	if len(maglev(weighted(0, 0))) != 0 || len(maglev(nil)) != 0 {
		t.Error("a table without takers has slots")
	}
}

// TestMaglevMovesFew: what a change moves that it need not move is a small part of the table. The paper's figure 12 shows
// some per cent for tables of about a hundred slots for each server.
func TestMaglevMovesFew(t *testing.T) {
	t.Parallel()
	before := maglev(weighted(1, 1, 1, 1, 1, 1, 1, 1, 1, 1))
	for name, weights := range map[string][]int{
		"one goes":      {1, 1, 1, 0, 1, 1, 1, 1, 1, 1},
		"one comes":     {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		"one is halved": {2, 2, 2, 1, 2, 2, 2, 2, 2, 2},
	} {
		now := maglev(weighted(weights...))
		gained, lost, moved := shares(now), shares(before), 0
		for i := range before {
			if before[i] != now[i] {
				moved++
			}
		}
		needed := 0
		for real, n := range gained {
			needed += max(0, n-lost[real])
		}
		if extra := moved - needed; extra > len(before)*6/100 {
			t.Errorf("%s: %d of %d slots moved, %d were needed", name, moved, len(before), needed)
		}
	}
}

// TestTablesAreForEver: a director takes over from one of an older version, so the tables must not change with the program.
func TestTablesAreForEver(t *testing.T) {
	t.Parallel()
	for scheduler, want := range map[spec.Scheduler]uint64{spec.SH: 0x7ffe00cfdf58791a, spec.MH: 0x7ffe00cfdf58791a, spec.WLC: 0x7ffe00cfdf58791a} {
		table := Of(spec.Service{VIP: vip, Scheduler: scheduler, Reals: weighted(3, 0, 2)})
		h := fnv.New64a()
		for _, real := range table.Slots {
			_, _ = h.Write(bytesOf(real))
		}
		if got := h.Sum64() ^ uint64(table.Seed); got != want {
			t.Errorf("%s: the table is another one: %#x, want %#x", scheduler, got, want)
		}
	}
}

func TestChoice(t *testing.T) {
	t.Parallel()
	reals := weighted(5, 1, 1)
	for scheduler, want := range map[spec.Scheduler]Choice{
		spec.RR: InTurn, spec.WRR: InTurn, spec.LC: ByConnection, spec.WLC: ByConnection, spec.SH: BySource, spec.MH: ByConnection,
	} {
		table := Of(spec.Service{VIP: vip, Scheduler: scheduler, Reals: reals})
		if table.Choice != want {
			t.Errorf("%s: choice %d, want %d", scheduler, table.Choice, want)
		}
		if n := shares(table.Slots); !scheduler.Weighs() && n[reals[0].Address] > n[reals[1].Address]+1 {
			t.Errorf("%s: the heavy one has more of the table: %v", scheduler, n)
		}
		client := netip.MustParseAddrPort("10.10.60.1:40000")
		other := netip.MustParseAddrPort("10.10.60.1:40001")
		a, ok := table.Slot(client)
		b, _ := table.Slot(other)
		if ok != (want != InTurn) || want == BySource && a != b {
			t.Errorf("%s: slots %d and %d, %t", scheduler, a, b, ok)
		}
	}
}

// That it is the hash of the kernel is seen by the tests of the plane, which send real packets.
func TestJhashMixesEveryByte(t *testing.T) {
	t.Parallel()
	for length := range 30 {
		key := make([]byte, length)
		plain := jhash(key, 1)
		for i := range key {
			key[i] ^= 0x80
			if jhash(key, 1) == plain {
				t.Errorf("length %d: byte %d does not count", length, i)
			}
			key[i] ^= 0x80
		}
		if jhash(key, 2) == plain && length > 0 {
			t.Errorf("length %d: the initial value does not count", length)
		}
	}
}
