package balance

import (
	"cmp"
	"slices"
)

// Ring has a point for every part of a server's weight on a ring of 2^32 places; a hash goes to the nearest point (HAProxy:
// hash-type consistent). When a server comes or goes only its share moves. The points depend on the server's place in the
// configuration, as HAProxy's do. Without a hash it goes round from point to point. Its zero value has no servers.
type Ring struct {
	servers []Server
	points  []point
	last    int // point that the last request without a hash went to
	begun   bool
}

type point struct {
	key    uint32
	server uint8
}

// pointRange is how many points a server has at most (HAProxy: SRV_EWGHT_RANGE).
const pointRange = 256 * Scale

// Set tells the servers. In a slow start a server has fewer points, and so fewer requests.
func (r *Ring) Set(servers []Server) {
	total := 0
	for i := range servers {
		total += servers[i].Weight
	}
	r.servers, r.points = servers, make([]point, 0, total)
	for i := range servers {
		for j := range servers[i].Weight {
			r.points = append(r.points, point{key: Mix(uint32(i+1)*pointRange + uint32(j)), server: uint8(i)})
		}
	}
	slices.SortStableFunc(r.points, func(a, b point) int { return cmp.Compare(a.key, b.key) })
	r.last, r.begun = 0, false
}

// Next chooses a server.
func (r *Ring) Next(q *Query) int {
	if q.Hashed {
		return r.Peek(q)
	}
	i, at := r.walk(q)
	if i != None {
		r.last, r.begun = at, true
	}
	return i
}

// Peek returns what Next would.
func (r *Ring) Peek(q *Query) int {
	if !q.Hashed {
		i, _ := r.walk(q)
		return i
	}
	n := len(r.points)
	if n == 0 {
		return None
	}
	next, _ := slices.BinarySearchFunc(r.points, q.Hash, func(p point, hash uint32) int { return cmp.Compare(p.key, hash) })
	if next == n {
		next = 0
	}
	before := (next + n - 1) % n
	if q.Hash-r.points[before].key <= r.points[next].key-q.Hash {
		next = before
	}
	for range n {
		if i := int(r.points[next].server); !q.Tried.Has(i) {
			return i
		}
		next = (next + 1) % n
	}
	return None
}

// walk goes on from the point of the last request without a hash to one that has a free slot.
func (r *Ring) walk(q *Query) (server, at int) {
	n := len(r.points)
	at = r.last
	for k := range n {
		if k > 0 || r.begun {
			at = (at + 1) % n
		}
		if i := int(r.points[at].server); free(&r.servers[i], i, q) {
			return i, at
		}
	}
	return None, 0
}
