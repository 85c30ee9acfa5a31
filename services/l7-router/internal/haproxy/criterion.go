package haproxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
)

// fetch is what a criterion looks at, and how it compares without -m.
type fetch struct {
	what  string // method, path, header, cookie, query, source or constant
	match string
}

// fetches are the criteria that can be taken. Those with a name in brackets have it cut off.
var fetches = func() map[string]fetch {
	all := map[string]fetch{
		"method": {"method", "str"},
		"path":   {"path", "str"},
		"src":    {"source", "ip"}, "always_true": {"constant", "true"}, "always_false": {"constant", "false"},
	}
	derived := map[string]fetch{"path": {what: "path"}, "hdr": {what: "header"}, "cook": {what: "cookie"}, "url_param": {what: "query"}, "urlp": {what: "query"}}
	for name, f := range derived {
		brackets := "()"
		if name == "path" {
			brackets = ""
		}
		for _, match := range []string{"beg", "end", "sub", "reg", "dir", "dom"} {
			all[name+"_"+match+brackets] = fetch{f.what, match}
		}
		all[name+brackets] = fetch{f.what, "str"}
	}
	for name, what := range map[string]string{"req.hdr()": "header", "req.fhdr()": "header", "req.cook()": "cookie"} {
		all[name] = fetch{what, "str"}
	}
	return all
}()

// criterion reads a criterion with its flags and values.
func criterion(line *importing.Line, words []string) (cond expr, wrong string) {
	name, words := words[0], words[1:]
	key, argument, of := name, "", false
	if at := strings.IndexByte(name, '('); at > 0 && strings.HasSuffix(name, ")") {
		key, argument, of = name[:at]+"()", name[at+1:len(name)-1], true
	}
	f, known := fetches[key]
	if !known {
		return never, fmt.Sprintf("criterion %s: rules look at method, path, hdr(), cook(), url_param() and src", importing.Quote(name))
	}
	if of && (argument == "" || strings.ContainsAny(argument, ",()")) {
		return never, fmt.Sprintf("criterion %s: want one name in brackets, and nothing behind it", importing.Quote(name))
	}
	match, ignoreCase := f.match, false
flags:
	for len(words) > 0 {
		switch {
		case words[0] == "-i":
			ignoreCase, words = true, words[1:]
		case words[0] == "-n": // resolve no names
			words = words[1:]
		case words[0] == "-m" && len(words) > 1:
			if f.match != "str" && f.match != words[1] {
				return never, fmt.Sprintf("-m %s of %s", importing.Quote(words[1]), importing.Quote(name))
			}
			match, words = words[1], words[2:]
		case words[0] == "--":
			words = words[1:]
			break flags
		case strings.HasPrefix(words[0], "-"):
			return never, fmt.Sprintf("flag %s; write the values here", importing.Quote(words[0]))
		default:
			break flags
		}
	}
	if f.what == "constant" {
		if f.match == "true" {
			return always, ""
		}
		return never, ""
	}
	if match == "found" && (f.what == "header" || f.what == "cookie" || f.what == "query") {
		if f.what == "query" {
			line.Assumed("a parameter without = is there too; HAProxy does not see it")
		}
		return text(f.what, &routerv1.TextMatch{Name: argument}), ""
	}
	if len(words) == 0 || len(words) > MaxValues {
		return never, fmt.Sprintf("want 1 to %d values", MaxValues)
	}
	switch f.what {
	case "method":
		if match != "str" {
			return never, fmt.Sprintf("-m %s of method", importing.Quote(match))
		}
		if ignoreCase {
			line.Assumed("the method as it is written: methods have upper and lower case (RFC 9110, section 9.1)")
		}
		return expr{when: &routerv1.Condition{Methods: words}}, ""
	case "source":
		return sources(words)
	case "path":
		return paths(match, ignoreCase, words)
	}
	if f.what == "header" && strings.EqualFold(argument, "host") && match == "str" && !slices.ContainsFunc(words, func(w string) bool {
		return !plainHost(w)
	}) {
		line.Assumed("the host in any case and with any port; HAProxy compares Host as it was sent")
		return expr{when: &routerv1.Condition{Hosts: words}}, ""
	}
	m := &routerv1.TextMatch{Name: argument, IgnoreCase: ignoreCase}
	m.Members = f.what == "header" && !strings.Contains(name, "fhdr")
	switch match {
	case "str":
		m.Exact = words
	case "beg":
		m.Prefixes = words
	case "end":
		m.Suffixes = words
	case "sub":
		m.Contains = words
	default:
		if m.Regexes, wrong = patterns(match, ignoreCase, words); wrong != "" {
			return never, wrong
		}
		m.IgnoreCase = false // the patterns say it
	}
	return text(f.what, m), ""
}

