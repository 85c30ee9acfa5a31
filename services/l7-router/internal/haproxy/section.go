package haproxy

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
)

// setting is a value and the line that it is from. Without a line nothing has been said.
type setting[T any] struct {
	value T
	line  *importing.Line
}

// settings are what a section defaults can hold for the sections below it.
type settings struct {
	mode           setting[string]
	defaultBackend setting[string]
	maxconn        setting[uint32]
	cookie         setting[*routerv1.Cookie]
	balancing
	httpCheck setting[*routerv1.HttpCheck]
	retries   setting[*routerv1.Retries]
	// forwardFor are the trusted networks of option forwardfor.
	forwardFor setting[[]string]
	// statsPage is what lines say of the statistics page, without users.
	statsPage setting[*routerv1.StatsPage]
	statsAuth bool // users are named
	// log is where requests are logged, httpLog the line that says how.
	log     setting[*routerv1.AccessLog]
	httpLog *importing.Line
	// timeouts by HAProxy's names.
	timeouts map[string]setting[time.Duration]
	// server is what default-server says.
	server server
}

func (s settings) clone() settings {
	s.timeouts = maps.Clone(s.timeouts)
	return s
}

// section is a frontend, a backend or both (listen), or defaults, while it is read.
type section struct {
	kind, name string
	line       *importing.Line
	lines      []*importing.Line
	// frontend and backend are our names of what it becomes; empty: nothing of that sort.
	frontend, backend string
	settings
	binds []*setting[string]
	// http2: an address is for HTTP/2 in cleartext.
	http2 bool
	// bindsTLS are those with TLS, which is spoken as tls says; proxied: connections begin with a PROXY header.
	bindsTLS []*setting[string]
	tls      *routerv1.Tls
	proxied  bool
	acls     map[string]*acl
	rules    []*rule
	// parts and regexes are what the rules use of their limits.
	parts, regexes int
	// edited is what rules change of a request, and the line that does: path, or the name of a header in lower case.
	edited map[string]*importing.Line
	// forwarded is what lines say of the fields that tell the client.
	forwarded *routerv1.Forwarded
	servers   []*server
	// stats and statsAdmin are lines of the statistics page.
	stats, statsAdmin *importing.Line
	// shows is the section whose page a frontend shows; nil: none.
	shows *section
	// left tells that nothing of the section is taken.
	left bool
}

// leave takes nothing of the section, and says why at each of its lines.
func (s *section) leave(format string, args ...any) {
	s.left, s.frontend, s.backend = true, "", ""
	reason := fmt.Sprintf(format, args...)
	s.line.LeftOut("%s", reason)
	for _, line := range s.lines[1:] {
		line.LeftOut("the section of line %d is left out: %s", s.line.Number, reason)
	}
}

func numbered(name string, n int) string { return name + "-" + strconv.Itoa(n) }

// duration reads a time in HAProxy's way: a number and us, ms, s, m, h or d; without a unit, milliseconds
// (configuration manual, "Time format").
func duration(text string) (time.Duration, bool) {
	digits := 0
	for digits < len(text) && text[digits] >= '0' && text[digits] <= '9' {
		digits++
	}
	units := map[string]time.Duration{
		"us": time.Microsecond, "ms": time.Millisecond, "": time.Millisecond, "s": time.Second, "m": time.Minute,
		"h": time.Hour, "d": 24 * time.Hour,
	}
	unit, known := units[text[digits:]]
	n, err := strconv.ParseInt(text[:digits], 10, 32)
	if err != nil || !known || n > int64(365*24*time.Hour/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
