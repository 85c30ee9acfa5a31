package haproxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// acl is what one name stands for: one of its lines holds.
type acl struct {
	lines []*importing.Line
	any   expr
	count int
	// bad is the first line that could not be read; with it the acl has no meaning.
	bad  *importing.Line
	used bool
}

// stage is when HAProxy asks a rule; within one stage the order of lines counts.
type stage int

const (
	requestStage  stage = iota // http-request
	responseStage              // http-response: ours are asked with the request, and decide nothing
	redirectStage              // redirect
	backendStage               // use_backend
	stages
)

// rule is a line that becomes a rule of ours.
type rule struct {
	line  *importing.Line
	stage stage
	// backend is HAProxy's name of one; empty: the rule does something else.
	backend string
	when    expr
	// message is the rule but for its condition and its backend.
	message *routerv1.Rule
	// without says what it means that the line is left out.
	without string
}

// predefined are the acls that HAProxy brings along and that can be said (configuration manual, "Pre-defined ACLs").
var predefined = map[string]expr{
	"TRUE":         always,
	"FALSE":        never,
	"HTTP":         always,
	"LOCALHOST":    {when: &routerv1.Condition{Sources: []string{"127.0.0.0/8"}}},
	"METH_CONNECT": methods("CONNECT"),
	"METH_DELETE":  methods("DELETE"),
	"METH_GET":     methods("GET", "HEAD"),
	"METH_HEAD":    methods("HEAD"),
	"METH_OPTIONS": methods("OPTIONS"),
	"METH_POST":    methods("POST"),
	"METH_PUT":     methods("PUT"),
	"METH_TRACE":   methods("TRACE"),
}

func methods(names ...string) expr { return expr{when: &routerv1.Condition{Methods: names}} }

// acl reads: acl NAME CRITERION [flags] VALUES.
func (r *reader) acl(s *section, line *importing.Line, words []string) {
	if len(words) < 3 {
		line.LeftOut("want a name and a criterion")
		return
	}
	a := s.acls[words[1]]
	if a == nil {
		a = &acl{any: never}
		s.acls[words[1]] = a
	}
	a.lines = append(a.lines, line)
	cond, wrong := criterion(line, words[2:])
	if a.count++; wrong == "" && a.count > MaxConditions {
		wrong = fmt.Sprintf("more than %d lines of one name", MaxConditions)
	}
	if wrong != "" {
		a.bad = line
		line.LeftOut("%s", wrong)
		return
	}
	a.any = or(a.any, cond)
	line.Taken("condition %s", cond)
}

// consequence is what a use_backend that is not taken means.
const consequence = "; the rule is left out, its requests go on to the next"

// use reads: use_backend NAME [if|unless CONDITION].
func (r *reader) use(s *section, line *importing.Line, words []string) {
	if len(words) < 2 || strings.HasPrefix(words[1], "%[") {
		line.LeftOut("want the name of a backend" + consequence)
		return
	}
	u := &rule{line: line, stage: backendStage, backend: words[1], message: &routerv1.Rule{}, without: consequence}
	if r.add(s, u, words[2:]) {
		line.Taken("requests with %s go to backend %s", u.when, importing.Quote(u.backend))
	}
}

// add takes a rule with what stands behind it: nothing, or if or unless and a condition. It reports whether the rule was
// taken, and says why when it was not.
func (r *reader) add(s *section, u *rule, words []string) bool {
	u.when = always
	if len(words) > 0 {
		if words[0] != "if" && words[0] != "unless" {
			u.line.LeftOut("%s: conditions begin with if or unless%s", importing.Quote(words[0]), u.without)
			return false
		}
		any, wrong := s.condition(u.line, words[1:])
		if wrong == "" && u.stage <= responseStage {
			wrong = s.unseen(any, u.stage)
		}
		if wrong != "" {
			u.line.LeftOut("%s%s", wrong, u.without)
			return false
		}
		if u.when = any; words[0] == "unless" {
			u.when = not(any)
		}
	}
	if u.when.never {
		u.line.Ignored("its condition never holds")
		return false
	}
	parts, regexes := u.when.size()
	if u.message.GetEdit().GetPath().GetRegex() != "" {
		regexes++
	}
	switch {
	case len(s.rules) == spec.MaxRules:
		u.line.LeftOut("a frontend has %d rules at most%s", spec.MaxRules, u.without)
		return false
	case s.parts+parts > spec.MaxParts:
		u.line.LeftOut("the rules of a frontend have %d conditions and values at most, where each acl counts as often as it is used%s", spec.MaxParts, u.without)
		return false
	case s.regexes+regexes > spec.MaxRegexes:
		u.line.LeftOut("the rules of a frontend have %d regular expressions at most, where each acl counts as often as it is used%s", spec.MaxRegexes, u.without)
		return false
	}
	s.parts, s.regexes = s.parts+parts, s.regexes+regexes
	s.rules = append(s.rules, u)
	return true
}

