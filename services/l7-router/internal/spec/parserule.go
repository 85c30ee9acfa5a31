package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// Limits of the rules of one frontend.
const (
	// MaxDepth is how deep conditions stand in each other.
	MaxDepth = 8
	// MaxValues is the most values of one comparison.
	MaxValues = 256
	// MaxParts is the most conditions and values in all rules of a frontend: what a request may have to be compared with.
	MaxParts = 4096
	// MaxRegexes is the most regular expressions in all rules of a frontend.
	MaxRegexes = 64
	// MaxRegexBytes and MaxRegexSteps are the most bytes of a regular expression, and instructions that it compiles to. Each
	// byte of a path takes at most one step for each instruction, some 20 ns: the worst expression holds a loop up for some
	// 5 ms for each KiB of a path.
	MaxRegexBytes, MaxRegexSteps = 256, 250
	// MaxText is the most bytes of a value to compare with, of a header that is set, or of an address to redirect to.
	MaxText = 1024
	// MaxEdits is the most fields that one edit names in one list.
	MaxEdits = 32
	// MaxTarpit is the longest time that a client is held.
	MaxTarpit = time.Hour
)

// budget is what the rules of a frontend have used up.
type budget struct{ parts, regexes int }

func (p *parser) rules(path string, messages []*routerv1.Rule, backends map[string]bool) (rules []Rule) {
	if len(messages) > MaxRules {
		p.refuse(path, "want at most %d rules, got %d", MaxRules, len(messages))
	}
	var used budget
	for i, m := range messages {
		rules = append(rules, p.rule(indexed(path, i), m, backends, &used))
	}
	if used.parts > MaxParts {
		p.refuse(path, "want at most %d conditions and values to compare with, got %d", MaxParts, used.parts)
	}
	if used.regexes > MaxRegexes {
		p.refuse(path, "want at most %d regular expressions, got %d", MaxRegexes, used.regexes)
	}
	return rules
}

func (p *parser) rule(path string, m *routerv1.Rule, backends map[string]bool, used *budget) Rule {
	r := Rule{
		Condition: p.condition(path+".condition", m.GetCondition(), 1, used),
		Backend:   m.GetBackend(),
		Deny:      p.deny(path+".deny", m.GetDeny()),
		Redirect:  p.redirect(path+".redirect", m.GetRedirect()),
		Edit:      p.edit(path+".edit", m.GetEdit(), used),
	}
	actions := 0
	for _, set := range []bool{r.Backend != "", r.Deny != nil, r.Redirect != nil, r.Edit != nil} {
		if set {
			actions++
		}
	}
	switch {
	case actions > 1:
		p.refuse(path, "want exactly one of backend, deny, redirect and edit, got %d", actions)
	case actions == 0:
		p.refuse(path+".backend", "want the name of a backend, or deny, redirect or edit instead")
	case r.Backend != "" && !backends[r.Backend]:
		p.refuse(path+".backend", "there is no backend %q", r.Backend)
	}
	return r
}

