package epoll

// wait has a request wait for a server that has a free slot, unless it does so already.
func (c *conn) wait() bool {
	if c.phase != queueing {
		c.phase = queueing
		c.loop.wheel.set(&c.timer, c.loop.now+int64(c.flight.request.Backend.Spec.TimeoutQueue))
	}
	if c.gone() {
		c.close()
	}
	return false
}

// Wake has the loop look whether a request that waits has been given a server. Any goroutine may call it.
func (c *conn) Wake() { c.loop.rouse(c) }

// rouse has the loop give c a turn. Any goroutine may call it; like post, it does nothing after the loop has ended.
func (l *loop) rouse(c *conn) {
	l.mu.Lock()
	l.roused = append(l.roused, c)
	first := len(l.roused) == 1
	l.mu.Unlock()
	if first {
		l.signal()
	}
}

// runRoused gives those a turn that have been roused.
func (l *loop) runRoused() {
	l.mu.Lock()
	l.roused, l.rousing = l.rousing[:0], l.roused
	l.mu.Unlock()
	for i, c := range l.rousing {
		l.rousing[i] = nil
		if c.phase == queueing {
			l.guarded(c)
		}
	}
}
