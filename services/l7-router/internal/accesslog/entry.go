// Package accesslog writes a line for each request, without a request ever waiting for it: requests put entries into
// rings, and a goroutine of its own formats and writes them. What it cannot take in time is dropped and counted.
package accesslog

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// MaxLine is the most bytes of a request's first line that are logged; the rest is cut off.
const MaxLine = 1024

// Entry is what is logged of one request. It has a fixed size.
type Entry struct {
	Facts
	// How it is written; Put sets both.
	json     bool
	facility int
	length   int
	line     [MaxLine]byte
}

// Facts are all of it but the request's first line. What they point to is never changed.
type Facts struct {
	stats.Record
	// End is when the request ended, on the clock of the Record.
	End stats.Moment
	// Client is the address that the connection is from, without the port; or whom a trusted hop names, and then Port is 0.
	Client string
	Port   uint16
	// Frontend, Backend and Server took it; empty: there was none.
	Frontend, Backend, Server string
	// TLS: the client's connection was one.
	TLS bool
	// Rule is the index of the rule that decided, negative: none did.
	Rule int
	// Choice is why the server was chosen. Examples: cookie, roundrobin, redispatch
	Choice string
	// FrontendConns are the connections under way with its frontend, its own included; BackendConns and ServerConns the
	// requests with its backend and server without itself, as HAProxy counts them.
	FrontendConns, BackendConns, ServerConns int64
	// Queue is how many requests waited before it: for the server, and for the backend.
	ServerQueue, BackendQueue int64
}

// Line is the request's first line as it was sent, without the end; empty: it could not be read.
func (e *Entry) Line() []byte { return e.line[:e.length] }

// Reset forgets the first line.
func (e *Entry) Reset() { e.length, e.TLS = 0, false }

// SetStart takes the first line of a request; hideQuery leaves out what stands behind the path.
func (e *Entry) SetStart(method, target []byte, minor int, hideQuery bool) {
	if hideQuery {
		target, _, _ = bytes.Cut(target, []byte("?"))
	}
	n := copy(e.line[:], method)
	n += copy(e.line[n:], " ")
	n += copy(e.line[n:], target)
	protocol := " HTTP/1.1"
	if minor == 0 {
		protocol = " HTTP/1.0"
	}
	e.length = n + copy(e.line[n:], protocol)
}

// SetLine takes the first line of a request, cut off at MaxLine.
func (e *Entry) SetLine(line []byte) { e.length = copy(e.line[:], line) }

// abnormal reports whether it ended otherwise than well; such are never left out by sampling.
func (e *Entry) abnormal() bool {
	return e.Cause != stats.CauseNone || e.Status >= 500 || e.Status == 0
}

// begun is when the first byte came. clock is when the Record's clock was zero.
func (e *Entry) begun(clock time.Time) time.Time { return clock.Add(time.Duration(e.Begun)) }

// millis writes a timer as HAProxy does: whole milliseconds, -1 when the phase was not reached.
func millis(dst []byte, d time.Duration) []byte {
	if d < 0 {
		return append(dst, "-1"...)
	}
	return strconv.AppendInt(dst, d.Milliseconds(), 10)
}

// appendHTTPLog appends the entry as HAProxy's option httplog does (configuration manual, section 8.2.3), without the end of
// the line:
//
//	%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{+Q}r
//
// where %hr and %hs, the captured headers, are left out with their spaces because none are captured.
func (e *Entry) appendHTTPLog(dst []byte, clock time.Time, process int64) []byte {
	t := e.Timers(e.End)
	number := func(sep string, n int64) { dst = strconv.AppendInt(append(dst, sep...), n, 10) }
	dst = append(dst, e.Client...)
	number(":", int64(e.Port))
	dst = append(dst, " ["...)
	dst = e.begun(clock).AppendFormat(dst, "02/Jan/2006:15:04:05.000")
	dst = append(dst, "] "...)
	dst = append(dst, e.Frontend...)
	if e.TLS {
		dst = append(dst, '~')
	}
	dst = append(dst, ' ')
	backend, server := e.Backend, e.Server
	if backend == "" {
		backend = e.Frontend
	}
	if server == "" {
		server = "<NOSRV>"
	}
	dst = append(append(append(dst, backend...), '/'), server...)
	dst = append(dst, ' ')
	for i, d := range [...]time.Duration{t.Request, t.Queue, t.Connect, t.Response, t.Active} {
		if i > 0 {
			dst = append(dst, '/')
		}
		dst = millis(dst, d)
	}
	if e.Status == 0 {
		dst = append(dst, " -1"...)
	} else {
		number(" ", int64(e.Status))
	}
	number(" ", int64(e.BytesOut))
	dst = append(dst, " - - "...)
	dst = append(dst, byte(e.Cause), byte(e.Phase), e.CookieIn, e.CookieOut)
	number(" ", max(process, e.FrontendConns)) // its own has ended since, perhaps
	number("/", e.FrontendConns)
	number("/", e.BackendConns)
	number("/", e.ServerConns)
	dst = append(dst, '/')
	if e.Redispatched {
		dst = append(dst, '+')
	}
	number("", int64(e.Retries))
	number(" ", e.ServerQueue)
	number("/", e.BackendQueue)
	dst = append(dst, ` "`...)
	if e.length == 0 {
		dst = append(dst, "<BADREQ>"...)
	} else {
		dst = appendQuoted(dst, e.Line())
	}
	return append(dst, '"')
}

