// Package explain says what would become of a request, and why, without sending it: which rules are asked, who decides, and
// which server answers.
package explain

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Limits of a request that is asked about, beside those of http1.
const (
	// MaxFields is the most fields, for one or two may be added.
	MaxFields = http1.MaxFields - 2
	// DefaultClient is the sender of a request that names none.
	DefaultClient = "127.0.0.1"
)

// Router is where frontends are in force.
type Router interface {
	// Frontend returns one by its name, nil: there is none.
	Frontend(name string) *front.Frontend
	// Observe tells which addresses are listened on.
	Observe() plan.Have
}

// Servers tells the servers, live.
type Servers interface{ Servers() []pool.State }

// Question is a request to be explained.
type Question struct {
	// Frontend that it comes to, by name or by Address, the address and port that it calls.
	Frontend, Address string
	// Method; empty: GET. Target; empty: "/".
	Method, Target string
	// Fields of its head. Without a Host, that of Address, or "localhost", is added.
	Fields []Field
	// Client is the address of the sender of the connection; empty: DefaultClient.
	Client string
	// TLS: it comes over TLS.
	TLS bool
}

// Field is a header field.
type Field struct{ Name, Value string }

// Result is what would become of it.
type Result struct {
	// Frontend that it comes to.
	Frontend string
	// Rules are the rules of the frontend.
	Rules []spec.Rule
	// Refused is why the head would be refused before any rule; nil: it would not.
	Refused *http1.Error
	// Explanation is nil when Refused is not.
	*exchange.Explanation
	// Reason says why this server, or why none.
	Reason string
	// Candidates are the servers of the backend.
	Candidates []Candidate
}

// Candidate is a server that could get the request.
type Candidate struct {
	State  pool.State
	Chosen bool
	// Reason says why, or why not.
	Reason string
}

// Error is a question that cannot be asked: Field says what is wrong with it.
type Error struct{ Field, Reason string }

func (e *Error) Error() string { return e.Field + ": " + e.Reason }

// ErrNotFound is a frontend that is not in force.
var ErrNotFound = errors.New("no such frontend is in force")

// Explain answers a question. The errors are ErrNotFound and *Error.
func Explain(r Router, s Servers, q *Question) (*Result, error) {
	f, port, err := frontend(r, q)
	if err != nil {
		return nil, err
	}
	client, err := q.client()
	if err != nil {
		return nil, err
	}
	client.Port = port
	head, err := q.head()
	if err != nil {
		return nil, err
	}
	return explain(f, s.Servers(), head, client), nil
}

