package route

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// keepScratch is the most bytes of a spelled-out path that are kept for the next request.
const keepScratch = 4 << 10

// Request is what conditions look at. It is reused: Reset sets everything.
type Request struct {
	head *http1.Head
	peer string // address of the sender of the connection

	hops *spec.Forwarded

	looked         bool // what follows is known
	trusted        bool
	sender, client netip.Addr
	missing        string // the last condition that did not hold

	// What has been made of path and texts, for as long as the request is asked about.
	normalised, decoded, text []byte
	known                     [spec.PathDecoded + 1]bool
}

// Reset makes r ready for a request whose head is complete, from the address of a peer without port. hops says whose word
// is taken for who the client is.
func (r *Request) Reset(head *http1.Head, peer string, hops *spec.Forwarded) {
	r.head, r.peer, r.hops = head, peer, hops
	r.looked, r.trusted, r.sender, r.client, r.missing = false, false, netip.Addr{}, netip.Addr{}, ""
	r.normalised, r.decoded, r.text = scratch(r.normalised), scratch(r.decoded), scratch(r.text)
	r.known = [len(r.known)]bool{}
}

func scratch(b []byte) []byte {
	if cap(b) > keepScratch {
		return nil
	}
	return b[:0]
}

// Host is the host that the client asks for, with its port if it names one.
func (r *Request) Host() []byte {
	if host := r.head.Authority(); len(host) > 0 { // the same as Host, or http1 would have refused it
		return host
	}
	return r.head.Host()
}

// plain reports whether all forms of path and query are the same.
func (r *Request) plain() bool {
	return http1.PlainPath(r.head.Path()) && bytes.IndexByte(r.head.Query(), '%') < 0 && bytes.IndexByte(r.head.Query(), '+') < 0
}

// path is the path in one form.
func (r *Request) path(form spec.PathForm) []byte {
	path := r.head.Path()
	switch form {
	case spec.PathNormalised:
		if !r.known[form] {
			r.known[form] = true
			r.normalised = http1.AppendNormalisedPath(r.normalised[:0], path)
		}
		return r.normalised
	case spec.PathDecoded:
		if !r.known[form] {
			r.known[form] = true
			r.decoded = http1.AppendDecodedPath(r.decoded[:0], path)
		}
		return r.decoded
	}
	return path
}

// condition reports whether c holds with paths in the given form, where it does not name one itself.
func (r *Request) condition(c *spec.Condition, given spec.PathForm) bool {
	form := given
	if c.PathForm != spec.PathAny {
		form = c.PathForm
	}
	if len(c.Methods) > 0 && !contains(c.Methods, r.head.Method()) {
		return r.lacks("methods")
	}
	if len(c.Paths) > 0 && !contains(c.Paths, r.path(form)) {
		return r.lacks("paths")
	}
	if len(c.PathPrefixes) > 0 && !startsWith(c.PathPrefixes, r.path(form)) {
		return r.lacks("path_prefixes")
	}
	if len(c.PathSuffixes) > 0 && !endsWith(c.PathSuffixes, r.path(form)) {
		return r.lacks("path_suffixes")
	}
	if len(c.PathRegexes) > 0 && !matches(c.PathRegexes, r.path(form)) {
		return r.lacks("path_regexes")
	}
	if len(c.Hosts) > 0 && !r.host(c.Hosts) {
		return r.lacks("hosts")
	}
	if len(c.Sources) > 0 && !within(c.Sources, r.Client()) {
		return r.lacks("sources")
	}
	for i := range c.Headers {
		if !r.header(&c.Headers[i]) {
			return r.lacks("headers")
		}
	}
	for i := range c.Cookies {
		if !r.cookie(&c.Cookies[i]) {
			return r.lacks("cookies")
		}
	}
	for i := range c.Queries {
		if !r.query(&c.Queries[i], form) {
			return r.lacks("queries")
		}
	}
	for i := range c.All {
		if !r.condition(&c.All[i], given) {
			return false // what is missing has been said
		}
	}
	if len(c.Any) > 0 && !r.any(c.Any, given) {
		return r.lacks("any")
	}
	if c.Not != nil && r.condition(c.Not, given) {
		return r.lacks("not")
	}
	return true
}

func (r *Request) lacks(field string) bool {
	r.missing = field
	return false
}

func (r *Request) any(conditions []spec.Condition, given spec.PathForm) bool {
	for i := range conditions {
		if r.condition(&conditions[i], given) {
			return true
		}
	}
	return false
}

// host compares names without port, a dot at the end, and case.
func (r *Request) host(patterns []string) bool {
	name := hostName(r.Host())
	for _, pattern := range patterns {
		if pattern[0] == '*' {
			below := len(name) - (len(pattern) - 1)
			if below > 0 && http1.EqualFold(name[below:], pattern[1:]) {
				return true
			}
		} else if http1.EqualFold(name, pattern) {
			return true
		}
	}
	return false
}

