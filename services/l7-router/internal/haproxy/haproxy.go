// Package haproxy answers: what does this haproxy.cfg say in our words?
//
// It reads the language of HAProxy's configuration manual as far as the router's desired state can say the same, and tells
// of every line what became of it. Whether a value is one that the router takes is decided by spec alone: what spec refuses
// is taken out again, and its line says so. The package is pure.
package haproxy

import (
	"slices"
	"strings"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
)

// Limits of what one file may hold, beside those of spec.
const (
	// MaxSections is the most frontends, backends and listens.
	MaxSections = 500
	// MaxBinds is the most addresses of all frontends.
	MaxBinds = 1000
	// MaxConditions is the most lines of one acl, and the most parts of one rule that are joined by "or".
	MaxConditions = 16
	// MaxTerms is the most acls and criteria in one rule.
	MaxTerms = 64
	// MaxValues is the most values of one criterion.
	MaxValues = 256
)

// Result is what a file says. Its objects are valid together.
type Result struct {
	Backends  []*routerv1.Backend
	Frontends []*routerv1.Frontend
	Report    *commonv1.ImportReport
}

// Import reads a file.
func Import(config []byte) (Result, error) {
	r := reader{
		defaults:  map[string]settings{},
		frontends: map[string]*section{},
		backends:  map[string]*section{},
	}
	lines, err := r.report.Read("", config)
	if err != nil {
		return Result{}, err
	}
	for _, line := range lines {
		r.line(line)
	}
	r.finish()
	result := r.build()
	result.Report = r.report.Message()
	return result, nil
}

// reader goes through the lines once.
type reader struct {
	report importing.Report
	// defaults by name; the one named "" is the latest, which counts for sections that name none.
	defaults map[string]settings
	// global is the section global, for its maxconn.
	global setting[uint32]
	// globalLog is where the section global has requests logged.
	globalLog setting[*routerv1.AccessLog]
	// current is the section that lines belong to; nil before the first.
	current *section
	// sections are the frontends, backends and listens, in their order.
	sections []*section
	// frontends and backends by HAProxy's names; a listen is in both.
	frontends, backends map[string]*section
	binds               int
}

// kinds are the words that begin a section. What is said of the lines in one that has no counterpart.
var kinds = map[string]string{
	"global": "", "defaults": "", "frontend": "", "backend": "", "listen": "",
	"peers":       "routers share no tables; persistence is by cookie, which needs none",
	"resolvers":   "names are not resolved; write IP addresses",
	"userlist":    "there is no authentication at the router; the web servers do it",
	"mailers":     "no mail is sent; watch WatchStatus or the metrics",
	"program":     "no programs are started; use a supervisor",
	"cache":       "nothing is cached; the web servers or a cache behind the router do it",
	"http-errors": "error pages cannot be changed",
	"ring":        "logs go to the standard error output; send them on from there",
	"log-forward": "logs of others are not passed on; use a log daemon",
	"log-profile": "logs go to the standard error output, one JSON object a line",
	"fcgi-app":    "servers are spoken to in HTTP; put a web server before the application",
	"crt-store":   "name certificates with crt at the addresses that show them",
	"traces":      "there are no traces",
	"acme":        "there is no TLS at the router; end it in front of the router",
}

func (r *reader) line(line *importing.Line) {
	words, comment, err := split(line.Text)
	show(line, slices.Clone(words), comment)
	switch {
	case err != nil && len(words) == 0:
		line.Show("***") // what is behind the open quote may be a secret
		line.LeftOut("%v", err)
		return
	case len(words) == 0:
		line.Ignored("empty or a comment")
		return
	}
	if _, begins := kinds[words[0]]; begins {
		r.begin(line, words)
		return
	}
	s := r.current
	switch {
	case strings.HasPrefix(words[0], "."):
		line.LeftOut("conditional blocks are not followed; the lines inside are read as if they were always there")
	case err != nil:
		line.LeftOut("%v", err)
	case s == nil:
		line.LeftOut("it stands before the first section")
	case s.kind == "global":
		r.globalLine(line, words)
	case kinds[s.kind] != "":
		line.LeftOut("section %s: %s", s.kind, kinds[s.kind])
	default:
		s.lines = append(s.lines, line)
		r.keyword(s, line, words)
	}
}

