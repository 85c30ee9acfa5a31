package exchange

import (
	"strconv"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// tellsOfClient reports whether a field is one of those that tell whom a request came from. They are judged by Forwarded,
// not passed on like others.
func tellsOfClient(n http1.Name) bool {
	switch n {
	case http1.XForwardedFor, http1.Forwarded, http1.XForwardedProto, http1.XForwardedHost, http1.XForwardedPort:
		return true
	}
	return false
}

// appendForwarded appends what the server is told of the client. What a trusted hop has said goes on, unless an edit takes
// it away; of X-Forwarded-For and Forwarded only the one that it is trusted with.
func (r *Request) appendForwarded(dst []byte, f *spec.Forwarded, h *http1.Head, c *Client) []byte {
	var proto, host, port bool // a trusted hop has told it
	list := http1.Other        // the list of hops to go on with
	if r.asked.Trusted() {
		list = http1.XForwardedFor
		if f.From == spec.FromForwarded {
			list = http1.Forwarded
		}
		for i := range h.Fields() {
			n := h.Known(i)
			if !tellsOfClient(n) || h.HopByHop(i) || replaced(r.decision.Edits, false, h.Name(i)) {
				continue
			}
			switch n {
			case http1.XForwardedProto:
				proto = true
			case http1.XForwardedHost:
				host = true
			case http1.XForwardedPort:
				port = true
			case http1.XForwardedFor:
				if list != n || f.For != spec.ForwardedOff {
					continue
				}
			case http1.Forwarded:
				if list != n || f.Standard {
					continue
				}
			}
			dst = http1.AppendField(dst, h.Name(i), h.Value(i))
		}
	}

	switch f.For {
	case spec.ForwardedAppend:
		dst = append(dst, "X-Forwarded-For: "...)
		switch {
		case list == http1.XForwardedFor:
			dst = appendList(dst, h, list)
		case r.hasClient():
			dst = append(r.asked.Client().AppendTo(dst), ", "...)
		}
		dst = append(append(dst, c.Address...), "\r\n"...)
	case spec.ForwardedReplace:
		dst = append(dst, "X-Forwarded-For: "...)
		if r.hasClient() {
			dst = r.asked.Client().AppendTo(dst)
		} else {
			dst = append(dst, c.Address...)
		}
		dst = append(dst, "\r\n"...)
	}
	if !proto && (f.Proto || c.TLS && !replaced(r.decision.Edits, false, "X-Forwarded-Proto")) {
		dst = http1.AppendField(dst, "X-Forwarded-Proto", c.scheme())
	}
	if f.Host && !host && len(r.asked.Host()) > 0 {
		dst = http1.AppendField(dst, "X-Forwarded-Host", r.asked.Host())
	}
	if f.Port && !port && c.Port != 0 {
		dst = append(dst, "X-Forwarded-Port: "...)
		dst = append(strconv.AppendUint(dst, uint64(c.Port), 10), "\r\n"...)
	}
	if f.Standard {
		dst = r.appendStandard(dst, list, h, c)
	}
	return dst
}

// appendStandard appends Forwarded (RFC 7239).
func (r *Request) appendStandard(dst []byte, list http1.Name, h *http1.Head, c *Client) []byte {
	dst = append(dst, "Forwarded: "...)
	switch {
	case list == http1.Forwarded:
		dst = appendList(dst, h, list)
	case r.hasClient():
		dst = append(dst, "for="...)
		client := r.asked.Client()
		if client.Is6() {
			dst = append(client.AppendTo(append(dst, `"[`...)), `]", `...)
		} else {
			dst = append(client.AppendTo(dst), ", "...)
		}
	}
	dst = append(dst, "for="...)
	switch peer := r.asked.Peer(); {
	case peer.Is4():
		dst = peer.AppendTo(dst)
	case peer.IsValid():
		dst = append(peer.AppendTo(append(dst, `"[`...)), `]"`...)
	default:
		dst = append(dst, "unknown"...)
	}
	if host := r.asked.Host(); len(host) > 0 {
		dst = append(dst, `;host="`...) // a host has neither quote nor backslash
		dst = append(append(dst, host...), '"')
	}
	return append(append(append(dst, ";proto="...), c.scheme()...), "\r\n"...)
}

// hasClient reports whether the client is another than the sender of the connection.
func (r *Request) hasClient() bool {
	return r.asked.Trusted() && r.asked.Client() != r.asked.Peer()
}

// appendList appends the values of a field, with a comma behind each.
func appendList(dst []byte, h *http1.Head, n http1.Name) []byte {
	for i := range h.Fields() {
		if h.Known(i) == n && !h.HopByHop(i) && len(h.Value(i)) > 0 {
			dst = append(append(dst, h.Value(i)...), ", "...)
		}
	}
	return dst
}

func (c *Client) scheme() string {
	if c.TLS {
		return "https"
	}
	return "http"
}
