package spec

import (
	"net/netip"
	"regexp"
	"slices"
	"time"
)

// Rule says what becomes of the requests for which its condition holds. Exactly one of Backend, Deny, Redirect and Edit is
// set.
type Rule struct {
	Condition Condition
	// Backend is the name of the backend that takes the request.
	Backend  string
	Deny     *Deny
	Redirect *Redirect
	// Edit changes the request and its response; the rules after it are asked too.
	Edit *Edit
}

// Condition holds when everything that is set in it holds; in a list one is enough. The zero value always holds.
type Condition struct {
	// Methods, compared exactly.
	Methods []string
	// Paths, PathPrefixes, PathSuffixes and PathRegexes are compared with the path in the form of PathForm.
	Paths, PathPrefixes, PathSuffixes []string
	PathRegexes                       []Regex
	// PathForm of this condition alone.
	PathForm PathForm
	// Hosts in lower case, without port; one that begins with "*." stands for all below it.
	Hosts []string
	// Headers, Cookies and Queries must all fit.
	Headers, Cookies, Queries []TextMatch
	// Sources are the networks of the client.
	Sources []netip.Prefix
	// All must hold, of Any one. Not, where it is there, must not hold.
	All, Any []Condition
	Not      *Condition
}

// Regex is a regular expression.
type Regex struct{ *regexp.Regexp }

// TextMatch fits values by a name; without any comparison a value is enough.
type TextMatch struct {
	Name string
	// One of these is enough. They are in lower case when IgnoreCase is set.
	Exact, Prefixes, Suffixes, Contains []string
	Regexes                             []Regex
	// IgnoreCase compares the letters of ASCII in any case, not in Regexes.
	IgnoreCase bool
	// Members takes a header's list apart.
	Members bool
}

// PathForm is how a path and a query are read.
type PathForm uint8

// The forms.
const (
	// PathAny is as sent, and in rules that deny each of the forms.
	PathAny PathForm = iota
	// PathSent is as sent.
	PathSent
	// PathNormalised is by RFC 3986 section 6.2.2.
	PathNormalised
	// PathDecoded is as the most lenient servers read it.
	PathDecoded
)

// Deny refuses a request.
type Deny struct {
	// Status of the answer.
	Status int
	// Hold is how long the client waits for it; 0: not at all.
	Hold time.Duration
}

// Redirect answers with another address: one of Location, Prefix and Scheme is set.
type Redirect struct {
	Location, Prefix, Scheme string
	// Code is the status.
	Code int
	// DropQuery leaves the query out.
	DropQuery bool
}

// Header is a field with its value.
type Header struct{ Name, Value string }

// Fields is what is done to the fields of one head, in this order.
type Fields struct {
	Remove   []string
	Set, Add []Header
}

// names are the names of all that f touches, in lower case.
func (f *Fields) names() []string {
	all := slices.Clone(f.Remove)
	for _, h := range f.Set {
		all = append(all, h.Name)
	}
	for _, h := range f.Add {
		all = append(all, h.Name)
	}
	return lowered(all)
}

// Edit changes a request and its response.
type Edit struct {
	Request, Response Fields
	// Host is the value of Host; empty: it stays.
	Host string
	// Path is what happens to the path; the zero value changes nothing.
	Path PathEdit
}

// PathEdit changes a path: to Set, or where it begins with Prefix or fits Regex.
type PathEdit struct {
	Set, Prefix string
	Regex       Regex
	// Replacement of the prefix, or of the whole path: then it is a template of package regexp.
	Replacement string
}
