package balance

import (
	"slices"
	"strings"
	"testing"
)

// sequence asks an algorithm n times, and each time what it would say.
func sequence(t *testing.T, a Algorithm, n int) string {
	t.Helper()
	var b strings.Builder
	var q Query
	for range n {
		announced := a.Peek(&q)
		i := a.Next(&q)
		if announced != i {
			t.Fatalf("after %s: Peek %d, Next %d", b.String(), announced, i)
		}
		if i == None {
			b.WriteByte('-')
			continue
		}
		b.WriteByte(byte('A' + i))
	}
	return b.String()
}

func server(i, weight int) Server {
	return Server{Name: string(rune('A' + i)), Base: weight, Weight: weight * Scale, Load: new(Load)}
}

func weights(w ...int) []Server {
	servers := make([]Server, len(w))
	for i := range w {
		servers[i] = server(i, w[i])
	}
	return servers
}

// TestOrder: see also proxytest, where HAProxy itself is asked.
func TestOrder(t *testing.T) {
	t.Parallel()
	roundrobin := func() Algorithm { return new(RoundRobin) }
	static := func() Algorithm { return new(StaticRR) }
	tests := []struct {
		name      string
		algorithm func() Algorithm
		servers   []Server
		want      string // repeated without end
	}{
		{"1:1:1", roundrobin, weights(1, 1, 1), "ABC"},
		{"3:2:1", roundrobin, weights(3, 2, 1), "ABACAB"},
		{"5:1:1", roundrobin, weights(5, 1, 1), "AAABAAC"},
		{"equal large weights", roundrobin, weights(256, 256), "AB"},
		{"one", roundrobin, weights(7), "A"},
		{"heavier server last", roundrobin, weights(1, 3), "BBBA"},
		{"weight 0 has no turns", roundrobin, weights(1, 0, 1), "AC"},
		{"none", roundrobin, nil, "-"},
		{"all of weight 0", roundrobin, weights(0, 0), "-"},
		{"static, 1:1:1", static, weights(1, 1, 1), "ABC"},
		{"static, what weights have in common", static, weights(4, 2), "AAB"},
		{"static, weight 0", static, weights(1, 0, 1), "AC"},
		{"static, none", static, nil, "-"},
		{"first", func() Algorithm { return new(First) }, weights(1, 1), "A"},
		{"first, weight 0", func() Algorithm { return new(First) }, weights(0, 1), "B"},
		{"map without a hash", func() Algorithm { return new(Map) }, weights(1, 1), "AB"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := test.algorithm()
			a.Set(test.servers)
			want := strings.Repeat(test.want, 20)
			if got := sequence(t, a, len(want)); got != want {
				t.Errorf("got %s, want %s, servers %+v", got, want, test.servers)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	t.Parallel()
	one := func(weight int, flags string) Candidate {
		return Candidate{Server: server(0, weight), Backup: strings.Contains(flags, "b"), Usable: !strings.Contains(flags, "d")}
	}
	tests := []struct {
		name string
		all  bool
		in   []Candidate
		want string // who takes requests
	}{
		{"dead", false, []Candidate{one(1, "d"), one(1, "")}, "B"},
		{"backups wait", false, []Candidate{one(1, ""), one(1, "b")}, "A"},
		{"the first backup takes all", false, []Candidate{one(1, "d"), one(1, "b"), one(1, "b")}, "B"},
		{"every backup", true, []Candidate{one(1, "d"), one(1, "b"), one(1, "b")}, "BC"},
		{"a dead backup is passed over", false, []Candidate{one(1, "d"), one(1, "bd"), one(1, "b")}, "C"},
		{"a backup of weight 0 is passed over", false, []Candidate{one(1, "d"), one(0, "b"), one(1, "b")}, "C"},
		{"a backup serves when the rest have weight 0", false, []Candidate{one(0, ""), one(1, "b")}, "B"},
		{"nobody", false, []Candidate{one(1, "d"), one(0, "")}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := ""
			for i, s := range Candidates(test.in, test.all) {
				if s.Weight > 0 {
					got += string(rune('A' + i))
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestShares checks that over any round of as many requests as the weights add up to, each server gets its weight.
func TestShares(t *testing.T) {
	t.Parallel()
	for _, a := range []Algorithm{new(RoundRobin), new(StaticRR)} {
		for _, w := range [][]int{{1, 2, 3, 4}, {256, 1}, {100, 99, 98, 1}, {17, 5, 5, 3, 2}, {2, 2, 1}} {
			a.Set(nil)
			a.Set(weights(w...))
			total := 0
			for _, x := range w {
				total += x
			}
			for round := range 3 {
				got := make([]int, len(w))
				for range total {
					got[a.Next(&Query{})]++
				}
				if !slices.Equal(got, w) {
					t.Errorf("%T, weights %v, round %d: got %v", a, w, round, got)
				}
			}
		}
	}
}

func TestServerComesBack(t *testing.T) {
	t.Parallel()
	var turns RoundRobin
	servers := weights(1, 1, 1)
	turns.Set(servers)
	got := sequence(t, &turns, 4)
	turns.Set(weights(1, 0, 1))
	got += " " + sequence(t, &turns, 4)
	turns.Set(servers)
	got += " " + sequence(t, &turns, 6)
	// The one that was away gets its turns again, but does not make up for those it missed.
	if b := strings.Count(got[10:], "B"); b != 2 {
		t.Errorf("got %s: B had %d of the last 6 turns, want 2", got, b)
	}
	if strings.Contains(got[5:9], "B") {
		t.Errorf("got %s: B had a turn while it was away", got)
	}
}
