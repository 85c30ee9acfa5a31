package balance

// LeastConn takes the server with the fewest requests under way for its weight; among equals the one that has been as it is
// for longest, so that idle servers take turns (HAProxy: leastconn). A request counts before it is sent: the compared number
// is that of the requests there would be, and an idle server comes before all others whatever its weight.
// Its zero value has no servers.
type LeastConn struct{ servers []Server }

// Set tells the servers.
func (l *LeastConn) Set(servers []Server) { l.servers = servers }

// Next chooses a server. The caller counts the request in its Load before it asks again.
func (l *LeastConn) Next(q *Query) int { return l.Peek(q) }

// Peek returns what Next would.
func (l *LeastConn) Peek(q *Query) int {
	chosen := None
	var least int64
	var since uint64
	for i := range l.servers {
		s := &l.servers[i]
		if !free(s, i, q) {
			continue
		}
		n := s.Load.Active.Load() + s.Load.Waiting.Load()
		if n > 0 {
			n = (n + 1) * spread / int64(s.Weight)
		}
		moved := s.Load.Moved.Load()
		if chosen == None || n < least || n == least && moved < since {
			chosen, least, since = i, n, moved
		}
	}
	return chosen
}

// spread keeps loads of different weights apart in whole numbers: the largest weight (HAProxy: SRV_EWGHT_MAX).
const spread = 256 * Scale
