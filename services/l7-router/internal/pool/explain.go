package pool

// Takes reports whether a server takes requests that name no server, and requests whose cookie names it.
func (l *live) Takes() (balanced, named bool) { return l.balanced.Load(), l.named.Load() }