// appendQuoted writes what is no visible ASCII, and what could end the quotes, as #XX (HAProxy: configuration manual,
// section 8.6).
func appendQuoted(dst, text []byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, c := range text {
		if c < ' ' || c > '~' || c == '"' || c == '#' || c == '{' || c == '|' || c == '}' {
			dst = append(dst, '#', digits[c>>4], digits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// object is an entry as JSON. Times are in milliseconds, -1: that phase was not reached.
type object struct {
	Time         string  `json:"time"`
	Client       string  `json:"client"`
	Port         uint16  `json:"port"`
	TLS          bool    `json:"tls,omitempty"`
	Frontend     string  `json:"frontend"`
	Rule         *int    `json:"rule,omitempty"`
	Backend      string  `json:"backend,omitempty"`
	Server       string  `json:"server,omitempty"`
	Choice       string  `json:"choice,omitempty"`
	Method       string  `json:"method,omitempty"`
	Target       string  `json:"target,omitempty"`
	Protocol     string  `json:"protocol,omitempty"`
	Status       int     `json:"status,omitempty"`
	BytesIn      uint64  `json:"bytes_in"`
	BytesOut     uint64  `json:"bytes_out"`
	Request      float64 `json:"request_ms"`
	Queue        float64 `json:"queue_ms"`
	Connect      float64 `json:"connect_ms"`
	Response     float64 `json:"response_ms"`
	Total        float64 `json:"total_ms"`
	Ended        string  `json:"ended"`
	Retries      int     `json:"retries,omitempty"`
	Redispatched bool    `json:"redispatched,omitempty"`
	Reused       bool    `json:"reused,omitempty"`
}

func (e *Entry) appendJSON(dst []byte, clock time.Time) []byte {
	t := e.Timers(e.End)
	ms := func(d time.Duration) float64 {
		if d < 0 {
			return -1
		}
		return float64(d.Microseconds()) / 1000
	}
	method, rest, _ := bytes.Cut(e.Line(), []byte(" "))
	target, protocol := rest, []byte(nil)
	if i := bytes.LastIndexByte(rest, ' '); i >= 0 {
		target, protocol = rest[:i], rest[i+1:]
	}
	o := object{
		Time: e.begun(clock).UTC().Format("2006-01-02T15:04:05.000000Z07:00"), Client: e.Client, Port: e.Port, TLS: e.TLS,
		Frontend: e.Frontend, Backend: e.Backend, Server: e.Server, Choice: e.Choice,
		Method: string(method), Target: string(target), Protocol: string(protocol),
		Status: e.Status, BytesIn: e.BytesIn, BytesOut: e.BytesOut,
		Request: ms(t.Request), Queue: ms(t.Queue), Connect: ms(t.Connect), Response: ms(t.Response), Total: ms(t.Active),
		Ended:   string([]byte{byte(e.Cause), byte(e.Phase), e.CookieIn, e.CookieOut}),
		Retries: e.Retries, Redispatched: e.Redispatched, Reused: e.Reused,
	}
	if e.Rule >= 0 {
		o.Rule = &e.Rule
	}
	text, _ := json.Marshal(o) // strings and numbers only
	return append(dst, text...)
}
