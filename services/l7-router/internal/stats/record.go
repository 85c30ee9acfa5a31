package stats

import "time"

// Moment is a reading of a driver's clock in nanoseconds; 0: it has not come.
type Moment = int64

// Cause is why a request ended, as HAProxy writes it (configuration manual, section 8.5, first character).
type Cause byte

// The causes.
const (
	CauseNone          Cause = '-' // in good order
	CauseClient        Cause = 'C' // the client went away
	CauseServer        Cause = 'S' // the server went away or refused
	CauseProxy         Cause = 'P' // the router refused
	CauseLocal         Cause = 'L' // the router answered by itself
	CauseResource      Cause = 'R' // something ran out here
	CauseInternal      Cause = 'I' // a fault of the router
	CauseDown          Cause = 'D' // the server was found down
	CauseKilled        Cause = 'K' // an operator ended it
	CauseClientTimeout Cause = 'c' // the client was silent for too long
	CauseServerTimeout Cause = 's' // the server was silent for too long
)

// Phase is in what a request was when it ended (section 8.5, second character).
type Phase byte

// The phases.
const (
	PhaseNone    Phase = '-' // after the end
	PhaseRequest Phase = 'R' // the request's head was awaited
	PhaseQueue   Phase = 'Q' // it waited for a server
	PhaseConnect Phase = 'C' // the connection to the server was being made
	PhaseHeaders Phase = 'H' // the response's head was awaited
	PhaseData    Phase = 'D' // the response's body was passed on
	PhaseLast    Phase = 'L' // the last bytes were still on their way to the client
	PhaseTarpit  Phase = 'T' // the client was held up
)

// Record is what one request has to tell. It belongs to one request at a time and holds no pointers of its own to free; the
// driver writes moments into it as they come, and exchange adds it to the sets at the end.
type Record struct {
	// Begun is when the first byte came (Accepted, when the connection was made); Head, when the head was complete;
	// Assigned, when a server was chosen; Connected, when the connection to it was there; Responded, when its response's
	// head was.
	Accepted, Begun, Head, Assigned, Connected, Responded Moment
	// Status that was sent to the client, 0: none.
	Status int
	// BytesIn and BytesOut are those from and to the client, heads included.
	BytesIn, BytesOut uint64
	// Retries are connections that were tried again; Redispatched, that another server took it than the one chosen first.
	Retries      int
	Redispatched bool
	// Connects counts connections made; Reused, that it went over one that had been idle.
	Connects int
	Reused   bool
	Cause    Cause
	Phase    Phase
	// CookieIn and CookieOut are what became of the persistence cookie (section 8.5, third and fourth character).
	CookieIn, CookieOut byte
}

// Reset makes r ready for the next request.
func (r *Record) Reset() {
	*r = Record{Cause: CauseNone, Phase: PhaseNone, CookieIn: '-', CookieOut: '-'}
}

// End notes how the request ended; the first word counts.
func (r *Record) End(c Cause, p Phase) {
	if r.Cause == CauseNone {
		r.Cause, r.Phase = c, p
	}
}

// Timers are the five times of HAProxy's log (section 8.4); negative: that phase was not reached.
type Timers struct {
	// Request is TR, from the first byte to the whole head. Queue is Tw, Connect is Tc, Response is Tr, and Active is Ta,
	// from the first byte of the request to the last of the response.
	Request, Queue, Connect, Response, Active time.Duration
}

// Timers works them out for a request that ended at a moment.
func (r *Record) Timers(end Moment) Timers {
	between := func(from, to Moment) time.Duration {
		if from == 0 || to == 0 {
			return -1
		}
		return max(time.Duration(to-from), 0)
	}
	return Timers{
		Request: between(r.Begun, r.Head), Queue: between(r.Head, r.Assigned), Connect: between(r.Assigned, r.Connected),
		Response: between(r.Connected, r.Responded), Active: max(between(r.Begun, end), 0),
	}
}

// statusCounter is the class of a status.
func statusCounter(status int) Counter {
	if class := status / 100; class >= 1 && class <= 5 {
		return Status1xx + Counter(class-1)
	}
	return StatusOther
}

// Settle adds what a request has told to a set. What only a server has (connections made to it) is counted when it
// happens.
func (s *Set) Settle(shard int, r *Record, end Moment) {
	if s == nil {
		return
	}
	c := s.cell(shard)
	c.counts[BytesIn].Add(r.BytesIn)
	c.counts[BytesOut].Add(r.BytesOut)
	if r.Status != 0 {
		c.counts[statusCounter(r.Status)].Add(1)
	}
	switch r.Cause {
	case CauseNone:
	case CauseClient, CauseClientTimeout:
		c.counts[ClientAborts].Add(1)
	case CauseServer, CauseServerTimeout:
		if r.Phase == PhaseData {
			c.counts[ServerAborts].Add(1)
		}
		if r.Phase == PhaseHeaders {
			c.counts[ResponseErrors].Add(1)
		}
	}
}

// SettleTimes adds a request's times to a set, if it got a response.
func (s *Set) SettleTimes(shard int, r *Record, end Moment) {
	if r.Responded == 0 {
		return
	}
	t := r.Timers(end)
	c := s.cell(shard)
	c.samples.Add(1)
	for a, d := range [averages]time.Duration{t.Queue, t.Connect, t.Response, t.Active} {
		c.average(Average(a), d)
	}
	c.response.Add(t.Response)
	c.total.Add(t.Active)
}
