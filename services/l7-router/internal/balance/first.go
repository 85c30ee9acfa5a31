package balance

// First takes the first server that has a free slot, so that those behind it can sleep while little is going on (HAProxy:
// first). Weights do not matter, but 0 is none. Its zero value has no servers.
type First struct{ servers []Server }

// Set tells the servers.
func (f *First) Set(servers []Server) { f.servers = servers }

// Next chooses a server.
func (f *First) Next(q *Query) int { return f.Peek(q) }

// Peek returns what Next would.
func (f *First) Peek(q *Query) int {
	for i := range f.servers {
		if free(&f.servers[i], i, q) {
			return i
		}
	}
	return None
}
