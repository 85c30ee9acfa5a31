package stats

import (
	"math"
	"sync"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	t.Parallel()
	last := -1
	for us := uint64(0); us < 1<<34; us += 1 + us/97 {
		i := bucket(us)
		if i < last || i >= buckets {
			t.Fatalf("%d us: bucket %d after %d", us, i, last)
		}
		last = i
		least, next := bounds(i)
		if i == buckets-1 {
			continue
		}
		if us < least || us >= next {
			t.Fatalf("%d us: bucket %d holds %d to %d", us, i, least, next)
		}
		if us >= perPower && float64(next-least)/float64(least) > 1.0/perPower {
			t.Fatalf("bucket %d is too wide: %d to %d", i, least, next)
		}
	}
	if last != buckets-1 {
		t.Errorf("the last bucket is %d, want %d", last, buckets-1)
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	s := NewSet()
	for i := 1; i <= 10000; i++ {
		s.cells[i%len(s.cells)].total.Add(time.Duration(i) * 100 * time.Microsecond)
	}
	v := s.Values()
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999} {
		got, want := v.Total.Quantile(q).Seconds(), q
		if math.Abs(got-want)/want > 0.032 {
			t.Errorf("quantile %v: %v s, want %v s within 3.2 %%", q, got, want)
		}
	}
	if v.Total.Count != 10000 || v.Total.Sum != 50005000*100*time.Microsecond {
		t.Errorf("%d, sum %v", v.Total.Count, v.Total.Sum)
	}
	if n := v.Total.Below(500 * time.Millisecond); math.Abs(float64(n)-5000) > 5000*0.0625 {
		t.Errorf("below 500ms: %d, want about 5000", n)
	}
	var empty Distribution
	if empty.Quantile(0.5) != 0 || empty.Below(time.Hour) != 0 {
		t.Error("an empty distribution has times")
	}
}

func TestAverages(t *testing.T) {
	t.Parallel()
	s := NewSet()
	r := Record{Begun: 1, Head: 1, Assigned: 1, Connected: 1 + 2e6, Responded: 1 + 5e6}
	for range 10 {
		s.SettleTimes(0, &r, 1+9e6)
	}
	v := s.Values()
	want := [averages]time.Duration{0, 2 * time.Millisecond, 3 * time.Millisecond, 9 * time.Millisecond}
	for a := range want {
		if d := v.Average[a] - want[a]; d > 50*time.Microsecond || d < -50*time.Microsecond || v.Max[a] != want[a] {
			t.Errorf("%d: average %v max %v, want %v", a, v.Average[a], v.Max[a], want[a])
		}
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	s := NewSet()
	for _, r := range []Record{
		{Status: 200, BytesIn: 10, BytesOut: 100, Cause: CauseNone},
		{Status: 101, Cause: CauseNone},
		{Status: 503, Cause: CauseServer, Phase: PhaseConnect},
		{Status: 502, Cause: CauseServer, Phase: PhaseHeaders},
		{Status: 200, Cause: CauseServer, Phase: PhaseData},
		{Status: 999, Cause: CauseClient, Phase: PhaseData},
		{Cause: CauseClientTimeout, Phase: PhaseRequest},
	} {
		s.Settle(1, &r, 0)
	}
	v := s.Values()
	want := map[Counter]uint64{
		BytesIn: 10, BytesOut: 100, Status1xx: 1, Status2xx: 2, Status5xx: 2, StatusOther: 1,
		ResponseErrors: 1, ServerAborts: 1, ClientAborts: 2,
	}
	for c := range counters {
		if v.Count(c) != want[c] {
			t.Errorf("counter %d: %d, want %d", c, v.Count(c), want[c])
		}
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	s := NewSet()
	now := time.Unix(1000, 0)
	for _, step := range []struct{ add, rate, max uint64 }{{5, 5, 5}, {2, 2, 5}, {0, 0, 5}, {9, 9, 9}} {
		s.Add(0, Sessions, step.add)
		s.Tick(now)
		if v := s.Values(); v.SessionRate != step.rate || v.SessionRateMax != step.max {
			t.Errorf("%+v: got %d %d", step, v.SessionRate, v.SessionRateMax)
		}
		now = now.Add(time.Second)
	}
	if last := s.Values().Last; !last.Equal(time.Unix(1003, 0)) {
		t.Errorf("last %v", last)
	}
}

// TestManyWriters: nothing is lost, whoever adds where.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	s := NewSet()
	r := Record{Begun: 1, Head: 1, Assigned: 1, Connected: 1, Responded: 2, Status: 200, BytesOut: 3, Cause: CauseNone}
	var group sync.WaitGroup
	for shard := range 6 {
		group.Go(func() {
			for range 1000 {
				s.Enter()
				s.Settle(shard, &r, 3)
				s.SettleTimes(shard, &r, 3)
				s.Leave()
			}
		})
	}
	for range 100 {
		s.Values()
	}
	group.Wait()
	v := s.Values()
	if v.Count(Status2xx) != 6000 || v.Count(BytesOut) != 18000 || v.Total.Count != 6000 || v.Current != 0 || v.Peak < 1 || v.Peak > 6 {
		t.Errorf("%d %d %d current %d peak %d", v.Count(Status2xx), v.Count(BytesOut), v.Total.Count, v.Current, v.Peak)
	}
}

// BenchmarkSettle is what a request costs: its frontend, its backend and its server.
func BenchmarkSettle(b *testing.B) {
	frontend, backend, server := NewSet(), NewSet(), NewSet()
	r := Record{Begun: 1, Head: 1, Assigned: 1, Connected: 1, Responded: 200e3, Status: 200, BytesIn: 80, BytesOut: 170, Cause: CauseNone}
	b.ReportAllocs()
	for b.Loop() {
		frontend.Enter()
		frontend.Settle(0, &r, 210e3)
		frontend.Leave()
		for _, s := range [...]*Set{backend, server} {
			s.Enter()
			s.Settle(0, &r, 210e3)
			s.SettleTimes(0, &r, 210e3)
			s.Leave()
		}
	}
}
