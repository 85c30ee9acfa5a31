package balance

// RoundRobin goes by turns, in the order of HAProxy's roundrobin. The turns of all servers are laid out on one line of
// positions, one for each request. A server of weight w among servers of total weight W has a turn every W/w positions,
// counted exactly by carrying the remainder. At each position the server whose turn came first is due; equal turns go to the
// one that has more of its share ahead of it, and then to the one that has waited longer.
// When nobody is due, a server that has not had its first turn starts, larger weights first; when there is none either, the
// server whose turn comes soonest is taken. Weights 3:2:1 give ABACAB, 5:1:1 give AAABAAC.
// Its zero value has no servers.
type RoundRobin struct {
	servers  []Server
	turns    []turn
	total    int
	position uint64
}

type turn struct {
	weight  int
	started bool
	next    uint64 // position of the next turn
	carry   int    // the part of a position, in 1/weight, that next is short of the exact place
	last    uint64 // position of the turn before
}

// Set tells the servers. One that becomes usable, or changes its weight, starts anew.
func (r *RoundRobin) Set(servers []Server) {
	turns := make([]turn, len(servers))
	r.total = 0
	for i := range servers {
		weight := servers[i].Weight
		if weight == 0 {
			continue
		}
		if i < len(r.turns) && r.turns[i].weight == weight {
			turns[i] = r.turns[i]
		}
		turns[i].weight = weight
		r.total += weight
	}
	r.servers, r.turns = servers, turns
}

// Next chooses a server and takes the turn.
func (r *RoundRobin) Next(q *Query) int {
	chosen := r.Peek(q)
	if chosen == None {
		return None
	}
	s := &r.turns[chosen]
	if !s.started {
		s.started, s.next, s.carry = true, r.position, 0
	}
	s.next += uint64(r.total / s.weight)
	s.carry += r.total % s.weight
	if s.carry >= s.weight {
		s.carry -= s.weight
		s.next++
	}
	s.last = r.position
	r.position++
	return chosen
}

// Peek returns what Next would.
func (r *RoundRobin) Peek(q *Query) int {
	soonest, fresh := None, None
	for i := range r.turns {
		s := &r.turns[i]
		switch {
		case !free(&r.servers[i], i, q):
		case !s.started:
			if fresh == None || s.weight > r.turns[fresh].weight {
				fresh = i
			}
		case soonest == None || s.before(&r.turns[soonest]):
			soonest = i
		}
	}
	if fresh != None && (soonest == None || r.turns[soonest].next > r.position) {
		return fresh
	}
	return soonest
}

func (s *turn) before(other *turn) bool {
	if s.next != other.next {
		return s.next < other.next
	}
	if ahead, others := s.carry-s.weight, other.carry-other.weight; ahead != others {
		return ahead < others
	}
	return s.last < other.last
}
