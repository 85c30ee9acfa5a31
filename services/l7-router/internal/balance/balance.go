// Package balance chooses the server that takes the next request: pure.
//
// The order is the one of HAProxy's roundrobin. The turns of all servers are laid out on one line of positions, one for
// each request. A server of weight w among servers of total weight W has a turn every W/w positions, counted exactly by
// carrying the remainder. At each position the server whose turn came first is due; equal turns go to the one that has
// more of its share ahead of it, and then to the one that has waited longer.
// When nobody is due, a server that has not had its first turn starts, larger weights first; when there is none either,
// the server whose turn comes soonest is taken. Weights 3:2:1 give ABACAB, 5:1:1 give AAABAAC.
package balance

// Server is what has to be known of a server, in the order of configuration.
type Server struct {
	// Weight is its share of the requests; 0: it has no turns.
	Weight int
	// Backup servers have no turns: the first usable one takes all when no other server is usable.
	Backup bool
	// Usable says that it takes requests.
	Usable bool
}

// None is chosen when no server can take the request.
const None = -1

type turn struct {
	weight  int
	started bool
	next    uint64 // position of the next turn
	carry   int    // the part of a position, in 1/weight, that next is short of the exact place
	last    uint64 // position of the turn before
}

// Turns hands out the turns of one backend. Its zero value has no servers. It is not safe for use by several goroutines.
type Turns struct {
	turns    []turn
	backups  []int
	total    int
	position uint64
}

// Set tells the servers. Those that keep their index and stay usable keep their turns; one that becomes usable, or
// changes its weight, starts anew.
func (t *Turns) Set(servers []Server) {
	turns := make([]turn, len(servers))
	t.total, t.backups = 0, nil
	for i, s := range servers {
		if !s.Usable || s.Weight <= 0 {
			continue
		}
		if s.Backup {
			t.backups = append(t.backups, i)
			continue
		}
		if i < len(t.turns) && t.turns[i].weight == s.Weight {
			turns[i] = t.turns[i]
		}
		turns[i].weight = s.Weight
		t.total += s.Weight
	}
	t.turns = turns
}

// Next chooses a server, or None. Tried holds the indexes of servers that have failed this request already.
func (t *Turns) Next(tried []int) int {
	chosen := t.choose(tried)
	if chosen == None {
		for _, i := range t.backups {
			if !contains(tried, i) {
				return i
			}
		}
		return None
	}
	s := &t.turns[chosen]
	if !s.started {
		s.started, s.next, s.carry = true, t.position, 0
	}
	s.next += uint64(t.total / s.weight)
	s.carry += t.total % s.weight
	if s.carry >= s.weight {
		s.carry -= s.weight
		s.next++
	}
	s.last = t.position
	t.position++
	return chosen
}

func (t *Turns) choose(tried []int) int {
	soonest, fresh := None, None
	for i := range t.turns {
		s := &t.turns[i]
		switch {
		case s.weight == 0 || contains(tried, i):
		case !s.started:
			if fresh == None || s.weight > t.turns[fresh].weight {
				fresh = i
			}
		case soonest == None || s.before(&t.turns[soonest]):
			soonest = i
		}
	}
	if fresh != None && (soonest == None || t.turns[soonest].next > t.position) {
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

func contains(list []int, i int) bool {
	for _, x := range list {
		if x == i {
			return true
		}
	}
	return false
}

// Clone returns a copy that goes on by itself.
func (t *Turns) Clone() Turns {
	c := *t
	c.turns = append([]turn(nil), t.turns...)
	c.backups = append([]int(nil), t.backups...)
	return c
}
