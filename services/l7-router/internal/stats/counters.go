// Package stats holds what is counted: for each frontend, backend and server a Set, to which every loop adds in a shard of
// its own, and the Record of one request from which the sets get it. Pure: the clock is the caller's.
package stats

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Counter names one of the counters of a Set. The names in brackets are those of HAProxy's CSV (management guide,
// section 9.1).
type Counter uint8

// The counters.
const (
	Sessions       Counter = iota // connections of a frontend, requests of a backend or server [stot]
	Requests                      // requests [req_tot]
	BytesIn                       // bytes from clients [bin]
	BytesOut                      // bytes to clients [bout]
	DeniedRequests                // requests refused by a rule [dreq]
	RequestErrors                 // requests that could not be read, timed out or whose client went away before [ereq]
	ConnectErrors                 // connections to servers that failed [econ]
	ResponseErrors                // responses that could not be read or ended too early [eresp]
	Retries                       // connections tried again [wretr]
	Redispatches                  // requests sent to another server than the one chosen first [wredis]
	Status1xx                     // final responses by class [hrsp_1xx]; 101 is one
	Status2xx                     // [hrsp_2xx]
	Status3xx                     // [hrsp_3xx]
	Status4xx                     // [hrsp_4xx]
	Status5xx                     // [hrsp_5xx]
	StatusOther                   // [hrsp_other]
	Balanced                      // requests for which a server was chosen by turns, not by its cookie [lbtot]
	ClientAborts                  // transfers that the client ended [cli_abrt]
	ServerAborts                  // transfers that the server ended [srv_abrt]
	Connects                      // connections made to servers [connect]
	Reuses                        // requests over a connection that had been idle [reuse]
	Intercepted                   // requests answered by the router itself [intercepted]
	counters
)

// Average names a time of which a Set keeps the average of the last 1024 requests.
type Average uint8

// The averages.
const (
	Queue    Average = iota // waiting for a server [qtime]
	Connect                 // connecting to it [ctime]
	Response                // from there to its response's head [rtime]
	Total                   // from the request's first byte to the response's last [ttime]
	averages
)

// window is over how many requests an average reaches (HAProxy: TIME_STATS_SAMPLES).
const window = 1024

// maxShards bounds the memory that a Set takes.
const maxShards = 8

// shards is a power of two, so that any number can be folded to a shard.
var shards = func() int {
	n := 1
	for n < runtime.NumCPU() && n < maxShards {
		n *= 2
	}
	return n
}()

// Shards is how many shards a Set has.
func Shards() int { return shards }

// cell is one shard of a Set.
type cell struct {
	counts [counters]atomic.Uint64
	// sums hold the averages times window, in microseconds; maxima are in microseconds.
	sums, maxima [averages]atomic.Uint64
	samples      atomic.Uint64
	response     Histogram
	total        Histogram
	_            [64]byte // the next cell is another loop's
}

// Set is what is counted of one frontend, backend or server. Everything may be called from any goroutine; a shard that
// only one loop adds to is never waited for. A nil Set counts nothing.
type Set struct {
	cells []cell

	current, peak atomic.Int64
	rates         [2]rate // of Sessions and of Requests
	last          atomic.Int64
}

// rate is what the last second has brought; it is taken once a second, so it costs a request nothing.
type rate struct {
	seen         uint64 // only Tick uses it
	current, max atomic.Uint64
}

// NewSet makes a set of zeros.
func NewSet() *Set { return &Set{cells: make([]cell, shards)} }

func (s *Set) cell(shard int) *cell { return &s.cells[shard&(len(s.cells)-1)] }

// Add adds n to a counter.
func (s *Set) Add(shard int, c Counter, n uint64) {
	if s != nil {
		s.cell(shard).counts[c].Add(n)
	}
}

// Enter counts a connection or a request as under way; Leave must follow.
func (s *Set) Enter() {
	if s != nil {
		s.Peak(s.current.Add(1))
	}
}

// Leave ends what Enter began.
func (s *Set) Leave() {
	if s != nil {
		s.current.Add(-1)
	}
}

// Current is how many are under way.
func (s *Set) Current() int64 {
	if s == nil {
		return 0
	}
	return s.current.Load()
}

// Peak notes how many were under way at a time.
func (s *Set) Peak(n int64) {
	for {
		peak := s.peak.Load()
		if n <= peak || s.peak.CompareAndSwap(peak, n) {
			return
		}
	}
}

// average adds a time to an average: each request weighs 1/1024 of what was before.
func (c *cell) average(a Average, d time.Duration) {
	v := uint64(max(d, 0) / time.Microsecond)
	for {
		sum := c.sums[a].Load()
		if c.sums[a].CompareAndSwap(sum, sum-sum/window+v) {
			break
		}
	}
	for {
		most := c.maxima[a].Load()
		if v <= most || c.maxima[a].CompareAndSwap(most, v) {
			return
		}
	}
}

// Tick takes the rates; it has to be called once a second, by one goroutine. now is when.
func (s *Set) Tick(now time.Time) {
	for i, c := range [...]Counter{Sessions, Requests} {
		r := &s.rates[i]
		n := s.sum(c)
		r.current.Store(n - r.seen)
		if n != r.seen {
			s.last.Store(now.Unix())
		}
		r.max.Store(max(r.max.Load(), n-r.seen))
		r.seen = n
	}
}

func (s *Set) sum(c Counter) uint64 {
	var n uint64
	for i := range s.cells {
		n += s.cells[i].counts[c].Load()
	}
	return n
}

// Values are what a set has counted so far.
type Values struct {
	Counts [counters]uint64
	// Current is how many connections or requests are under way, Peak the most there have been at a time.
	Current, Peak int64
	// SessionRate and RequestRate are those of the last second, and the highest there have been.
	SessionRate, SessionRateMax, RequestRate, RequestRateMax uint64
	// Average and Max of the times.
	Average, Max [averages]time.Duration
	// Response and Total are the distributions of the times of the same names.
	Response, Total Distribution
	// Last is when something was last counted; zero: never.
	Last time.Time
}

// Count returns one counter.
func (v *Values) Count(c Counter) uint64 { return v.Counts[c] }

// Values adds the shards up. Counters that move meanwhile may be told one request apart.
func (s *Set) Values() Values {
	v := Values{
		Current: max(s.current.Load(), 0), Peak: s.peak.Load(),
		SessionRate: s.rates[0].current.Load(), SessionRateMax: s.rates[0].max.Load(),
		RequestRate: s.rates[1].current.Load(), RequestRateMax: s.rates[1].max.Load(),
	}
	if last := s.last.Load(); last != 0 {
		v.Last = time.Unix(last, 0)
	}
	var weights, times [averages]float64
	for i := range s.cells {
		c := &s.cells[i]
		for n := range v.Counts {
			v.Counts[n] += c.counts[n].Load()
		}
		samples := c.samples.Load()
		for a := range averages {
			// At first a sum holds fewer requests than the window.
			if samples > 0 {
				weights[a] += float64(samples)
				times[a] += float64(c.sums[a].Load()) / float64(min(samples, window)) * float64(samples)
			}
			v.Max[a] = max(v.Max[a], time.Duration(c.maxima[a].Load())*time.Microsecond)
		}
		v.Response.add(&c.response)
		v.Total.add(&c.total)
	}
	v.Response.longest, v.Total.longest = v.Max[Response], v.Max[Total]
	for a := range averages {
		if weights[a] > 0 {
			v.Average[a] = time.Duration(times[a] / weights[a] * float64(time.Microsecond))
		}
	}
	return v
}
