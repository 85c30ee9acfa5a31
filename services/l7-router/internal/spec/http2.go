package spec

import routerv1 "github.com/twotier/twotier/proto/router/v1"

// Limits and defaults of HTTP/2.
const (
	DefaultHTTP2Streams = 100
	// MaxHTTP2Streams is the most requests of one connection at a time that may be configured.
	MaxHTTP2Streams = 1000
)

// HTTP2 is how a frontend speaks HTTP/2.
type HTTP2 struct {
	// Disabled: it is not offered to clients of TLS.
	Disabled bool
	// Cleartext: connections in cleartext may begin with its preface.
	Cleartext bool
	// Streams is the most requests of one connection at a time; 0: HTTP/2 is not spoken.
	Streams int
}

func (p *parser) http2(path string, m *routerv1.Http2, tls bool) HTTP2 {
	h := HTTP2{
		Disabled:  m.GetDisabled(),
		Cleartext: m.GetCleartext(),
		Streams:   p.number(path+".max_concurrent_streams", m.GetMaxConcurrentStreams(), DefaultHTTP2Streams, MaxHTTP2Streams),
	}
	if h.Disabled && !tls {
		p.refuse(path+".disabled", "without bind_tls it has no use")
	}
	if !h.Cleartext && (h.Disabled || !tls) {
		if m.GetMaxConcurrentStreams() != 0 {
			p.refuse(path+".max_concurrent_streams", "HTTP/2 is not spoken, so it has no use")
		}
		h.Streams = 0
	}
	return h
}

func (p *parser) h2c(path string, protocol routerv1.Protocol) bool {
	switch protocol {
	case routerv1.Protocol_PROTOCOL_UNSPECIFIED, routerv1.Protocol_PROTOCOL_HTTP1:
	case routerv1.Protocol_PROTOCOL_H2C:
		return true
	default:
		p.refuse(path, "not a known protocol: %v", protocol)
	}
	return false
}

// NeedsStreams reports whether the connections of a frontend in cleartext may carry HTTP/2, from their clients or to servers of
// one of these backends.
func (f *Frontend) NeedsStreams(backends []Backend) bool {
	if f.HTTP2.Cleartext {
		return true
	}
	for _, b := range backends {
		if !b.H2C {
			continue
		}
		if b.Name == f.DefaultBackend {
			return true
		}
		for _, rule := range f.Rules {
			if rule.Backend == b.Name {
				return true
			}
		}
	}
	return false
}
