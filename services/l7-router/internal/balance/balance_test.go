package balance

import (
	"strings"
	"testing"
)

func sequence(t *Turns, n int) string {
	var b strings.Builder
	for range n {
		i := t.Next(nil)
		if i == None {
			b.WriteByte('-')
			continue
		}
		b.WriteByte(byte('A' + i))
	}
	return b.String()
}

func weights(w ...int) []Server {
	servers := make([]Server, len(w))
	for i := range w {
		servers[i] = Server{Weight: w[i], Usable: true}
	}
	return servers
}

func TestOrder(t *testing.T) {
	t.Parallel()
	backup := Server{Weight: 1, Backup: true, Usable: true}
	dead := Server{Weight: 1}
	tests := []struct {
		name    string
		servers []Server
		want    string // repeated without end
	}{
		{"1:1:1", weights(1, 1, 1), "ABC"},
		{"3:2:1", weights(3, 2, 1), "ABACAB"},
		{"5:1:1", weights(5, 1, 1), "AAABAAC"},
		{"equal large weights", weights(256, 256), "AB"},
		{"one", weights(7), "A"},
		{"heavier server last", weights(1, 3), "BBBA"},
		{"weight 0 has no turns", weights(1, 0, 1), "AC"},
		{"none", nil, "-"},
		{"all of weight 0", weights(0, 0), "-"},
		{"dead", []Server{dead, {Weight: 1, Usable: true}}, "B"},
		{"backups wait", append(weights(1, 1), backup), "AB"},
		{"the first backup takes all", []Server{dead, backup, backup}, "B"},
		{"a dead backup is passed over", []Server{dead, {Weight: 1, Backup: true}, backup}, "C"},
		{"a backup serves when the rest have weight 0", append(weights(0), backup), "B"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var turns Turns
			turns.Set(test.servers)
			want := strings.Repeat(test.want, 20)
			if got := sequence(&turns, len(want)); got != want {
				t.Errorf("got %s, want %s, servers %+v", got, want, test.servers)
			}
		})
	}
}

// TestShares checks that over any round of as many requests as the weights add up to, each server gets its weight.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, w := range [][]int{{1, 2, 3, 4}, {256, 1}, {100, 99, 98, 1}, {17, 5, 5, 3, 2}, {2, 2, 1}} {
		var turns Turns
		turns.Set(weights(w...))
		total := 0
		for _, x := range w {
			total += x
		}
		for round := range 3 {
			got := make([]int, len(w))
			for range total {
				got[turns.Next(nil)]++
			}
			for i := range w {
				if got[i] != w[i] {
					t.Errorf("weights %v, round %d: got %v", w, round, got)
					break
				}
			}
		}
	}
}

func TestTried(t *testing.T) {
	t.Parallel()
	var turns Turns
	turns.Set(append(weights(1, 1), Server{Weight: 1, Backup: true, Usable: true}))
	var tried []int
	var got []int
	for {
		i := turns.Next(tried)
		if i == None {
			break
		}
		got = append(got, i)
		tried = append(tried, i)
	}
	if len(got) != 3 || got[0] != 0 || got[1] != 1 || got[2] != 2 {
		t.Errorf("got %v, want each server once and the backup last", got)
	}
}

func TestServerComesBack(t *testing.T) {
	t.Parallel()
	var turns Turns
	servers := weights(1, 1, 1)
	turns.Set(servers)
	got := sequence(&turns, 4)
	servers[1].Usable = false
	turns.Set(servers)
	got += " " + sequence(&turns, 4)
	servers[1].Usable = true
	turns.Set(servers)
	got += " " + sequence(&turns, 6)
	// The one that was away gets its turns again, but does not make up for those it missed.
	if b := strings.Count(got[10:], "B"); b != 2 {
		t.Errorf("got %s: B had %d of the last 6 turns, want 2", got, b)
	}
	if strings.Contains(got[5:9], "B") {
		t.Errorf("got %s: B had a turn while it was away", got)
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	var turns Turns
	turns.Set(weights(3, 2, 1))
	if n := testing.AllocsPerRun(100, func() { turns.Next(nil) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
