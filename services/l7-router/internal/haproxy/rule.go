package haproxy

import (
	"fmt"
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// condition holds for requests of one of the methods, if any are named, whose path begins with one of the prefixes, if
// any are named.
type condition struct{ methods, paths []string }

// acl is what one name stands for: one of the conditions holds. Several lines may add to it.
type acl struct {
	lines []*importing.Line
	any   []condition
	// bad is the first line that could not be read; with it the acl has no meaning.
	bad  *importing.Line
	used bool
}

// rule is a use_backend line.
type rule struct {
	line    *importing.Line
	backend string // HAProxy's name
	any     []condition
}

// predefined are the acls that HAProxy brings along and that look at the method (configuration manual, "Pre-defined ACLs").
var predefined = map[string][]condition{
	"TRUE":         {{}},
	"FALSE":        nil,
	"HTTP":         {{}},
	"METH_CONNECT": {{methods: []string{"CONNECT"}}},
	"METH_DELETE":  {{methods: []string{"DELETE"}}},
	"METH_GET":     {{methods: []string{"GET", "HEAD"}}},
	"METH_HEAD":    {{methods: []string{"HEAD"}}},
	"METH_OPTIONS": {{methods: []string{"OPTIONS"}}},
	"METH_POST":    {{methods: []string{"POST"}}},
	"METH_PUT":     {{methods: []string{"PUT"}}},
	"METH_TRACE":   {{methods: []string{"TRACE"}}},
}

// acl reads: acl NAME CRITERION [flags] VALUES.
func (r *reader) acl(s *section, line *importing.Line, words []string) {
	if len(words) < 3 {
		line.LeftOut("want a name and a criterion")
		return
	}
	a := s.acls[words[1]]
	if a == nil {
		a = &acl{}
		s.acls[words[1]] = a
	}
	a.lines = append(a.lines, line)
	cond, wrong := criterion(line, words[2:])
	if wrong == "" && len(a.any) == MaxConditions {
		wrong = fmt.Sprintf("more than %d lines of one name", MaxConditions)
	}
	if wrong != "" {
		a.bad = line
		line.LeftOut("%s", wrong)
		return
	}
	a.any = merge(append(a.any, cond))
	line.Taken("condition %s", describe(cond))
}

// criterion reads a criterion with its flags and values.
func criterion(line *importing.Line, words []string) (cond condition, wrong string) {
	name, words := words[0], words[1:]
	match, ignoreCase := "", false
flags:
	for len(words) > 0 {
		switch {
		case words[0] == "-i":
			ignoreCase, words = true, words[1:]
		case words[0] == "-m" && len(words) > 1:
			match, words = words[1], words[2:]
		case words[0] == "--":
			words = words[1:]
			break flags
		case strings.HasPrefix(words[0], "-"):
			return cond, fmt.Sprintf("flag %s; write the values here", importing.Quote(words[0]))
		default:
			break flags
		}
	}
	if len(words) == 0 || len(words) > MaxValues {
		return cond, fmt.Sprintf("want 1 to %d values", MaxValues)
	}
	switch {
	case name == "method" && (match == "" || match == "str"):
		if ignoreCase {
			line.Assumed("the method as it is written: methods have upper and lower case (RFC 9110, section 9.1)")
		}
		return condition{methods: words}, ""
	case name == "path_beg" && match == "", name == "path" && match == "beg":
		if ignoreCase {
			return cond, "-i: paths are compared exactly; name each spelling"
		}
		return condition{paths: words}, ""
	}
	return cond, fmt.Sprintf("criterion %s: rules look at the method and at the start of the path (path_beg)", importing.Quote(name))
}

// consequence is what a rule that is not taken means.
const consequence = "; the rule is left out, its requests go on to the next"

// use reads: use_backend NAME [if CONDITION].
func (r *reader) use(s *section, line *importing.Line, words []string) {
	if len(words) < 2 || strings.HasPrefix(words[1], "%[") {
		line.LeftOut("want the name of a backend" + consequence)
		return
	}
	u := &rule{line: line, backend: words[1], any: []condition{{}}}
	if len(words) > 2 {
		if words[2] != "if" {
			line.LeftOut("%s: conditions begin with if; write one that says what holds%s", importing.Quote(words[2]), consequence)
			return
		}
		any, wrong := s.condition(line, words[3:])
		if wrong != "" {
			line.LeftOut("%s%s", wrong, consequence)
			return
		}
		u.any = merge(any)
	}
	if len(u.any) == 0 {
		line.Ignored("its condition never holds")
		return
	}
	if s.count += len(u.any); s.count > spec.MaxRules {
		line.LeftOut("a frontend has %d rules at most%s", spec.MaxRules, consequence)
		return
	}
	s.rules = append(s.rules, u)
	var texts []string
	for _, c := range u.any {
		texts = append(texts, describe(c))
	}
	line.Taken("requests with %s go to backend %s", strings.Join(texts, ", or "), importing.Quote(u.backend))
}

// condition reads what is behind if: names that must all hold, joined by "or" or "||".
func (s *section) condition(line *importing.Line, words []string) (any []condition, wrong string) {
	all := []condition{{}} // of the group that is being read
	empty := true
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "or" || word == "||" {
			any, all, empty = append(any, all...), []condition{{}}, true
			continue
		}
		var term []condition
		switch {
		case strings.HasPrefix(word, "!"):
			return nil, "a condition that must not hold; name what must"
		case word == "{":
			end := slices.Index(words[i:], "}")
			if end < 2 {
				return nil, "want { CRITERION VALUES }"
			}
			cond, wrong := criterion(line, words[i+1:i+end])
			if wrong != "" {
				return nil, wrong
			}
			term = []condition{cond}
			i += end
		case s.acls[word] != nil:
			a := s.acls[word]
			a.used = true
			if a.bad != nil {
				return nil, fmt.Sprintf("acl %s could not be taken (line %d)", importing.Quote(word), a.bad.Number)
			}
			term = a.any
		default:
			known := false
			if term, known = predefined[word]; !known {
				return nil, fmt.Sprintf("no acl %s above", importing.Quote(word))
			}
		}
		all, empty = both(all, term), false
		if len(any)+len(all) > MaxConditions {
			return nil, fmt.Sprintf("more than %d conditions joined by or", MaxConditions)
		}
	}
	if empty {
		return nil, "a condition is missing"
	}
	return append(any, all...), ""
}

