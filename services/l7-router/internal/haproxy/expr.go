package haproxy

import (
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"google.golang.org/protobuf/proto"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// expr is a condition, or what cannot be said by one: that it never holds. Its messages are shared and never changed.
type expr struct {
	never bool
	// when is nil when it always holds.
	when *routerv1.Condition
}

var always, never = expr{}, expr{never: true}

// lists are the lists of a condition of which one value is enough.
func lists(c *routerv1.Condition) []*[]string {
	return []*[]string{&c.Methods, &c.Paths, &c.PathPrefixes, &c.PathSuffixes, &c.PathRegexes, &c.Hosts, &c.Sources}
}

// only returns the list of c when nothing else is set in it, -1: something else is.
func only(c *routerv1.Condition) int {
	found := -1
	for i, list := range lists(c) {
		if len(*list) > 0 {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	if len(c.GetHeaders())+len(c.GetCookies())+len(c.GetQueries())+len(c.GetAll())+len(c.GetAny()) > 0 || c.GetNot() != nil {
		return -1
	}
	return found
}

// or holds where one of both does.
func or(a, b expr) expr {
	switch {
	case a.never:
		return b
	case b.never:
		return a
	case a.when == nil || b.when == nil:
		return always
	}
	options := alternatives(a.when)
	for _, option := range alternatives(b.when) {
		at := slices.IndexFunc(options, func(o *routerv1.Condition) bool {
			i := only(o)
			return i >= 0 && i == only(option) && len(*lists(o)[i])+len(*lists(option)[i]) <= spec.MaxValues
		})
		if at < 0 {
			options = append(options, option)
			continue
		}
		both := proto.CloneOf(options[at])
		list := lists(both)[only(both)]
		for _, value := range *lists(option)[only(option)] {
			if !slices.Contains(*list, value) {
				*list = append(*list, value)
			}
		}
		options[at] = both
	}
	if len(options) == 1 {
		return expr{when: options[0]}
	}
	return expr{when: &routerv1.Condition{Any: options}}
}

// alternatives are the conditions of which one is enough.
func alternatives(c *routerv1.Condition) []*routerv1.Condition {
	if len(c.GetAny()) > 0 && proto.Equal(c, &routerv1.Condition{Any: c.GetAny()}) {
		return slices.Clone(c.GetAny())
	}
	return []*routerv1.Condition{c}
}

// and holds where both do.
func and(a, b expr) expr {
	switch {
	case a.never || b.never:
		return never
	case a.when == nil:
		return b
	case b.when == nil:
		return a
	}
	both := proto.CloneOf(a.when)
	if m := b.when.GetMethods(); len(m) > 0 && len(both.GetMethods()) > 0 {
		// A request has one method.
		both.Methods = slices.DeleteFunc(both.GetMethods(), func(name string) bool { return !slices.Contains(m, name) })
		if len(both.GetMethods()) == 0 {
			return never
		}
		b.when = proto.CloneOf(b.when)
		b.when.Methods = nil
		if proto.Equal(b.when, &routerv1.Condition{}) {
			return expr{when: both}
		}
	}
	x, y := lists(both), lists(b.when)
	fits := len(both.GetAny())*len(b.when.GetAny()) == 0 && (both.GetNot() == nil || b.when.GetNot() == nil)
	for i := range x {
		fits = fits && (len(*x[i]) == 0 || len(*y[i]) == 0)
	}
	if fits {
		proto.Merge(both, b.when)
	} else {
		both.All = append(both.All, b.when)
	}
	return expr{when: both}
}

// not holds where e does not.
func not(e expr) expr {
	switch {
	case e.never:
		return always
	case e.when == nil:
		return never
	case e.when.GetNot() != nil && proto.Equal(e.when, &routerv1.Condition{Not: e.when.GetNot()}):
		return expr{when: e.when.GetNot()}
	}
	return expr{when: &routerv1.Condition{Not: e.when}}
}

// walk calls do for each condition in e.
func (e expr) walk(do func(*routerv1.Condition)) {
	var into func(c *routerv1.Condition)
	into = func(c *routerv1.Condition) {
		do(c)
		for _, inner := range c.GetAll() {
			into(inner)
		}
		for _, inner := range c.GetAny() {
			into(inner)
		}
		if c.GetNot() != nil {
			into(c.GetNot())
		}
	}
	if e.when != nil {
		into(e.when)
	}
}

// size counts as spec does: conditions and values, and regular expressions.
func (e expr) size() (parts, regexes int) {
	e.walk(func(c *routerv1.Condition) {
		parts++
		for _, list := range lists(c) {
			parts += len(*list)
		}
		regexes += len(c.GetPathRegexes())
		for _, m := range slices.Concat(c.GetHeaders(), c.GetCookies(), c.GetQueries()) {
			parts += 1 + len(m.GetExact()) + len(m.GetPrefixes()) + len(m.GetSuffixes()) + len(m.GetContains()) + len(m.GetRegexes())
			regexes += len(m.GetRegexes())
		}
	})
	return parts, regexes
}

// sees tells what of a request e looks at: path, sources, methods, or the name of a header in lower case.
func (e expr) sees() map[string]bool {
	all := map[string]bool{}
	e.walk(func(c *routerv1.Condition) {
		if len(c.GetPaths())+len(c.GetPathPrefixes())+len(c.GetPathSuffixes())+len(c.GetPathRegexes()) > 0 {
			all["path"] = true
		}
		if len(c.GetMethods()) > 0 {
			all["methods"] = true
		}
		if len(c.GetSources()) > 0 {
			all["sources"] = true
		}
		if len(c.GetHosts()) > 0 {
			all["host"] = true
		}
		if len(c.GetCookies()) > 0 {
			all["cookie"] = true
		}
		if len(c.GetQueries()) > 0 {
			all["query"] = true
		}
		for _, m := range c.GetHeaders() {
			all[strings.ToLower(m.GetName())] = true
		}
	})
	return all
}

// takesAll reports whether e holds for every request of one method.
func (e expr) takesAll(method string) bool {
	if e.never {
		return false
	}
	if e.when == nil {
		return true
	}
	for _, c := range alternatives(e.when) {
		if slices.Contains(c.GetMethods(), method) && only(c) == 0 {
			return true
		}
	}
	return false
}

func (e expr) String() string {
	switch {
	case e.never:
		return "nothing"
	case e.when == nil:
		return "any method and path"
	}
	return importing.Short(describe(e.when), 300)
}

func describe(c *routerv1.Condition) string {
	var parts []string
	for i, what := range []string{"method", "path", "path", "path that ends with", "path that fits", "host", "client in"} {
		if values := *lists(c)[i]; len(values) > 0 {
			text := what + " " + importing.Short(strings.Join(values, " or "), 64)
			if i == 1 {
				text = "exactly the " + text
			}
			parts = append(parts, text)
		}
	}
	for i, list := range [][]*routerv1.TextMatch{c.GetHeaders(), c.GetCookies(), c.GetQueries()} {
		for _, m := range list {
			parts = append(parts, []string{"header", "cookie", "parameter"}[i]+" "+importing.Short(m.GetName(), 64))
		}
	}
	for _, inner := range c.GetAll() {
		parts = append(parts, describe(inner))
	}
	if len(c.GetAny()) > 0 {
		var options []string
		for _, inner := range c.GetAny() {
			options = append(options, describe(inner))
		}
		text := strings.Join(options, ", or ")
		if len(parts) > 0 || c.GetNot() != nil {
			text = "(" + text + ")"
		}
		parts = append(parts, text)
	}
	if c.GetNot() != nil {
		parts = append(parts, "not ("+describe(c.GetNot())+")")
	}
	return strings.Join(parts, " and ")
}
