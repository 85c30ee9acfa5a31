package balance

// table lays the servers out, each as often as its weight says, so that equal ones are spread evenly: at every place each
// server gains its weight, and the one that is furthest ahead, in whole rounds, gives a round back and has the place; the
// first of equals. It is HAProxy's order (map-based), which depends on the configured weights only: they are divided by what
// all of them, also those of dead servers, have in common.
type table struct {
	servers []Server
	places  []uint8 // indexes, below MaxServers
}

func (t *table) set(servers []Server) {
	t.servers = servers
	common := 0
	for i := range servers {
		for a, b := servers[i].Base, common; ; a, b = b, a%b {
			if b == 0 {
				common = a
				break
			}
		}
	}
	weights := make([]int, len(servers))
	total := 0
	for i := range servers {
		if servers[i].Weight > 0 && servers[i].Base > 0 {
			weights[i] = servers[i].Base / common
			total += weights[i]
		}
	}
	t.places = make([]uint8, 0, total)
	score := make([]int, len(servers))
	for range total {
		best, most := None, 0
		for i, weight := range weights {
			if weight == 0 {
				continue
			}
			score[i] += weight
			if rounds := (score[i] + total) / total; best == None || rounds > most {
				best, most = i, rounds
			}
		}
		score[best] -= total
		t.places = append(t.places, uint8(best))
	}
}

// from finds the first place at or after one whose server can take the request.
func (t *table) from(place int, q *Query) (chosen, next int) {
	for range t.places {
		i := int(t.places[place])
		if place++; place == len(t.places) {
			place = 0
		}
		if free(&t.servers[i], i, q) {
			return i, place
		}
	}
	return None, 0
}

// StaticRR goes by turns through a table (HAProxy: static-rr). A change of the servers makes the table anew; slow start has
// no effect on it. Its zero value has no servers.
type StaticRR struct {
	table
	place int
}

// Set tells the servers.
func (s *StaticRR) Set(servers []Server) {
	s.set(servers)
	if s.place >= len(s.places) {
		s.place = 0
	}
}

// Next chooses a server and takes the turn.
func (s *StaticRR) Next(q *Query) int {
	i, next := s.from(s.place, q)
	if i != None {
		s.place = next
	}
	return i
}

// Peek returns what Next would.
func (s *StaticRR) Peek(q *Query) int {
	i, _ := s.from(s.place, q)
	return i
}

// Map takes the hash modulo the sum of the weights as a place in the table (HAProxy: hash-type map-based). Without a hash it
// goes by turns through the table. A server that has failed the request already makes way for the next place of another.
// Its zero value has no servers.
type Map struct{ StaticRR }

// Next chooses a server.
func (m *Map) Next(q *Query) int {
	if !q.Hashed {
		return m.StaticRR.Next(q)
	}
	return m.Peek(q)
}

// Peek returns what Next would.
func (m *Map) Peek(q *Query) int {
	if !q.Hashed {
		return m.StaticRR.Peek(q)
	}
	if len(m.places) == 0 {
		return None
	}
	place := int(q.Hash % uint32(len(m.places)))
	for range m.places {
		if i := int(m.places[place]); !q.Tried.Has(i) {
			return i
		}
		if place++; place == len(m.places) {
			place = 0
		}
	}
	return None
}