// frontend finds the frontend that is asked about, and the port that is called.
func frontend(r Router, q *Question) (*exchange.Frontend, uint16, error) {
	name, port := q.Frontend, uint16(0)
	if (name == "") == (q.Address == "") {
		return nil, 0, &Error{"frontend", "want either a frontend or an address"}
	}
	if q.Address != "" {
		address, err := netip.ParseAddrPort(q.Address)
		if err != nil {
			return nil, 0, &Error{"address", fmt.Sprintf("want HOST:PORT with an IP address, got %q", q.Address)}
		}
		if name = listening(r.Observe().Listeners, address); name == "" {
			return nil, 0, fmt.Errorf("%w: nothing listens on %s", ErrNotFound, address)
		}
		port = address.Port()
	}
	f := r.Frontend(name)
	if f == nil {
		return nil, 0, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	if now := f.Current(); port == 0 && len(now.Spec.Bind) > 0 {
		port = now.Spec.Bind[0].Port()
	}
	return f.Current(), port, nil
}

// listening is the frontend that an address leads to: one that is bound to it, or to every address at its port.
func listening(listeners []plan.Listener, to netip.AddrPort) string {
	every := ""
	for _, l := range listeners {
		switch a := l.Address.Addr(); {
		case l.Address.Port() != to.Port():
		case a == to.Addr().Unmap():
			return l.Frontend
		case !a.IsValid(), a.IsUnspecified() && a.Is4() == to.Addr().Unmap().Is4():
			every = l.Frontend
		}
	}
	return every
}

func (q *Question) client() (*exchange.Client, error) {
	text := q.Client
	if text == "" {
		text = DefaultClient
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return nil, &Error{"request.client", fmt.Sprintf("want an IP address, got %q", text)}
	}
	c := &exchange.Client{Address: address.Unmap().WithZone("").String(), Local: q.Address, TLS: q.TLS}
	if c.Local == "" {
		c.Local = "localhost"
	}
	return c, nil
}

// head makes the bytes that a client would send.
func (q *Question) head() ([]byte, error) {
	method, target := q.Method, q.Target
	if method == "" {
		method = "GET"
	}
	if target == "" {
		target = "/"
	}
	if strings.ContainsAny(method, " \r\n") {
		return nil, &Error{"request.method", fmt.Sprintf("want a method such as GET, got %q", method)}
	}
	if strings.ContainsAny(target, " \r\n") {
		return nil, &Error{"request.target", fmt.Sprintf("want a target such as /index.php?a=b, got %q", target)}
	}
	if len(q.Fields) > MaxFields {
		return nil, &Error{"request.headers", fmt.Sprintf("want at most %d, got %d", MaxFields, len(q.Fields))}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, target)
	host := false
	for i, f := range q.Fields {
		if strings.ContainsAny(f.Name, ":\r\n") || strings.ContainsAny(f.Value, "\r\n") {
			return nil, &Error{fmt.Sprintf("request.headers[%d]", i), "want a name without colon, and both without line ends"}
		}
		host = host || strings.EqualFold(f.Name, "Host")
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if !host {
		name := "localhost"
		if q.Address != "" {
			name = q.Address
		}
		if at := strings.Index(target, "://"); at > 0 && target[0] != '/' {
			name = target[at+3:]
			if end := strings.IndexAny(name, "/?"); end >= 0 {
				name = name[:end]
			}
		}
		fmt.Fprintf(&b, "Host: %s\r\n", name)
	}
	b.WriteString("\r\n")
	return b.Bytes(), nil
}

// explain answers for a frontend as it is.
func explain(f *exchange.Frontend, states []pool.State, head []byte, client *exchange.Client) *Result {
	result := &Result{Frontend: f.Spec.Name, Rules: f.Spec.Rules}
	var h http1.Head
	h.Reset(http1.Request)
	complete, err := h.Parse(head)
	switch {
	case errors.As(err, &result.Refused):
		return result
	case err != nil || !complete:
		result.Refused = http1.ErrHeadTooLarge // it has an end, so it is complete unless it is refused
		return result
	}
	result.Explanation = exchange.Explain(f, &h, client)
	b := result.Backend
	if b == nil {
		return result
	}
	live := map[string]pool.State{}
	for _, s := range states {
		if s.Backend == b.Spec.Name {
			live[s.Server.Name] = s
		}
	}
	for i := range b.Spec.Servers {
		server := b.Server(i)
		state, known := live[server.Spec.Name]
		if !known {
			state = pool.State{Backend: b.Spec.Name, Server: server.Spec, Weight: server.Spec.Weight}
		}
		c := Candidate{State: state, Chosen: same(server, result.Server)}
		c.Reason = result.why(server, &c)
		if c.Chosen {
			result.Reason = c.Reason
		}
		result.Candidates = append(result.Candidates, c)
	}
	if result.Server == nil {
		result.Reason = result.whyNobody()
	}
	return result
}

// same reports whether two are one server, perhaps before and after a change; nil is no server.
func same(a, b *pool.Server) bool { return a != nil && b != nil && a.ID() == b.ID() }

// why says why a server is chosen or not.
func (r *Result) why(s *pool.Server, c *Candidate) string {
	balanced, named := s.Takes()
	switch {
	case c.Chosen && same(s, r.Named):
		return fmt.Sprintf("the client's cookie %s names it", r.Backend.Spec.Cookie.Name)
	case c.Chosen && s.Spec.Backup:
		return "it is the first backup that can be used, and no other server can"
	case c.Chosen && r.Backend.Spec.Balance.Keyed():
		return fmt.Sprintf("it is the one for the hash (%s)", r.Backend.Spec.Balance.Algorithm)
	case c.Chosen:
		return fmt.Sprintf("it is its turn (%s)", r.Backend.Spec.Balance.Algorithm)
	case !balanced && !named:
		text := "it takes no requests: " + c.State.Status
		if c.State.LastCheck != "" {
			text += ", " + c.State.LastCheck
		}
		return text
	case r.Named != nil:
		return fmt.Sprintf("the client's cookie names %s", r.Named.Spec.Name)
	case !balanced:
		return "it takes only requests whose cookie names it: " + c.State.Status
	case s.Full():
		return "it is full"
	case c.State.Weight == 0:
		return "its weight is 0: it takes only requests whose cookie names it"
	case s.Spec.Backup:
		return "it is a backup, and another server can be used"
	}
	return "another server is before it"
}

// whyNobody says why no server gets the request.
func (r *Result) whyNobody() string {
	if len(r.Candidates) == 0 {
		return "the backend has no servers: 503"
	}
	for _, c := range r.Candidates {
		if strings.HasPrefix(c.Reason, "another server") {
			return "every server that can be used is full: the request waits for the first that is not"
		}
	}
	return "no server can be used: 503"
}