// condition reads what is behind if: names that must all hold, joined by "or" or "||", "!" before what must not hold.
func (s *section) condition(line *importing.Line, words []string) (any expr, wrong string) {
	any, all, empty := never, always, true
	groups, terms := 0, 0
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "or" || word == "||" {
			any, all, empty = or(any, all), always, true
			if groups++; groups > MaxConditions {
				return never, fmt.Sprintf("more than %d conditions joined by or", MaxConditions)
			}
			continue
		}
		if terms++; terms > MaxTerms {
			return never, fmt.Sprintf("more than %d acls and criteria in one rule", MaxTerms)
		}
		negated := false
		for strings.HasPrefix(word, "!") {
			if negated, word = !negated, word[1:]; word == "" && i+1 < len(words) {
				i++
				word = words[i]
			}
		}
		var term expr
		switch {
		case word == "{":
			end := slices.Index(words[i:], "}")
			if end < 2 {
				return never, "want { CRITERION VALUES }"
			}
			if term, wrong = criterion(line, words[i+1:i+end]); wrong != "" {
				return never, wrong
			}
			i += end
		case s.acls[word] != nil:
			a := s.acls[word]
			a.used = true
			if a.bad != nil {
				return never, fmt.Sprintf("acl %s could not be taken (line %d)", importing.Quote(word), a.bad.Number)
			}
			term = a.any
		default:
			known := false
			if term, known = predefined[word]; !known {
				return never, fmt.Sprintf("no acl %s above", importing.Quote(word))
			}
		}
		if negated {
			term = not(term)
		}
		all, empty = and(all, term), false
	}
	if empty {
		return never, "a condition is missing"
	}
	return or(any, all), ""
}

// unseen says why a condition would look at something else than in HAProxy; empty: it would not.
func (s *section) unseen(e expr, stage stage) string {
	if e.when == nil {
		return ""
	}
	sees := e.sees()
	if stage == responseStage {
		for what := range sees {
			if what != "sources" {
				return "a condition over the response; here conditions look at the request"
			}
		}
		return ""
	}
	for _, what := range slices.Sorted(maps.Keys(s.edited)) {
		if sees[what] {
			return fmt.Sprintf("its condition looks at what line %d changes; here conditions see the request as the client has sent it", s.edited[what].Number)
		}
	}
	return ""
}

// settleRules takes those rules out again that HAProxy asks after all http-request rules, and that look at what one of those
// changes, wherever it stands.
func (s *section) settleRules() {
	s.rules = slices.DeleteFunc(s.rules, func(u *rule) bool {
		if u.stage <= responseStage {
			return false
		}
		wrong := s.unseen(u.when, u.stage)
		if wrong == "" {
			wrong = s.resent(u.message.GetRedirect())
		}
		if wrong != "" {
			u.line.LeftOut("%s%s", wrong, u.without)
		}
		return wrong != ""
	})
}

// resent says why a redirect would send on something else than in HAProxy; empty: it would not.
func (s *section) resent(to *routerv1.Redirect) string {
	switch path, host := s.edited["path"], s.edited["host"]; {
	case path != nil && (to.GetPrefix() != "" || to.GetScheme() != ""):
		return fmt.Sprintf("it sends on what line %d makes of the path; here a redirect has the path that the client has sent", path.Number)
	case host != nil && to.GetScheme() != "":
		return fmt.Sprintf("it sends on what line %d makes of Host; here a redirect has the Host that the client has sent", host.Number)
	}
	return ""
}