// both holds where one of a and one of b hold.
func both(a, b []condition) []condition {
	var out []condition
	for _, x := range a {
		for _, y := range b {
			methods := narrow(x.methods, y.methods, func(m, n string) (string, bool) { return m, m == n })
			paths := narrow(x.paths, y.paths, func(p, q string) (string, bool) {
				if strings.HasPrefix(p, q) {
					return p, true
				}
				return q, strings.HasPrefix(q, p)
			})
			never := len(methods) == 0 && len(x.methods) > 0 && len(y.methods) > 0 || len(paths) == 0 && len(x.paths) > 0 && len(y.paths) > 0
			if !never {
				out = append(out, condition{methods, paths})
			}
		}
	}
	return out
}

// narrow keeps what a and b have in common; an empty list stands for everything.
func narrow(a, b []string, common func(x, y string) (string, bool)) []string {
	if len(a) == 0 || len(b) == 0 {
		return slices.Concat(a, b)
	}
	var out []string
	seen := map[string]bool{}
	for _, x := range a {
		for _, y := range b {
			if z, ok := common(x, y); ok && !seen[z] {
				out, seen[z] = append(out, z), true
			}
		}
	}
	return out
}

// merge makes fewer conditions that say the same.
func merge(any []condition) []condition {
	var out []condition
next:
	for _, c := range any {
		for i := range out {
			switch o := &out[i]; {
			case len(o.methods)+len(o.paths)+len(c.methods)+len(c.paths) > MaxValues:
			case slices.Equal(o.paths, c.paths) && len(o.methods) > 0 && len(c.methods) > 0:
				o.methods = union(o.methods, c.methods)
				continue next
			case slices.Equal(o.methods, c.methods) && len(o.paths) > 0 && len(c.paths) > 0:
				o.paths = union(o.paths, c.paths)
				continue next
			}
		}
		out = append(out, c)
	}
	return out
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func describe(c condition) string {
	var parts []string
	if len(c.methods) > 0 {
		parts = append(parts, "method "+importing.Short(strings.Join(c.methods, " or "), 64))
	}
	if len(c.paths) > 0 {
		parts = append(parts, "path "+importing.Short(strings.Join(c.paths, " or "), 64))
	}
	if len(parts) == 0 {
		return "any method and path"
	}
	return strings.Join(parts, " and ")
}

// message is the rule in our words, one for each condition.
func (c condition) message(backend string) *routerv1.Rule {
	rule := &routerv1.Rule{Backend: backend}
	if len(c.methods)+len(c.paths) > 0 {
		rule.Condition = &routerv1.Condition{Methods: c.methods, PathPrefixes: c.paths}
	}
	return rule
}
