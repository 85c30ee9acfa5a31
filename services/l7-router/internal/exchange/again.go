package exchange

import (
	"slices"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// safeMethod reports whether a method changes nothing, so that a request may reach two servers (RFC 9110 section 9.2.1).
func safeMethod(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// Again reports whether a request goes to another server, by Next, after one that may have got it has failed. The driver asks only when everything of the request is here, and nothing of a response has been passed on.
func (r *Request) Again(why spec.Failure) bool { return r.Backend.Retries.On&why != 0 && r.turnAway() }

// AgainAfter is Again for a response of this status, in place of passing it on.
func (r *Request) AgainAfter(status int) bool {
	_, found := slices.BinarySearch(r.Backend.Retries.Statuses, status)
	return found && r.turnAway()
}

func (r *Request) turnAway() bool {
	return r.twice && r.more() && r.Backend.Others(&r.Ticket) && r.Backend.Spend()
}

// more reports whether the request may go to one more server.
func (r *Request) more() bool { return r.Chosen() <= r.Backend.Retries.Attempts }
