package pool

// Shared is the connections to one server that carry many requests at a time.
type Shared interface {
	// Clear lets the connections that are there end with their requests; the next request makes another.
	Clear()
	// Retire is Clear for good.
	Retire()
}

// Shared returns the shared connections to the server, which open makes when there are none. It does not wait.
func (l *live) Shared(open func() Shared) Shared {
	l.idle.mu.Lock()
	defer l.idle.mu.Unlock()
	if l.idle.shared == nil {
		l.idle.shared = open()
		if l.idle.closed {
			l.idle.shared.Retire()
		}
	}
	return l.idle.shared
}