func (p *parser) condition(path string, m *routerv1.Condition, depth int, used *budget) Condition {
	if m == nil {
		return Condition{}
	}
	if depth > MaxDepth {
		p.refuse(path, "want conditions in each other at most %d deep", MaxDepth)
		return Condition{}
	}
	used.parts++
	c := Condition{
		Methods:      p.texts(path+".methods", m.GetMethods(), used, "a method such as POST", token),
		Paths:        p.texts(path+".paths", m.GetPaths(), used, "a path such as /index.php", isPath),
		PathPrefixes: p.texts(path+".path_prefixes", m.GetPathPrefixes(), used, "the start of a path, such as /static/", isPath),
		PathSuffixes: p.texts(path+".path_suffixes", m.GetPathSuffixes(), used, "the end of a path, such as .png", isPathPart),
		PathRegexes:  p.regexes(path+".path_regexes", m.GetPathRegexes(), used),
		PathForm:     p.form(path+".path_form", m.GetPathForm()),
		Hosts:        lowered(p.texts(path+".hosts", m.GetHosts(), used, "a host without port, such as www.example.org or *.example.org", isHostPattern)),
		Headers:      p.matches(path+".headers", m.GetHeaders(), used, token),
		Cookies:      p.matches(path+".cookies", m.GetCookies(), used, token),
		Queries: p.matches(path+".queries", m.GetQueries(), used, func(name string) bool {
			return name != "" && visible(name) && !strings.ContainsAny(name, "&=;#")
		}),
		Sources: p.networks(path+".sources", m.GetSources(), used),
	}
	// A value that no path has in this form would never be found, and nobody would notice.
	if c.PathForm == PathNormalised || c.PathForm == PathDecoded {
		for i, value := range c.Paths {
			p.inForm(fmt.Sprintf("%s.paths[%d]", path, i), value, c.PathForm)
		}
		for i, value := range c.PathPrefixes {
			p.inForm(fmt.Sprintf("%s.path_prefixes[%d]", path, i), value, c.PathForm)
		}
	}
	for i, inner := range m.GetAll() {
		c.All = append(c.All, p.condition(fmt.Sprintf("%s.all[%d]", path, i), inner, depth+1, used))
	}
	for i, inner := range m.GetAny() {
		c.Any = append(c.Any, p.condition(fmt.Sprintf("%s.any[%d]", path, i), inner, depth+1, used))
	}
	if m.GetNot() != nil {
		not := p.condition(path+".not", m.GetNot(), depth+1, used)
		c.Not = &not
	}
	return c
}

func (p *parser) inForm(path, value string, form PathForm) {
	if strings.HasSuffix(value, "/.") || strings.HasSuffix(value, "/..") {
		return // the start of a name with a dot
	}
	if got := string(http1.AppendNormalisedPath(nil, []byte(value))); form == PathNormalised && got != value {
		p.refuse(path, "no normalised path is like %q; want %q", value, got)
	}
	if got := string(http1.AppendDecodedPath(nil, []byte(value))); form == PathDecoded && got != value {
		p.refuse(path, "no decoded path is like %q; want %q", value, got)
	}
}

// texts checks the values of one comparison, nil when there is none.
func (p *parser) texts(path string, values []string, used *budget, want string, ok func(string) bool) []string {
	p.many(path, len(values), used)
	for i, value := range values {
		if len(value) > MaxText || !ok(value) {
			p.refuse(indexed(path, i), "want %s, got %q", want, short(value))
		}
	}
	return slices.Clone(values)
}

// many counts values.
func (p *parser) many(path string, n int, used *budget) {
	if n > MaxValues {
		p.refuse(path, "want at most %d values, got %d", MaxValues, n)
	}
	used.parts += n
}

func (p *parser) regexes(path string, values []string, used *budget) (all []Regex) {
	p.many(path, len(values), used)
	for i, value := range values {
		if re, ok := p.regex(indexed(path, i), value, used); ok {
			all = append(all, re)
		}
	}
	return all
}

func (p *parser) regex(path, value string, used *budget) (Regex, bool) {
	if used.regexes++; used.regexes > MaxRegexes {
		return Regex{}, false // said once, of all rules
	}
	if value == "" || len(value) > MaxRegexBytes {
		p.refuse(path, "want a regular expression of 1 to %d bytes, got %d", MaxRegexBytes, len(value))
		return Regex{}, false
	}
	tree, err := syntax.Parse(value, syntax.Perl)
	if err == nil {
		var program *syntax.Prog
		if program, err = syntax.Compile(tree.Simplify()); err == nil && len(program.Inst) > MaxRegexSteps {
			p.refuse(path, "want a regular expression of at most %d instructions, got %d", MaxRegexSteps, len(program.Inst))
			return Regex{}, false
		}
	}
	re, err2 := regexp.Compile(value)
	if err = cmp.Or(err, err2); err != nil {
		p.refuse(path, "want a regular expression of RE2: %v", err)
		return Regex{}, false
	}
	return Regex{re}, true
}

