package exchange

import (
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// deny refuses the request, with an answer of its own: whoever counts tells it from that of a backend without a server.
func (r *Request) deny(d *spec.Deny) {
	r.own = *Refusal(d.Status)
	r.own.Hold = d.Hold
	r.Answer = &r.own
}

// noCache goes with the redirects that a cache may not keep (HAProxy does so too).
var noCache = []Field{{"Cache-Control", "no-cache"}}

// redirect sends the client elsewhere.
func (r *Request) redirect(to *spec.Redirect, h *http1.Head, c *Client) {
	out := r.scratch[:0]
	switch {
	case to.Location != "":
		out = append(out, to.Location...)
	case to.Prefix != "":
		out = append(out, to.Prefix...)
	default:
		out = append(append(out, to.Scheme...), "://"...)
		if host := r.asked.Host(); len(host) > 0 {
			out = append(out, host...)
		} else {
			out = append(out, c.Local...) // HTTP/1.0
		}
	}
	if to.Location == "" {
		if path := h.Path(); path[0] == '/' {
			out = append(out, path...)
		} else {
			out = append(out, '/') // "*" is no path
		}
		if query := h.Query(); len(query) > 1 && !to.DropQuery {
			out = append(out, query...)
		}
	}
	r.scratch = out
	r.own = Answer{Status: to.Code, Location: out}
	if to.Code != 301 && to.Code != 308 {
		r.own.Fields = noCache
	}
	r.Answer = &r.own
}

// newHost is the value of Host that the edits want, empty: the client's.
func newHost(edits []*spec.Edit) string {
	host := ""
	for _, e := range edits {
		if e.Host != "" {
			host = e.Host
		}
	}
	return host
}

// path is the path for the server.
func (r *Request) path(h *http1.Head, edits []*spec.Edit) []byte {
	path, turn := h.Path(), 0
	if len(edits) == 0 || path[0] != '/' { // "*" stays
		return path
	}
	for _, e := range edits {
		p, out := &e.Path, r.paths[turn][:0]
		switch {
		case p.Set != "":
			out = append(out, p.Set...)
		case p.Prefix != "" && len(path) >= len(p.Prefix) && string(path[:len(p.Prefix)]) == p.Prefix:
			out = append(append(out, p.Replacement...), path[len(p.Prefix):]...)
		case p.Regex.Regexp != nil:
			at := p.Regex.FindSubmatchIndex(path)
			if at == nil {
				continue
			}
			out = p.Regex.Expand(out, []byte(p.Replacement), path, at)
		default:
			continue
		}
		r.paths[turn] = out
		// What begins with "//" some take for the name of a host.
		for path = out; len(path) > 1 && path[1] == '/'; {
			path = path[1:]
		}
		turn = 1 - turn
	}
	return path
}

// of picks what an edit does to the request or to the response.
func of(e *spec.Edit, response bool) *spec.Fields {
	if response {
		return &e.Response
	}
	return &e.Request
}

// replaced reports whether the edits take fields of this name away.
func replaced[T []byte | string](edits []*spec.Edit, response bool, name T) bool {
	for _, e := range edits {
		f := of(e, response)
		for _, s := range f.Remove {
			if http1.EqualFold([]byte(name), s) {
				return true
			}
		}
		for i := range f.Set {
			if http1.EqualFold([]byte(name), f.Set[i].Name) {
				return true
			}
		}
	}
	return false
}

// appendEdits appends the fields that the edits make, but for those that a later one takes away again.
func appendEdits(dst []byte, edits []*spec.Edit, response bool) []byte {
	for i, e := range edits {
		f := of(e, response)
		for _, list := range [...][]spec.Header{f.Set, f.Add} {
			for _, field := range list {
				if !replaced(edits[i+1:], response, field.Name) {
					dst = http1.AppendField(dst, field.Name, field.Value)
				}
			}
		}
	}
	return dst
}
