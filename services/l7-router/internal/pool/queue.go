package pool

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/balance"
)

// Requests wait as in HAProxy: those whose cookie or hash names a server that is full wait for it, the others for whoever is
// free first. A slot that becomes free goes straight to the one of both queues who has waited longest, whichever loop or
// goroutine it is on, so that nobody who comes later overtakes. When a server can take no more requests, what waits for it
// chooses anew at once, at the place that its arrival gives it.

// MaxQueue is the most requests that wait for any server of one backend.
const MaxQueue = 1 << 16

// place is the place of a ticket in a queue. All but waits is guarded by group.mu while it is in one.
type place struct {
	// waits is the owner's: it has been told to wait.
	waits      bool
	queue      *queue
	prev, next *Ticket
	// server has been given to it; counted.
	server  *Server
	group   *group
	arrival uint64 // 0: it has not waited yet
	since   int64
}

// queue is a list of tickets in the order of their arrival. It is guarded by group.mu.
type queue struct {
	group       *group
	first, last *Ticket
	length      int
	most        int           // there have ever been
	waiting     *balance.Load // of its server, whose Waiting it keeps; nil: it is the backend's
}

// add puts t in; one that has waited already goes where its arrival puts it.
func (q *queue) add(t *Ticket) {
	if t.arrival == 0 {
		q.group.arrivals++
		t.arrival, t.since = q.group.arrivals, now()
	}
	after := q.last
	for after != nil && after.arrival > t.arrival {
		after = after.prev
	}
	t.queue, t.group, t.prev = q, q.group, after
	if after == nil {
		t.next, q.first = q.first, t
	} else {
		t.next, after.next = after.next, t
	}
	if t.next == nil {
		q.last = t
	} else {
		t.next.prev = t
	}
	q.count(1)
	q.most = max(q.most, q.length)
}

// remove takes t out.
func (q *queue) remove(t *Ticket) {
	if t.prev == nil {
		q.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		q.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.queue, t.prev, t.next = nil, nil, nil
	q.count(-1)
}

func (q *queue) count(n int) {
	q.length += n
	if q.waiting != nil {
		q.waiting.Waiting.Add(int64(n))
	}
}

// firstFor returns the one that has waited longest of those that a server has not failed yet.
func (q *queue) firstFor(id uint64) *Ticket {
	for t := q.first; t != nil; t = t.next {
		if !slices.Contains(t.tried, id) {
			return t
		}
	}
	return nil
}

// Waits reports whether the request waits in a queue, as Next has told. It is for the owner.
func (t *Ticket) Waits() bool { return t.waits }

// Leave takes a request that waits out of its queue; a server that it has been given meanwhile goes to the next.
func (t *Ticket) Leave() {
	if !t.waits {
		return
	}
	t.waits = false
	t.group.mu.Lock()
	if t.queue != nil {
		t.queue.remove(t)
	}
	s := t.server
	t.server = nil
	t.group.mu.Unlock()
	if s != nil {
		s.End()
	}
}

// waitFor has t wait for s; false when too many do already. The caller holds group.mu.
func (s *Server) waitFor(t *Ticket) bool {
	if s.Spec.MaxQueue > 0 && s.queue.length >= s.Spec.MaxQueue || s.queue.length >= MaxQueue {
		return false
	}
	s.queue.add(t)
	return true
}

// serve gives a free slot of a server to the one who has waited longest, and returns its Waker; nil: there is no slot, or
// nobody waits. The caller holds g.mu.
func (g *group) serve(l *live) Waker {
	if limit := l.Limit.Load(); limit > 0 && l.Active.Load() >= limit || l.at == nil {
		return nil
	}
	t := l.queue.first
	if g.queue.first != nil && g.shares[l.index].Weight > 0 {
		if other := g.queue.firstFor(l.id); t == nil || other != nil && other.arrival < t.arrival {
			t = other
		}
	}
	if t == nil {
		return nil
	}
	t.queue.remove(t)
	t.take(l.at)
	t.server = l.at
	return t.Waker
}

// redistribute has everybody choose anew who waits for any server, or for one that takes no more requests, in the order of
// arrival; then it gives away what slots are left. It returns whom to wake. before is the backend before the change; nil:
// there was none. The caller holds g.mu.
func (g *group) redistribute(before *Backend) (woken []Waker) {
	var all []*Ticket
	empty := func(q *queue) {
		for q.first != nil {
			all = append(all, q.first)
			q.remove(q.first)
		}
	}
	empty(&g.queue)
	if before != nil {
		for _, s := range before.servers {
			if !s.honoured() || s.at == nil {
				empty(&s.queue)
			}
		}
	}
	slices.SortFunc(all, func(a, b *Ticket) int { return cmp.Compare(a.arrival, b.arrival) })
	for _, t := range all {
		t.server = g.choose(t)
		if t.server != nil || t.queue == nil {
			woken = append(woken, t.Waker)
		}
	}
	for _, s := range g.current.servers {
		for w := g.serve(s.live); w != nil; w = g.serve(s.live) {
			woken = append(woken, w)
		}
	}
	return woken
}

// Queued tells how many requests wait for servers of the backend, those that wait for one of them included, and the most that
// have waited at a time for any.
func (b *Backend) Queued() (now, most int) {
	b.group.mu.Lock()
	defer b.group.mu.Unlock()
	now = b.group.queue.length
	for _, s := range b.servers {
		now += s.queue.length
	}
	return now, b.group.queue.most
}

// Queue is one queue, live.
type Queue struct {
	Backend string
	// Server whose queue it is; empty: that of those whom any server may take.
	Server string
	// Length now, and the most there have ever been.
	Length, Most int
	// Limit of the length.
	Limit int
	// Oldest is how long the first has waited.
	Oldest time.Duration
}

// Queues returns the queues of every backend, in the order of backend and configuration: first that of the backend, then
// those of its servers that have a limit.
func (p *Pool) Queues() []Queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Queue
	for _, name := range slices.Sorted(maps.Keys(p.backends)) {
		b := p.backends[name]
		g := b.group
		at := now()
		state := func(q *queue, server string, limit int) {
			one := Queue{Backend: name, Server: server, Length: q.length, Most: q.most, Limit: limit}
			if q.first != nil {
				one.Oldest = time.Duration(at - q.first.since)
			}
			all = append(all, one)
		}
		g.mu.Lock()
		state(&g.queue, "", MaxQueue)
		for _, s := range b.servers {
			if s.Spec.MaxConn > 0 {
				state(&s.queue, s.Spec.Name, min(cmp.Or(s.Spec.MaxQueue, MaxQueue), MaxQueue))
			}
		}
		g.mu.Unlock()
	}
	return all
}