func (p *parser) form(path string, form routerv1.PathForm) PathForm {
	switch form {
	case routerv1.PathForm_PATH_FORM_UNSPECIFIED:
		return PathAny
	case routerv1.PathForm_PATH_FORM_SENT:
		return PathSent
	case routerv1.PathForm_PATH_FORM_NORMALISED:
		return PathNormalised
	case routerv1.PathForm_PATH_FORM_DECODED:
		return PathDecoded
	}
	p.refuse(path, "not a known form of paths: %v", form)
	return PathAny
}

func (p *parser) matches(path string, messages []*routerv1.TextMatch, used *budget, name func(string) bool) (all []TextMatch) {
	p.many(path, len(messages), used)
	for i, m := range messages {
		at := indexed(path, i)
		if !name(m.GetName()) || len(m.GetName()) > MaxText {
			p.refuse(at+".name", "want a name, got %q", short(m.GetName()))
		}
		some := func(s string) bool { return s != "" && printable(s) }
		t := TextMatch{
			Name:     m.GetName(),
			Exact:    p.texts(at+".exact", m.GetExact(), used, "a value that can be sent", printable),
			Prefixes: p.texts(at+".prefixes", m.GetPrefixes(), used, "the start of a value", some),
			Suffixes: p.texts(at+".suffixes", m.GetSuffixes(), used, "the end of a value", some),
			Contains: p.texts(at+".contains", m.GetContains(), used, "a part of a value", some),
			Regexes:  p.regexes(at+".regexes", m.GetRegexes(), used), IgnoreCase: m.GetIgnoreCase(), Members: m.GetMembers(),
		}
		if t.IgnoreCase {
			lowered(t.Exact)
			lowered(t.Prefixes)
			lowered(t.Suffixes)
			lowered(t.Contains)
		}
		if t.Members && !strings.Contains(path[strings.LastIndexByte(path, '.'):], "headers") {
			p.refuse(at+".members", "only header fields have members")
		}
		all = append(all, t)
	}
	return all
}

// networks reads networks, or single addresses.
func (p *parser) networks(path string, values []string, used *budget) (all []netip.Prefix) {
	p.many(path, len(values), used)
	for i, value := range values {
		network, err := netip.ParsePrefix(value)
		if err != nil {
			var address netip.Addr
			if address, err = netip.ParseAddr(value); err == nil {
				address = address.Unmap()
				network, err = address.WithZone("").Prefix(address.BitLen())
			}
		}
		if err != nil || network.Addr().Is4In6() || network != network.Masked() {
			p.refuse(indexed(path, i), "want a network such as 10.0.0.0/8, with zeros behind its prefix, or an address, got %q", short(value))
			continue
		}
		all = append(all, network)
	}
	return all
}

// denials are the statuses of the pages that the router has.
var denials = []int{400, 401, 403, 404, 405, 408, 410, 413, 421, 422, 425, 429, 500, 501, 502, 503, 504}

func (p *parser) deny(path string, m *routerv1.Deny) *Deny {
	if m == nil {
		return nil
	}
	d := &Deny{Status: int(m.GetStatus())}
	otherwise := 403
	if m.GetTarpit() != nil {
		d.Hold = p.duration(path+".tarpit", m.GetTarpit(), 0, time.Millisecond, MaxTarpit)
		otherwise = 500
	}
	d.Status = cmp.Or(d.Status, otherwise)
	if !slices.Contains(denials, d.Status) {
		p.refuse(path+".status", "want one of %v, got %d", denials, d.Status)
	}
	return d
}

func (p *parser) redirect(path string, m *routerv1.Redirect) *Redirect {
	if m == nil {
		return nil
	}
	r := &Redirect{Location: m.GetLocation(), Prefix: m.GetPrefix(), Scheme: m.GetScheme(), Code: int(cmp.Or(m.GetCode(), 302)), DropQuery: m.GetDropQuery()}
	kinds := 0
	for _, set := range []bool{r.Location != "", r.Prefix != "", r.Scheme != ""} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		p.refuse(path, "want exactly one of location, prefix and scheme, got %d", kinds)
	}
	if !visible(r.Location) || len(r.Location) > MaxText {
		p.refuse(path+".location", "want an address of at most %d visible characters, got %q", MaxText, short(r.Location))
	}
	// With a prefix of "/" the path "//example.net" of a request would lead to another host, with "https://" even "/example.net".
	if !visible(r.Prefix) || len(r.Prefix) > MaxText || strings.ContainsAny(r.Prefix, "?#") || r.Prefix != "" && nowhere(r.Prefix) {
		p.refuse(path+".prefix", "want the start of an address, such as https://www.example.org, got %q", short(r.Prefix))
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		p.refuse(path+".scheme", "want http or https, got %q", short(r.Scheme))
	}
	if !slices.Contains([]int{301, 302, 303, 307, 308}, r.Code) {
		p.refuse(path+".code", "want 301, 302, 303, 307 or 308, got %d", r.Code)
	}
	if r.DropQuery && r.Location != "" {
		p.refuse(path+".drop_query", "a location has no query of the request")
	}
	return r
}

