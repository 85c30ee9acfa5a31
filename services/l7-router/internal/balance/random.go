package balance

import "math/rand/v2"

// draws picks servers at random, each as often as its weight says.
type draws struct {
	servers []Server
	random  rand.PCG
	total   int
}

func (d *draws) set(servers []Server) {
	d.servers, d.total = servers, 0
	for i := range servers {
		d.total += servers[i].Weight
	}
}

// two picks two different servers that can take the request; b is None when there is one only.
func (d *draws) two(random *rand.PCG, q *Query) (a, b int) {
	total := 0
	for i := range d.servers {
		if free(&d.servers[i], i, q) {
			total += d.servers[i].Weight
		}
	}
	a = d.pick(random, q, total, None)
	if a == None {
		return None, None
	}
	return a, d.pick(random, q, total-d.servers[a].Weight, a)
}

// pick draws among servers of a total weight, but for one.
func (d *draws) pick(random *rand.PCG, q *Query, total, but int) int {
	if total <= 0 {
		return None
	}
	// The high bits of a product of 32 bits each: even enough, and without a division.
	at := int(uint64(uint32(random.Uint64()>>32)) * uint64(total) >> 32)
	last := None
	for i := range d.servers {
		if i == but || !free(&d.servers[i], i, q) {
			continue
		}
		last = i
		if at -= d.servers[i].Weight; at < 0 {
			break
		}
	}
	return last // a slot may have been taken since total was counted
}

// Random draws two servers by their weights and takes the one with fewer requests under way for its weight (power of two
// choices; HAProxy: random(2)): nearly as even as looking at all of them, and no two routers run after the same one.
type Random struct{ draws }

func newRandom() *Random {
	r := &Random{}
	r.random = *rand.NewPCG(rand.Uint64(), rand.Uint64())
	return r
}

// Set tells the servers.
func (r *Random) Set(servers []Server) { r.set(servers) }

// Next chooses a server.
func (r *Random) Next(q *Query) int { return r.choose(&r.random, q) }

// Peek returns what Next would.
func (r *Random) Peek(q *Query) int {
	random := r.random
	return r.choose(&random, q)
}

func (r *Random) choose(random *rand.PCG, q *Query) int {
	a, b := r.two(random, q)
	if b == None {
		return a
	}
	x, y := &r.servers[a], &r.servers[b]
	if (y.Load.Active.Load()+1)*int64(x.Weight) < (x.Load.Active.Load()+1)*int64(y.Weight) {
		return b
	}
	return a
}
