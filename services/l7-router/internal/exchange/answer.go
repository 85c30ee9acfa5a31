package exchange

import (
	"strconv"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// Answer is a whole response that the router makes itself, in place of a server. It is not changed once it is in use, so
// that one can serve many requests.
type Answer struct {
	// Status, 200 to 599.
	Status int
	// Location is the value of the field Location; nil: there is none. It must be a valid field value.
	Location []byte
	// Fields go out as they are, beside those that the router must or may add itself: Content-Length, Location, Connection.
	// Names and values must be valid.
	Fields []Field
	// Body may be empty. It is left out, but counted, in the answer to a HEAD.
	Body []byte
	// Hold is how long the client waits for the answer, 0: not at all (HAProxy: timeout tarpit). The connection ends with an
	// answer that was held.
	Hold time.Duration
}

// Field is one field of an Answer.
type Field struct{ Name, Value string }

// Append appends the answer: to a HEAD without its body; keep says whether the client's connection stays open, which is
// for clients of HTTP/1.1 only.
func (a *Answer) Append(dst []byte, toHead, keep bool) []byte {
	var digits [20]byte
	dst = http1.AppendStatusLine(dst, a.Status, []byte(pages[a.Status].reason))
	if a.Status != 204 && a.Status != 304 { // RFC 9110 8.6
		dst = http1.AppendField(dst, "Content-Length", strconv.AppendInt(digits[:0], int64(len(a.Body)), 10))
	}
	if a.Location != nil {
		dst = http1.AppendField(dst, "Location", a.Location)
	}
	for _, f := range a.Fields {
		dst = http1.AppendField(dst, f.Name, f.Value)
	}
	if !keep {
		dst = http1.AppendField(dst, "Connection", "close")
	}
	dst = http1.AppendEnd(dst)
	if toHead || a.Status == 204 || a.Status == 304 {
		return dst
	}
	return append(dst, a.Body...)
}

type page struct{ reason, text string }

// pages are the reason phrases of the answers that the router may make, and what a person reads below them, as HAProxy words them
// where it has them. Those without a text have no page.
var pages = map[int]page{
	200: {reason: "OK"},
	204: {reason: "No Content"},
	301: {reason: "Moved Permanently"},
	302: {reason: "Found"},
	303: {reason: "See Other"},
	304: {reason: "Not Modified"},
	307: {reason: "Temporary Redirect"},
	308: {reason: "Permanent Redirect"},
	400: {"Bad request", "Your browser sent an invalid request."},
	401: {"Unauthorized", "You need a valid user and password to access this content."},
	403: {"Forbidden", "Request forbidden by administrative rules."},
	404: {"Not Found", "The resource could not be found."},
	405: {"Method Not Allowed", "A request was made of a resource using a request method not supported by that resource."},
	408: {"Request Time-out", "Your browser didn't send a complete request in time."},
	410: {"Gone", "The resource is no longer available and will not be available again."},
	413: {"Payload Too Large", "The request entity exceeds the maximum allowed."},
	414: {"URI Too Long", "The request's target is too long."},
	417: {"Expectation Failed", "The only expectation that is met is 100-continue."},
	421: {"Misdirected Request", "Request sent to a non-authoritative server."},
	422: {"Unprocessable Content", "The server cannot process the contained instructions."},
	425: {"Too Early", "Your browser sent early data."},
	429: {"Too Many Requests", "You have sent too many requests in a given amount of time."},
	431: {"Request Header Fields Too Large", "The request's head is too large."},
	500: {"Internal Server Error", "An internal server error occurred."},
	501: {"Not Implemented", "The server does not support the functionality required to fulfill the request."},
	502: {"Bad Gateway", "The server returned an invalid or incomplete response."},
	503: {"Service Unavailable", "No server is available to handle this request."},
	504: {"Gateway Time-out", "The server didn't respond in time."},
	505: {"HTTP Version Not Supported", "This version of HTTP is not supported."},
}

// refusals are the answers that consist of a page only.
var refusals = func() map[int]*Answer {
	all := map[int]*Answer{}
	for status, p := range pages {
		if p.text == "" {
			continue
		}
		all[status] = &Answer{
			Status: status,
			Fields: []Field{{"Cache-Control", "no-cache"}, {"Content-Type", "text/html"}},
			Body:   []byte("<html><body><h1>" + strconv.Itoa(status) + " " + p.reason + "</h1>\n" + p.text + "\n</body></html>\n"),
		}
	}
	return all
}()

// Refusal is the answer with the page of a status, of 500 when there is none.
func Refusal(status int) *Answer {
	if a := refusals[status]; a != nil {
		return a
	}
	return refusals[500]
}