// nowhere reports whether a prefix leaves it to what stands behind it which host is meant. Browsers read \ as /.
func nowhere(prefix string) bool {
	rest := strings.TrimRight(prefix, `/\`)
	return rest == "" || strings.HasSuffix(rest, ":")
}

func (p *parser) edit(path string, m *routerv1.Edit, used *budget) *Edit {
	if m == nil {
		return nil
	}
	e := &Edit{
		Request: Fields{
			Remove: p.removed(path+".remove_request_headers", m.GetRemoveRequestHeaders()),
			Set:    p.once(path+".set_request_headers", p.headers(path+".set_request_headers", m.GetSetRequestHeaders())),
			Add:    p.headers(path+".add_request_headers", m.GetAddRequestHeaders()),
		},
		Response: Fields{
			Remove: p.removed(path+".remove_response_headers", m.GetRemoveResponseHeaders()),
			Set:    p.once(path+".set_response_headers", p.headers(path+".set_response_headers", m.GetSetResponseHeaders())),
			Add:    p.headers(path+".add_response_headers", m.GetAddResponseHeaders()),
		},
		Host: m.GetSetHost(),
		Path: p.pathEdit(path+".path", m.GetPath(), used),
	}
	if e.Host != "" && !isHostPort(e.Host) {
		p.refuse(path+".set_host", "want a host, with a port or without, such as app.internal:8080, got %q", short(e.Host))
	}
	n := 0
	for _, f := range []*Fields{&e.Request, &e.Response} {
		n += len(f.Remove) + len(f.Set) + len(f.Add)
	}
	if n == 0 && e.Host == "" && m.GetPath() == nil {
		p.refuse(path, "want something to change")
	}
	return e
}

func (p *parser) removed(path string, names []string) []string {
	if len(names) > MaxEdits {
		p.refuse(path, "want at most %d, got %d", MaxEdits, len(names))
	}
	for i, name := range names {
		p.editable(indexed(path, i), name)
	}
	return slices.Clone(names)
}

func (p *parser) headers(path string, messages []*routerv1.Header) (all []Header) {
	if len(messages) > MaxEdits {
		p.refuse(path, "want at most %d, got %d", MaxEdits, len(messages))
	}
	for i, m := range messages {
		at := indexed(path, i)
		p.editable(at+".name", m.GetName())
		value := m.GetValue()
		if len(value) > MaxText || !visible(strings.ReplaceAll(value, " ", "")) || strings.TrimSpace(value) != value {
			p.refuse(at+".value", "want a value of at most %d visible characters, with spaces only between them, got %q", MaxText, short(value))
		}
		all = append(all, Header{m.GetName(), value})
	}
	return all
}

// once refuses names that are set twice: only one of the values could be sent.
func (p *parser) once(path string, headers []Header) []Header {
	for i, h := range headers {
		if slices.ContainsFunc(headers[:i], func(o Header) bool { return strings.EqualFold(o.Name, h.Name) }) {
			p.refuse(fmt.Sprintf("%s[%d].name", path, i), "%q is set above", h.Name)
		}
	}
	return headers
}

// kept are the fields that no edit touches: they frame the message or belong to the connection (RFC 9110 section 7.6.1), or
// the router makes them itself.
var kept = []string{
	"host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade",
	"expect", "x-forwarded-for", "forwarded",
}

func (p *parser) editable(path, name string) {
	if !token(name) || len(name) > MaxText || slices.Contains(kept, strings.ToLower(name)) {
		p.refuse(path, "want the name of a field that edits may touch, such as X-Forwarded-Proto, got %q", short(name))
	}
}

func (p *parser) pathEdit(path string, m *routerv1.PathEdit, used *budget) PathEdit {
	if m == nil {
		return PathEdit{}
	}
	e := PathEdit{Set: m.GetSet(), Prefix: m.GetPrefix(), Replacement: m.GetReplacement()}
	kinds := 0
	for _, set := range []bool{e.Set != "", e.Prefix != "", m.GetRegex() != ""} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		p.refuse(path, "want exactly one of set, prefix and regex, got %d", kinds)
	}
	if e.Set != "" && !isPath(e.Set) || len(e.Set) > MaxText {
		p.refuse(path+".set", "want a path such as /index.html, got %q", short(e.Set))
	}
	if e.Prefix != "" && !isPath(e.Prefix) || len(e.Prefix) > MaxText {
		p.refuse(path+".prefix", "want the start of a path, such as /app/, got %q", short(e.Prefix))
	}
	switch {
	case e.Set != "" && e.Replacement != "":
		p.refuse(path+".replacement", "there is nothing to replace beside set")
	case e.Set == "" && !isPath(e.Replacement) || len(e.Replacement) > MaxText:
		p.refuse(path+".replacement", "want what begins with /, got %q", short(e.Replacement))
	}
	if text := m.GetRegex(); text != "" {
		re, ok := p.regex(path+".regex", text, used)
		if ok {
			template, wrong := template(e.Replacement, re.NumSubexp())
			if wrong != "" {
				p.refuse(path+".replacement", "%s", wrong)
			}
			e.Regex, e.Replacement = re, template
		}
	}
	return e
}

// template makes a template of package regexp of one with \0 to \9.
func template(text string, groups int) (out, wrong string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '$':
			b.WriteString("$$")
		case c == '\\' && i+1 < len(text) && text[i+1] >= '0' && text[i+1] <= '9':
			i++
			n := int(text[i] - '0')
			if n > groups {
				return "", fmt.Sprintf("\\%d: the regular expression has %d groups", n, groups)
			}
			b.WriteString("${" + strconv.Itoa(n) + "}")
		case c == '\\':
			return "", `want \0 to \9 for groups; a path has no other backslash`
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

func isPath(s string) bool { return strings.HasPrefix(s, "/") && isPathPart(s) }

func isPathPart(s string) bool { return s != "" && visible(s) && !strings.ContainsAny(s, "?#") }

// isHostPattern takes a name, an address, or a name below which everything is meant.
func isHostPattern(s string) bool {
	name, _ := strings.CutPrefix(s, "*.")
	return isHost(name)
}

// isHost takes a name or an address without port (RFC 3986 section 3.2.2), an IPv6 address in brackets.
func isHost(s string) bool {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		address, err := netip.ParseAddr(strings.TrimSuffix(inside, "]"))
		return err == nil && strings.HasSuffix(s, "]") && address.Is6() && address.Zone() == ""
	}
	for _, c := range []byte(s) {
		if letter := c|0x20 >= 'a' && c|0x20 <= 'z'; !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 255 && s[0] != '.' && s[len(s)-1] != '.'
}

func isHostPort(s string) bool {
	if at := strings.LastIndexByte(s, ':'); at > strings.LastIndexByte(s, ']') {
		if n, err := strconv.ParseUint(s[at+1:], 10, 16); err != nil || n == 0 {
			return false
		}
		s = s[:at]
	}
	return isHost(s)
}

// printable reports whether s can stand in a field value (RFC 9110 section 5.5).
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// lowered makes the letters of ASCII small, in place.
func lowered(values []string) []string {
	for i, value := range values {
		values[i] = strings.Map(func(c rune) rune {
			if c >= 'A' && c <= 'Z' {
				return c + 'a' - 'A'
			}
			return c
		}, value)
	}
	return values
}

// indexed is the path of an element.
func indexed(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// short cuts a value that may be very long.
func short(s string) string { return s[:min(len(s), 100)] }
