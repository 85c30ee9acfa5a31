package stats

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts times in buckets of microseconds: 16 to each power of two, so that a bucket is at most 1/16 as wide as
// the times in it, and what is told from its middle is wrong by 1/32 (3.2 %) at most. It always has the same size, 3.6 KiB.
const (
	precision = 4 // bits
	perPower  = 1 << precision
	// longest is the exponent above which times are counted as the longest: 2^32 us are 71 minutes.
	longest = 32
	buckets = (longest-precision)*perPower + perPower
)

// Histogram is the distribution of a time. The zero value is ready.
type Histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Uint64 // microseconds
}

// bucket is where a time of so many microseconds is counted.
func bucket(us uint64) int {
	if us < perPower {
		return int(us)
	}
	power := bits.Len64(us) - 1
	if power >= longest {
		return buckets - 1
	}
	return (power-precision)*perPower + int(us>>(power-precision))
}

// bounds are the least time of a bucket and the least of the next, in microseconds.
func bounds(i int) (least, next uint64) {
	if i < perPower {
		return uint64(i), uint64(i) + 1
	}
	shift := i/perPower - 1
	mantissa := uint64(i%perPower + perPower)
	return mantissa << shift, (mantissa + 1) << shift
}

// Add counts a time.
func (h *Histogram) Add(d time.Duration) {
	us := uint64(max(d, 0) / time.Microsecond)
	h.counts[bucket(us)].Add(1)
	h.sum.Add(us)
}

// Distribution is a histogram as it was read.
type Distribution struct {
	counts [buckets]uint64
	// Count is how many times there are, Sum is their sum.
	Count uint64
	Sum   time.Duration
	// longest of all, when it is known more closely than by its bucket; 0: it is not.
	longest time.Duration
}

func (d *Distribution) add(h *Histogram) {
	for i := range d.counts {
		n := h.counts[i].Load()
		d.counts[i] += n
		d.Count += n
	}
	d.Sum += time.Duration(h.sum.Load()) * time.Microsecond
}

// Quantile is the time that the share q (0 to 1) of all did not exceed, right within 3.2 %; 0 when there are none.
func (d *Distribution) Quantile(q float64) time.Duration {
	if d.Count == 0 {
		return 0
	}
	rank := max(uint64(q*float64(d.Count)+0.5), 1)
	var seen uint64
	for i, n := range d.counts {
		if seen += n; seen >= rank {
			least, next := bounds(i)
			middle := time.Duration(least+next) * time.Microsecond / 2
			if d.longest > 0 {
				middle = min(middle, d.longest)
			}
			return middle
		}
	}
	return 0
}

// Below is how many were shorter than a time, which counts for the bucket that it falls in too.
func (d *Distribution) Below(limit time.Duration) (n uint64) {
	last := bucket(uint64(max(limit, 0) / time.Microsecond))
	for i := range last {
		n += d.counts[i]
	}
	if least, _ := bounds(last); time.Duration(least)*time.Microsecond < limit {
		n += d.counts[last]
	}
	return n
}