// begin begins a section.
func (r *reader) begin(line *importing.Line, words []string) {
	r.endDefaults()
	s := &section{kind: words[0], line: line, lines: []*importing.Line{line}, acls: map[string]*acl{}, edited: map[string]*importing.Line{}, forwarded: &routerv1.Forwarded{}}
	r.current = s
	rest := words[1:]
	if len(rest) > 0 {
		s.name, rest = rest[0], rest[1:]
	}
	from := ""
	if i := slices.Index(rest, "from"); i >= 0 && i+1 < len(rest) {
		from, rest = rest[i+1], slices.Delete(slices.Clone(rest), i, i+2)
	} else if s.kind == "defaults" && s.name == "from" && len(rest) > 0 {
		s.name, from, rest = "", rest[0], rest[1:]
	}
	switch {
	case kinds[s.kind] != "":
		line.LeftOut("section %s: %s", s.kind, kinds[s.kind])
		return
	case s.kind == "global":
		line.Ignored("what the process is given stands in its flags")
		return
	case s.kind == "defaults":
		if from != "" {
			s.settings = r.inherited(line, from)
		}
		line.Taken("defaults of the sections below")
		return
	}
	s.settings = r.inherited(line, from)
	switch {
	case s.name == "":
		s.leave("the section has no name")
		return
	case len(r.sections) == MaxSections:
		s.leave("at most %d sections are imported; split the file", MaxSections)
		return
	}
	accepts, serves := s.kind != "backend", s.kind != "frontend"
	if other := r.frontends[s.name]; accepts && other != nil {
		s.leave("line %d has this name already", other.line.Number)
		return
	}
	if other := r.backends[s.name]; serves && other != nil {
		s.leave("line %d has this name already", other.line.Number)
		return
	}
	r.sections = append(r.sections, s)
	if accepts {
		s.frontend = unique(s.name, func(name string) bool {
			return slices.ContainsFunc(r.sections, func(o *section) bool { return o.frontend == name })
		})
		r.frontends[s.name] = s
		line.Taken("frontend/%s", s.frontend)
	}
	if serves {
		s.backend = unique(s.name, func(name string) bool {
			return slices.ContainsFunc(r.sections, func(o *section) bool { return o.backend == name })
		})
		r.backends[s.name] = s
		line.Taken("backend/%s", s.backend)
	}
	if ours := s.frontend + s.backend; ours != s.name && ours != s.name+s.name {
		line.Assumed("another name than %s: names have a-z 0-9 - _ . only", importing.Quote(s.name))
	}
	if accepts && len(rest) > 0 {
		r.bind(s, line, rest)
		line.Taken("the address stands in the old place, which HAProxy of today refuses, and is read as a bind line")
	} else if len(rest) > 0 {
		line.Unsupported("%s behind the name", importing.Quote(rest[0]))
	}
}

// endDefaults puts a finished section defaults where later ones find it.
func (r *reader) endDefaults() {
	if s := r.current; s != nil && s.kind == "defaults" {
		r.defaults[s.name] = s.settings.clone()
		r.defaults[""] = s.settings.clone()
	}
}

// inherited are the settings that a section begins with.
func (r *reader) inherited(line *importing.Line, from string) settings {
	found, ok := r.defaults[from]
	if from != "" && !ok {
		line.Unsupported("there is no section defaults %s above", importing.Quote(from))
	}
	return found.clone()
}

// unique makes a name of ours of one of HAProxy's.
func unique(name string, taken func(string) bool) string {
	clean := strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + ('a' - 'A')
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			return c
		}
		return '-'
	}, name)
	clean = clean[:min(len(clean), 56)] // room for a number
	ours := clean
	for n := 2; taken(ours); n++ {
		ours = numbered(clean, n)
	}
	return ours
}
