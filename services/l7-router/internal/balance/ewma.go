package balance

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// decay is how long a server's slowness is remembered: after it, a part of 1/e counts.
const decay = 10 * time.Second

// Latency is how long a server takes to answer: the peak counts at once, better times only as the peak is forgotten (peak
// EWMA, as in Finagle). Its zero value has seen nothing. Any goroutine may use it.
type Latency struct {
	// state is the latency in microseconds as a float32, and above it when, in milliseconds.
	state atomic.Uint64
}

func (l *Latency) at(state uint64, now int64) float64 {
	value := float64(math.Float32frombits(uint32(state)))
	if value == 0 {
		return 0
	}
	passed := int32(uint32(now/int64(time.Millisecond)) - uint32(state>>32))
	return value * math.Exp(-float64(max(passed, 0))/float64(decay/time.Millisecond))
}

// Observe counts an answer that took d, at now in nanoseconds since some moment.
func (l *Latency) Observe(d time.Duration, now int64) {
	took := max(float64(d)/float64(time.Microsecond), 1)
	for {
		old := l.state.Load()
		value := took
		if old != 0 {
			before := float64(math.Float32frombits(uint32(old)))
			passed := int32(uint32(now/int64(time.Millisecond)) - uint32(old>>32))
			keep := math.Exp(-float64(max(passed, 0)) / float64(decay/time.Millisecond))
			value = max(took, before*keep+took*(1-keep))
		}
		if l.state.CompareAndSwap(old, uint64(math.Float32bits(float32(value)))|uint64(uint32(now/int64(time.Millisecond)))<<32) {
			return
		}
	}
}

// Value returns what counts at a time in nanoseconds; 0: nothing is known.
func (l *Latency) Value(now int64) time.Duration {
	return time.Duration(l.at(l.state.Load(), now) * float64(time.Microsecond))
}

// PeakEWMA draws two servers by their weights and takes the one that is expected to answer first: its latency, times the
// requests there would be under way. A server that has become slow is left at once and tried again as its slowness is
// forgotten. A server of which nothing is known counts as fast while it is idle, and as slow while its first answers are out.
type PeakEWMA struct{ draws }

func newPeakEWMA() *PeakEWMA {
	p := &PeakEWMA{}
	p.random = *rand.NewPCG(rand.Uint64(), rand.Uint64())
	return p
}

// Set tells the servers.
func (p *PeakEWMA) Set(servers []Server) { p.set(servers) }

// Next chooses a server.
func (p *PeakEWMA) Next(q *Query) int { return p.choose(&p.random, q) }

// Peek returns what Next would.
func (p *PeakEWMA) Peek(q *Query) int {
	random := p.random
	return p.choose(&random, q)
}

func (p *PeakEWMA) choose(random *rand.PCG, q *Query) int {
	a, b := p.two(random, q)
	if b != None && cost(&p.servers[b], q.Now) < cost(&p.servers[a], q.Now) {
		return b
	}
	return a
}

// unknown is what a request under way counts as long as the server has answered none, in microseconds.
const unknown = 1e9

// cost is what one more request is expected to take, for the server's weight.
func cost(s *Server, now int64) float64 {
	active := float64(s.Load.Active.Load())
	latency := s.Load.Latency.at(s.Load.Latency.state.Load(), now)
	if latency == 0 {
		return active * unknown / float64(s.Weight)
	}
	return latency * (active + 1) / float64(s.Weight)
}