func text(what string, m *routerv1.TextMatch) expr {
	c := &routerv1.Condition{}
	switch what {
	case "header":
		c.Headers = []*routerv1.TextMatch{m}
	case "cookie":
		c.Cookies = []*routerv1.TextMatch{m}
	default:
		c.Queries = []*routerv1.TextMatch{m}
	}
	return expr{when: c}
}

func paths(match string, ignoreCase bool, words []string) (cond expr, wrong string) {
	c := &routerv1.Condition{}
	switch {
	case match == "str" && !ignoreCase:
		c.Paths = words
	case match == "beg" && !ignoreCase:
		c.PathPrefixes = words
	case match == "end" && !ignoreCase:
		c.PathSuffixes = words
	default:
		if c.PathRegexes, wrong = patterns(match, ignoreCase, words); wrong != "" {
			return never, wrong
		}
	}
	return expr{when: c}, ""
}

// patterns says a match by regular expressions. Words are bound as HAProxy binds them (src/pattern.c, make_delimiters):
// by "/" and "?" for dir, by "." and ":" too for dom.
func patterns(match string, ignoreCase bool, words []string) (all []string, wrong string) {
	around := map[string][2]string{"str": {"^", "$"}, "beg": {"^", ""}, "end": {"", "$"}, "sub": {"", ""}, "dir": {"(^|[/?])", "([/?]|$)"}, "dom": {"(^|[/?.:])", "([/?.:]|$)"}}
	for _, word := range words {
		pattern := word
		if match != "reg" {
			bound, known := around[match]
			if !known {
				return nil, fmt.Sprintf("-m %s cannot be said", importing.Quote(match))
			}
			switch match {
			case "dir":
				word = strings.Trim(word, "/?")
			case "dom":
				word = strings.Trim(word, "/?.:")
			}
			if word == "" {
				return nil, "an empty value fits everything"
			}
			pattern = bound[0] + regexp.QuoteMeta(word) + bound[1]
		}
		if ignoreCase {
			pattern = "(?i)" + pattern
		}
		if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
			return nil, fmt.Sprintf("the regular expression is none of RE2, which has no back references and nothing that looks ahead or behind: %v", err)
		}
		all = append(all, pattern)
	}
	return all, ""
}

// sources reads addresses and networks, with a mask in either form; bits behind the mask do not count, as in HAProxy.
func sources(words []string) (cond expr, wrong string) {
	c := &routerv1.Condition{}
	for _, word := range words {
		network, ok := network(word)
		if !ok {
			return never, fmt.Sprintf("%s: want an address or a network", importing.Quote(word))
		}
		c.Sources = append(c.Sources, network)
	}
	return expr{when: c}, ""
}

func network(word string) (string, bool) {
	host, mask, masked := strings.Cut(word, "/")
	address, err := netip.ParseAddr(host)
	if err != nil || address.Zone() != "" {
		return "", false
	}
	if !masked {
		return address.String(), true
	}
	if dotted, err := netip.ParseAddr(mask); err == nil && dotted.Is4() && address.Is4() {
		bits, b := 0, dotted.As4()
		n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		for bits < 32 && n&(1<<(31-bits)) != 0 {
			bits++
		}
		if n<<bits != 0 && bits < 32 {
			return "", false // with holes
		}
		mask = fmt.Sprint(bits)
	}
	prefix, err := netip.ParsePrefix(host + "/" + mask)
	return prefix.Masked().String(), err == nil
}

// plainHost takes what can stand in hosts: a name without port.
func plainHost(word string) bool {
	for _, c := range []byte(word) {
		if letter := c|0x20 >= 'a' && c|0x20 <= 'z'; !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return word != "" && word[0] != '.' && word[len(word)-1] != '.'
}
