// Package exchange decides everything about one request and its response that needs no socket: which backend, which
// servers in which order, the heads that are passed on, and what becomes of the connections afterwards. Connection
// drivers move the bytes.
package exchange

import (
	"github.com/twotier/twotier/services/l7-router/internal/accesslog"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/route"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// Frontend is a frontend with the backends that it can send to. It is never changed once it is in use.
type Frontend struct {
	Spec     spec.Frontend
	Backends map[string]*pool.Backend
	// Seen is what is counted of it.
	Seen *stats.Set
	// Page answers the requests that are for the statistics page; nil: there is none.
	Page *pool.Backend
	// Log is where its requests are logged; nil: nowhere.
	Log *accesslog.Log
}

// NewFrontend picks the backends that a frontend can send to out of those that there are. Seen is what is counted of it.
func NewFrontend(s spec.Frontend, backends map[string]*pool.Backend, seen *stats.Set) *Frontend {
	f := &Frontend{Spec: s, Backends: map[string]*pool.Backend{}, Seen: seen}
	use := func(name string) {
		if b := backends[name]; b != nil {
			f.Backends[name] = b
		}
	}
	use(s.DefaultBackend)
	for _, rule := range s.Rules {
		use(rule.Backend)
	}
	return f
}

// Client is what has to be known of a client's connection.
type Client struct {
	// Address of the client, without the port. Example: 10.10.60.1
	Address string
	// Local is the address that the client has connected to. Example: 10.10.60.22:80
	Local string
	// Port is the port that the client has connected to; 0: not known.
	Port uint16
	// TLS: the connection is a TLS connection.
	TLS bool
	// Subject of the client's verified certificate, in visible ASCII; empty: it has none, or it is not to be told.
	Subject string
}

// Request is one request on its way. It is reused: Begin sets everything.
type Request struct {
	// Backend that takes it; nil: none does, and Answer says what becomes of it.
	Backend *pool.Backend
	// Answer is what the router answers itself; nil: a server does.
	Answer *Answer
	// Head is the head for the server.
	Head []byte
	// Body is how its body is framed, towards the server too.
	Body http1.Body
	// Repeatable: its method may be carried out twice (RFC 9110 section 9.2.2), so it can be sent again when a connection
	// that was idle turns out to be dead. Others only when the server cannot have read any of it.
	Repeatable bool
	// ToHead: the request's method is HEAD.
	ToHead bool
	// KeepAlive: the client keeps its connection.
	KeepAlive bool
	// Record is what is counted and logged of it: seen.go.
	Record stats.Record

	// Ticket is what the choice of a server goes by. The driver sets its Waker, and has the request Leave when it is given up
	// while it waits.
	pool.Ticket

	seen
	persisted
	late     bool // it has waited in a queue for too long
	minor    int
	upgrade  bool
	server   *pool.Server // that was chosen last
	twice    bool         // its method is safe, so that two servers may get it
	asked    route.Request
	decision route.Decision
	own      Answer    // that Answer points to when it is made for this request
	scratch  []byte    // an edited target, or the address of a redirect
	paths    [2][]byte // an edited path while it is edited
	safe     bool      // GET or HEAD: caches may store the response
	// subjectHeader is spec.TLS.SubjectHeader.
	subjectHeader string
}

// Begin decides about a request whose head is complete.
func (r *Request) Begin(f *Frontend, h *http1.Head, c *Client) {
	r.decide(f, h, c, nil)
	r.begun(f)
	if f.Log != nil {
		r.noteLine(h, c)
	}
	if r.Answer == nil {
		r.appendHead(&f.Spec.Forwarded, h, c)
	}
}

// decide finds out who takes the request. trace may be nil.
func (r *Request) decide(f *Frontend, h *http1.Head, c *Client, trace route.Trace) {
	method := h.Method()
	r.asked.Reset(h, c.Address, &f.Spec.Forwarded)
	page := f.page(h)
	if page != nil {
		r.decision = route.Decision{Rule: route.NoRule} // no rule is asked, and nothing is edited
	} else {
		r.decision.Decide(&f.Spec, &r.asked, trace)
	}
	r.Body = h.RequestBody()
	r.Repeatable = idempotent(method)
	r.ToHead = string(method) == "HEAD"
	r.safe = r.ToHead || string(method) == "GET"
	r.KeepAlive = h.KeepAlive()
	r.minor = h.Minor()
	r.upgrade = h.Upgrade() != nil
	r.server = nil
	r.late = false
	r.persisted = persisted{post: string(method) == "POST"}
	r.Ticket.Reset()
	r.twice = safeMethod(method)
	r.Tries = r.twice && r.Body.Framing == http1.NoBody
	r.Head = r.Head[:0]
	r.Backend, r.Answer = nil, nil
	beyond := r.beyond(&f.Spec.Limits, h)
	switch d := &r.decision; {
	case beyond != 0:
		r.Answer, r.KeepAlive = Refusal(beyond), false
	case page != nil:
		r.Backend = page
	case d.Deny != nil:
		r.deny(d.Deny)
	case d.Redirect != nil:
		r.redirect(d.Redirect, h, c)
	default:
		if r.Backend = f.Backends[d.Backend]; r.Backend == nil {
			r.Answer = Refusal(503)
		}
	}
	r.subjectHeader = f.Spec.TLS.SubjectHeader
	r.Body.Reserved = r.subjectHeader // a server may merge trailers into the head
	if r.Answer == nil {
		r.hash(h)
	}
}

func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// Next chooses the server to try: the one that the cookie names, then as the backend balances, each server once. nil: none
// is left, or, when the request Waits, its Waker tells when to ask again.
func (r *Request) Next() *pool.Server {
	r.server = nil
	if r.Waits() || r.more() {
		r.server = r.Backend.Next(&r.Ticket)
	}
	return r.server
}

// same reports whether two are one server, perhaps before and after a change; nil is no server.
func same(a, b *pool.Server) bool { return a != nil && b != nil && a.ID() == b.ID() }

// appendHead makes the head for the server: the client's, without what was for this hop only.
func (r *Request) appendHead(f *spec.Forwarded, h *http1.Head, c *Client) {
	cookie := &r.Backend.Spec.Cookie
	edits := r.decision.Edits
	out := http1.AppendRequestLine(r.Head, h.Method(), r.path(h, edits), h.Query())
	if host := newHost(edits); host != "" {
		out = http1.AppendField(out, "Host", host)
	} else if !h.HasHost() {
		// A client of HTTP/1.0 may leave it out, but what goes to the server is HTTP/1.1.
		if host := h.Authority(); len(host) > 0 {
			out = http1.AppendField(out, "Host", host)
		} else {
			out = http1.AppendField(out, "Host", c.Local)
		}
	}
	for i := range h.Fields() {
		if h.HopByHop(i) || tellsOfClient(h.Known(i)) {
			continue
		}
		if len(edits) > 0 && (h.Known(i) == http1.Host && newHost(edits) != "" || replaced(edits, false, h.Name(i))) {
			if h.Known(i) == http1.Cookie && cookie.Name != "" {
				r.readCookies(h.Value(i), cookie) // it counts all the same
			}
			continue
		}
		switch h.Known(i) {
		case http1.Expect:
			if r.minor == 0 || r.Body.Framing == http1.NoBody {
				continue // RFC 9110 10.1.1: to be ignored; without a body there is nothing to wait for
			}
		case http1.Cookie:
			if cookie.Name != "" {
				named := r.readCookies(h.Value(i), cookie)
				if named && (cookie.Mode == spec.CookieInsert && cookie.Indirect || cookie.Mode == spec.CookiePrefix) {
					out = appendCookies(out, h.Name(i), h.Value(i), cookie)
					continue
				}
			}
		}
		if r.vouched(h.Name(i)) {
			continue
		}
		out = http1.AppendField(out, h.Name(i), h.Value(i))
	}
	out = appendEdits(out, edits, false)
	out = r.appendVouched(out, c)
	out = r.appendForwarded(out, f, h, c)
	if r.Body.Framing == http1.Chunked {
		out = http1.AppendField(out, "Transfer-Encoding", "chunked")
	}
	if r.upgrade {
		out = http1.AppendField(out, "Connection", "Upgrade")
		out = http1.AppendField(out, "Upgrade", h.Upgrade())
	}
	r.Head = http1.AppendEnd(out)
}
