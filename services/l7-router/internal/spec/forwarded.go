package spec

import (
	"net/netip"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// MaxTrusted is the most networks of trusted hops of a frontend.
const MaxTrusted = 64

// Forwarded is what servers are told of the client, and whose word is taken for it. The zero value trusts nobody and sends
// X-Forwarded-For.
type Forwarded struct {
	// For is what becomes of X-Forwarded-For.
	For ForwardedFor
	// Proto, Host and Port send X-Forwarded-Proto and its like; Standard sends Forwarded.
	Proto, Host, Port, Standard bool
	// Trusted are the hops in front of the router.
	Trusted []netip.Prefix
	// From is the field in which they tell the client.
	From ClientFrom
}

// ForwardedFor is what becomes of X-Forwarded-For.
type ForwardedFor uint8

// What may become of it.
const (
	// ForwardedAppend puts the sender of the connection behind what a trusted hop has sent.
	ForwardedAppend ForwardedFor = iota
	// ForwardedReplace tells the client alone.
	ForwardedReplace
	// ForwardedOff adds nothing.
	ForwardedOff
)

// ClientFrom is a field that tells the client.
type ClientFrom uint8

// The fields.
const (
	FromXForwardedFor ClientFrom = iota
	FromForwarded
)

func (p *parser) forwarded(path string, m *routerv1.Forwarded) Forwarded {
	f := Forwarded{Proto: m.GetXForwardedProto(), Host: m.GetXForwardedHost(), Port: m.GetXForwardedPort(), Standard: m.GetForwarded()}
	switch m.GetXForwardedFor() {
	case routerv1.ForwardedFor_FORWARDED_FOR_UNSPECIFIED, routerv1.ForwardedFor_FORWARDED_FOR_APPEND:
	case routerv1.ForwardedFor_FORWARDED_FOR_REPLACE:
		f.For = ForwardedReplace
	case routerv1.ForwardedFor_FORWARDED_FOR_OFF:
		f.For = ForwardedOff
	default:
		p.refuse(path+".x_forwarded_for", "not a known way: %v", m.GetXForwardedFor())
	}
	switch m.GetClientFrom() {
	case routerv1.ClientFrom_CLIENT_FROM_UNSPECIFIED, routerv1.ClientFrom_CLIENT_FROM_X_FORWARDED_FOR:
	case routerv1.ClientFrom_CLIENT_FROM_FORWARDED:
		f.From = FromForwarded
		if len(m.GetTrusted()) == 0 {
			p.refuse(path+".client_from", "nobody is trusted, so nobody tells the client")
		}
	default:
		p.refuse(path+".client_from", "not a known field: %v", m.GetClientFrom())
	}
	if len(m.GetTrusted()) > MaxTrusted {
		p.refuse(path+".trusted", "want at most %d networks, got %d", MaxTrusted, len(m.GetTrusted()))
	}
	f.Trusted = p.networks(path+".trusted", m.GetTrusted(), &budget{})
	return f
}

// ownFields refuses edits of the fields that the frontend sends itself.
func (p *parser) ownFields(path string, f *Frontend) {
	own := map[string]bool{"x-forwarded-proto": f.Forwarded.Proto, "x-forwarded-host": f.Forwarded.Host, "x-forwarded-port": f.Forwarded.Port}
	if name := f.TLS.SubjectHeader; name != "" {
		own[strings.ToLower(name)] = true
	}
	for i, rule := range f.Rules {
		if rule.Edit == nil {
			continue
		}
		for _, name := range rule.Edit.Request.names() {
			if own[name] {
				p.refuse(indexed(path+".rules", i)+".edit", "%s is sent by the frontend itself", name)
			}
		}
	}
}