// hostName cuts the port and a dot at the end off (RFC 3986 section 3.2.2).
func hostName(host []byte) []byte {
	if colon := bytes.LastIndexByte(host, ':'); colon > bytes.LastIndexByte(host, ']') {
		host = host[:colon]
	}
	return bytes.TrimSuffix(host, []byte("."))
}

func (r *Request) header(m *spec.TextMatch) bool {
	for i := range r.head.Fields() {
		if !http1.EqualFold(r.head.Name(i), m.Name) {
			continue
		}
		value := r.head.Value(i)
		if !m.Members {
			if fits(m, value) {
				return true
			}
			continue
		}
		if anyValue(m) {
			return true
		}
		for more := true; more; {
			var member []byte
			member, value, more = cutMember(value)
			if fits(m, member) {
				return true
			}
		}
	}
	return false
}

// cutMember takes the first member off a list (RFC 9110 section 5.6.1), with its quotes; more: a comma stood behind it.
func cutMember(list []byte) (member, rest []byte, more bool) {
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ',' && !quoted:
			return http1.Trim(list[:i]), list[i+1:], true
		}
	}
	return http1.Trim(list), nil, false
}

func (r *Request) cookie(m *spec.TextMatch) bool {
	for i := range r.head.Fields() {
		if r.head.Known(i) != http1.Cookie {
			continue
		}
		for rest := r.head.Value(i); len(rest) > 0; {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, []byte{';'})
			name, value, _ := bytes.Cut(pair, []byte{'='})
			if string(http1.Trim(name)) == m.Name && fits(m, http1.Trim(value)) {
				return true
			}
		}
	}
	return false
}

func (r *Request) query(m *spec.TextMatch, form spec.PathForm) bool {
	rest := r.head.Query()
	for rest = rest[min(1, len(rest)):]; len(rest) > 0; { // without the "?"
		pair := rest
		if end := bytes.IndexAny(rest, "&;"); end >= 0 {
			pair, rest = rest[:end], rest[end+1:]
		} else {
			rest = nil
		}
		name, value, _ := bytes.Cut(pair, []byte{'='})
		if form == spec.PathDecoded {
			r.text = http1.AppendDecodedText(r.text[:0], name)
			n := len(r.text)
			r.text = http1.AppendDecodedText(r.text, value)
			name, value = r.text[:n], r.text[n:]
		}
		if string(name) == m.Name && fits(m, value) {
			return true
		}
	}
	return false
}

// anyValue: no value is asked for.
func anyValue(m *spec.TextMatch) bool {
	return len(m.Exact)+len(m.Prefixes)+len(m.Suffixes)+len(m.Contains)+len(m.Regexes) == 0
}

// fits compares one value.
func fits(m *spec.TextMatch, value []byte) bool {
	if anyValue(m) {
		return true
	}
	if !m.IgnoreCase {
		return contains(m.Exact, value) || startsWith(m.Prefixes, value) || endsWith(m.Suffixes, value) ||
			slices.ContainsFunc(m.Contains, func(s string) bool { return includes(value, s, false) }) || matches(m.Regexes, value)
	}
	for _, s := range m.Exact {
		if http1.EqualFold(value, s) {
			return true
		}
	}
	for _, s := range m.Prefixes {
		if len(value) >= len(s) && http1.EqualFold(value[:len(s)], s) {
			return true
		}
	}
	for _, s := range m.Suffixes {
		if len(value) >= len(s) && http1.EqualFold(value[len(value)-len(s):], s) {
			return true
		}
	}
	for _, s := range m.Contains {
		if includes(value, s, true) {
			return true
		}
	}
	return matches(m.Regexes, value)
}

// includes reports whether value contains s.
func includes(value []byte, s string, fold bool) bool {
	for i := 0; i+len(s) <= len(value); i++ {
		part := value[i : i+len(s)]
		if string(part) == s || fold && http1.EqualFold(part, s) {
			return true
		}
	}
	return false
}

func contains(values []string, b []byte) bool {
	for _, s := range values {
		if s == string(b) {
			return true
		}
	}
	return false
}

func startsWith(values []string, b []byte) bool {
	for _, s := range values {
		if len(b) >= len(s) && string(b[:len(s)]) == s {
			return true
		}
	}
	return false
}

func endsWith(values []string, b []byte) bool {
	for _, s := range values {
		if len(b) >= len(s) && string(b[len(b)-len(s):]) == s {
			return true
		}
	}
	return false
}

func matches(values []spec.Regex, b []byte) bool {
	for _, re := range values {
		if re.Match(b) {
			return true
		}
	}
	return false
}
