package exchange

import (
	"bytes"

	"github.com/twotier/twotier/services/l7-router/internal/accesslog"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/route"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// What is counted and logged of a request. A driver calls, in this order: Await with the first byte, Begin with the head,
// Assigned for each server, Connected or ConnectFailed, Responded, perhaps Refused or Record.End, and Settle, whatever
// happens. Each takes the driver's clock, which is read once for many.

// page returns the statistics page when a request is for it (HAProxy: a GET, HEAD or POST whose target begins with the URI).
// It is asked before any rule, so that no rule can send its forms to a server.
func (f *Frontend) page(h *http1.Head) *pool.Backend {
	if f.Page == nil || f.Spec.Stats.URI == "" {
		return nil
	}
	target := h.Target()
	if h.Authority() != nil { // absolute form: http://host/path
		if _, rest, ok := bytes.Cut(target, []byte("://")); ok {
			target = rest[min(len(h.Authority()), len(rest)):]
		}
	}
	uri := f.Spec.Stats.URI
	if len(target) < len(uri) || string(target[:len(uri)]) != uri {
		return nil
	}
	switch string(h.Method()) {
	case "GET", "HEAD", "POST":
		return f.Page
	}
	return nil
}

// Who is what has to be known of a connection to count and log its requests.
type Who struct {
	// Address of the client, without the port; Port is that port.
	Address string
	Port    uint16
	// Accepted is when the connection was made.
	Accepted stats.Moment
	// Shard is where it is counted.
	Shard int
}

// seen is what a request carries for this.
type seen struct {
	front *Frontend
	who   Who
	shard int
	last  *pool.Server // that it was given to last
	first *pool.Server // that it was given to first
	done  bool
	entry *accesslog.Entry // for the log; made when it is first needed
}

// Await begins the record of a request whose first byte has come.
func (r *Request) Await(f *Frontend, who Who, now stats.Moment) {
	r.Backend, r.Answer = nil, nil
	r.seen = seen{front: f, who: who, shard: who.Shard, entry: r.entry}
	if r.entry != nil {
		r.entry.Reset()
	}
	r.Record.Reset()
	r.Record.Accepted, r.Record.Begun = who.Accepted, now
}

// noteLine keeps what is logged of the head, which will be gone when the request ends.
func (r *Request) noteLine(h *http1.Head, c *Client) {
	if r.entry == nil {
		r.entry = new(accesslog.Entry) // once for all requests that will be this one
	}
	r.entry.SetStart(h.Method(), h.Target(), h.Minor(), r.front.Log.HideQuery)
	r.entry.TLS = c.TLS
	if r.hasClient() {
		// Whom a trusted hop names; that one's port nobody knows.
		r.who.Address, r.who.Port = r.asked.Client().String(), 0
	}
}

// log logs the request. It is called while everything still counts as under way, but for the server.
func (r *Request) log(now stats.Moment) {
	log := r.front.Log
	if r.entry == nil {
		r.entry = new(accesslog.Entry)
	}
	e := r.entry
	e.Facts = accesslog.Facts{
		Record: r.Record, End: now, Client: r.who.Address, Port: r.who.Port, TLS: e.TLS,
		Frontend: r.front.Spec.Name, Rule: route.NoRule, FrontendConns: r.front.Seen.Current(),
	}
	if r.Record.Head != 0 {
		e.Rule = r.decision.Rule
	}
	if b := r.Backend; b != nil {
		e.Backend, e.BackendConns = b.Spec.Name, b.Seen.Current()-1
		if b == r.front.Page {
			e.Backend = r.front.Spec.Name // as HAProxy has it
		}
		if s := r.last; s != nil {
			e.Server, e.ServerConns = s.Spec.Name, s.Active.Load()
			switch {
			case b == r.front.Page:
			case r.Record.Redispatched:
				e.Choice = "redispatch"
			case same(s, r.Named):
				e.Choice = "cookie"
			default:
				e.Choice = b.Spec.Balance.Algorithm.String()
			}
		}
	}
	if log.Wants(e) {
		log.Put(r.shard, e)
	}
}

// begun counts a request whose head is complete.
func (r *Request) begun(f *Frontend) {
	r.front, r.last, r.first, r.done = f, nil, nil, false
	f.Seen.Add(r.shard, stats.Requests, 1)
	if r.Backend != nil && r.Backend == f.Page {
		f.Seen.Add(r.shard, stats.Intercepted, 1)
	}
	if b := r.Backend; b != nil {
		b.Seen.Enter()
		b.Seen.Add(r.shard, stats.Sessions, 1)
		b.Seen.Add(r.shard, stats.Requests, 1)
		if b.Spec.Cookie.Name != "" {
			r.Record.CookieIn, r.Record.CookieOut = 'N', 'N'
		}
	}
}

// sawCookie notes what the persistence cookie was worth.
func (r *Request) sawCookie(value []byte) {
	switch {
	case r.Named != nil:
		r.Record.CookieIn = 'V'
	case r.Backend.KnowsCookie(value):
		r.Record.CookieIn = 'D'
	default:
		r.Record.CookieIn = 'I'
	}
}

// Assigned notes that the server which Next has chosen gets the request.
func (r *Request) Assigned(now stats.Moment) {
	b, s := r.Backend, r.server
	again := r.last != nil
	if again {
		r.Record.Retries++
		r.Record.Redispatched = !same(r.server, r.first)
		b.Seen.Add(r.shard, stats.Redispatches, 1)
		r.last.Seen.Add(r.shard, stats.Redispatches, 1)
	} else {
		r.first = r.server
		r.Record.Assigned = now
	}
	r.last = r.server
	if !same(r.server, r.Named) {
		s.Seen.Add(r.shard, stats.Balanced, 1)
		if !again {
			b.Seen.Add(r.shard, stats.Balanced, 1)
		}
	}
	s.Seen.Add(r.shard, stats.Sessions, 1)
}

// Late notes that the request has waited in a queue for too long.
func (r *Request) Late() {
	r.Leave()
	r.late = true
}

// Connected notes that the connection to the server is there; reused: it had been idle.
func (r *Request) Connected(now stats.Moment, reused bool) {
	c := stats.Connects
	if reused {
		c = stats.Reuses
	}
	r.Record.Connected, r.Record.Reused = now, reused
	r.Backend.Seen.Add(r.shard, c, 1)
	r.last.Seen.Add(r.shard, c, 1)
}

// ConnectFailed notes that the server could not be connected to.
func (r *Request) ConnectFailed() {
	r.Backend.Seen.Add(r.shard, stats.ConnectErrors, 1)
	r.last.Seen.Add(r.shard, stats.ConnectErrors, 1)
}

// Responded notes that the head of the final response has come.
func (r *Request) Responded(now stats.Moment) { r.Record.Responded = now }

// Phase is where the request is now.
func (r *Request) Phase() stats.Phase {
	switch record := &r.Record; {
	case record.Head == 0:
		return stats.PhaseRequest
	case record.Responded != 0:
		return stats.PhaseData
	case record.Connected != 0:
		return stats.PhaseHeaders
	case record.Assigned != 0:
		return stats.PhaseConnect
	}
	return stats.PhaseQueue
}

// Refused notes that the router answers in its own name. The status tells whose fault it is, as HAProxy has it.
func (r *Request) Refused(status int) {
	cause, phase := stats.CauseProxy, r.Phase()
	made := r.Answer != nil && r.Answer != Refusal(503) // by a rule or a limit
	switch {
	case made && status < 400:
		cause, phase = stats.CauseLocal, stats.PhaseRequest
		r.front.Seen.Add(r.shard, stats.Intercepted, 1)
	case made:
		phase = stats.PhaseRequest
		r.front.Seen.Add(r.shard, stats.DeniedRequests, 1)
	case status == 408:
		cause = stats.CauseClientTimeout
	case status == 502:
		cause = stats.CauseServer
	case status == 503 && r.late:
		cause, phase = stats.CauseServerTimeout, stats.PhaseQueue
	case status == 503:
		cause, phase = stats.CauseServer, stats.PhaseConnect
	case status == 504:
		cause = stats.CauseServerTimeout
	default:
		phase = stats.PhaseRequest
	}
	r.Record.Responded = 0 // nothing of a response was passed on
	r.Record.End(cause, phase)
	r.Record.Status = status
	r.done = true // the client gets an answer
}

// Done notes that the response was passed on whole.
func (r *Request) Done() { r.done = true }

// Settle counts the request when all is over. It does nothing when there is none.
func (r *Request) Settle(now stats.Moment) {
	record := &r.Record
	if record.Begun == 0 || r.front == nil {
		return
	}
	if !r.done {
		record.End(stats.CauseClient, r.Phase()) // whoever else had been the cause has said so
	}
	front := r.front.Seen
	if r.front.Log != nil {
		r.log(now)
	}
	front.Settle(r.shard, record, now)
	if record.Phase == stats.PhaseRequest && (record.Cause == stats.CauseClient || record.Cause == stats.CauseClientTimeout || r.Answer == nil) {
		front.Add(r.shard, stats.RequestErrors, 1)
	}
	if b := r.Backend; b != nil {
		b.Seen.Leave()
		b.Seen.Settle(r.shard, record, now)
		b.Seen.SettleTimes(r.shard, record, now)
		if r.last != nil {
			s := r.last.Seen
			if record.Responded == 0 {
				record.Status = 0 // it is not the server's
			}
			s.Settle(r.shard, record, now)
			s.SettleTimes(r.shard, record, now)
		}
	}
	r.front = nil
	record.Reset()
}
