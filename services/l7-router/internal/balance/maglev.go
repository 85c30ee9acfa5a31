package balance

// tableSize is how many entries Maglev's table has: a prime, some 250 times MaxServers, so that shares are exact to 1 % (Eisenbud
// and others, "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
const tableSize = 65537

// Maglev looks a hash up in a table that the servers have filled in turn, each by a permutation of its own that hangs on its
// name: a choice costs one look-up however many servers there are, shares are as even as weights can make them, and when a
// server comes or goes little more than its share moves, wherever it stood in the configuration. Without a hash it goes
// through the table. Its zero value has no servers.
type Maglev struct {
	servers []Server
	entries []uint8
	place   int
}

// Set tells the servers. In a slow start a server fills fewer entries.
func (m *Maglev) Set(servers []Server) {
	m.servers, m.entries, m.place = servers, nil, 0
	most := 0
	for i := range servers {
		most = max(most, servers[i].Weight)
	}
	if most == 0 {
		return
	}
	type filler struct{ at, skip, credit int }
	fillers := make([]filler, len(servers))
	for i := range servers {
		name := []byte(servers[i].Name)
		fillers[i] = filler{at: int(Mix(hashCRC32(name)) % tableSize), skip: int(Mix(hashDJB2(name))%(tableSize-1)) + 1}
	}
	m.entries = make([]uint8, tableSize)
	taken := make([]bool, tableSize)
	for filled := 0; filled < tableSize; {
		for i := range fillers {
			f := &fillers[i]
			// A server of half the largest weight has every second turn.
			if f.credit += servers[i].Weight; f.credit < most || servers[i].Weight == 0 {
				continue
			}
			f.credit -= most
			for taken[f.at] {
				f.at = (f.at + f.skip) % tableSize
			}
			taken[f.at], m.entries[f.at] = true, uint8(i)
			if filled++; filled == tableSize {
				break
			}
		}
	}
}

// Next chooses a server.
func (m *Maglev) Next(q *Query) int {
	if q.Hashed || len(m.entries) == 0 {
		return m.Peek(q)
	}
	i := m.Peek(q)
	m.place = (m.place + 1) % tableSize
	return i
}

// Peek returns what Next would.
func (m *Maglev) Peek(q *Query) int {
	if len(m.entries) == 0 {
		return None
	}
	at := m.place
	if q.Hashed {
		at = int(q.Hash % tableSize)
	}
	for range m.entries {
		i := int(m.entries[at])
		if !q.Tried.Has(i) && (q.Hashed || !m.servers[i].Load.Full()) {
			return i
		}
		if at++; at == tableSize {
			at = 0
		}
	}
	return None
}
