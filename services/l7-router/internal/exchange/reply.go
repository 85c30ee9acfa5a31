package exchange

import (
	"errors"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// Reply tells the driver what to do with a final response.
type Reply struct {
	// Body is how the server frames the body.
	Body http1.Body
	// Unchunk: pass on the data of the chunks only; the client speaks HTTP/1.0.
	Unchunk bool
	// KeepClient and KeepServer say whether the connections can be used again once everything is through.
	KeepClient, KeepServer bool
	// Tunnel: both sides have switched to another protocol; pass on everything until they close.
	Tunnel bool
}

// ErrUpgrade is a 101 that nobody asked for.
var ErrUpgrade = errors.New("the server switches protocols without being asked")

// Interim appends a 1xx response for the client; nothing when the client's HTTP/1.0 does not know it.
func (r *Request) Interim(dst []byte, h *http1.Head) []byte {
	if r.minor == 0 {
		return dst
	}
	dst = http1.AppendStatusLine(dst, h.Status(), h.Reason())
	for i := range h.Fields() {
		if !h.HopByHop(i) && h.Known(i) != http1.ContentLength {
			dst = http1.AppendField(dst, h.Name(i), h.Value(i))
		}
	}
	return http1.AppendEnd(dst)
}

// Reply appends the head of a final response for the client. closing says that the client's connection is to be closed
// in any case. The server is the one that Next chose last.
func (r *Request) Reply(dst []byte, h *http1.Head, closing bool) ([]byte, Reply, error) {
	reply := Reply{Body: h.ResponseBody(r.ToHead), KeepServer: h.KeepAlive()}
	reply.Tunnel = h.Status() == 101
	if reply.Tunnel && (!r.upgrade || h.Upgrade() == nil) {
		return dst, reply, ErrUpgrade
	}
	r.Record.Status = h.Status()
	reply.Unchunk = reply.Body.Framing == http1.Chunked && r.minor == 0
	if reply.Body.Framing == http1.UntilClose {
		reply.KeepServer = false
	}
	reply.KeepClient = r.KeepAlive && !closing && !reply.Unchunk && reply.Body.Framing != http1.UntilClose

	cookie := &r.Backend.Spec.Cookie
	theirs := false // the server has set the persistence cookie itself
	edits := r.decision.Edits
	dst = http1.AppendStatusLine(dst, h.Status(), h.Reason())
	for i := range h.Fields() {
		if h.HopByHop(i) || len(edits) > 0 && replaced(edits, true, h.Name(i)) {
			continue
		}
		switch h.Known(i) {
		case http1.ContentLength:
			if h.Status() < 200 || h.Status() == 204 {
				continue // RFC 9110 8.6: must not be there
			}
		case http1.SetCookie:
			if cookie.Name != "" && setsCookie(h.Value(i), cookie.Name) {
				theirs = true
				dst = r.passSetCookie(dst, h.Name(i), h.Value(i), cookie)
				continue
			}
		}
		dst = http1.AppendField(dst, h.Name(i), h.Value(i))
	}
	dst = appendEdits(dst, edits, true)
	if now := r.cookieClock(cookie); cookie.Name != "" && !(theirs && cookie.Preserve) && r.inserts(cookie, now) {
		dst = r.appendSetCookie(dst, cookie, now)
		r.Record.CookieOut = 'I'
		if same(r.Named, r.server) {
			r.Record.CookieOut = 'U'
		}
		if cookie.NoCache && r.cacheable(h) {
			dst = http1.AppendField(dst, "Cache-Control", "private")
		}
	}
	switch {
	case reply.Tunnel:
		dst = http1.AppendField(dst, "Connection", "Upgrade")
		dst = http1.AppendField(dst, "Upgrade", h.Upgrade())
	case reply.Body.Framing == http1.Chunked && !reply.Unchunk:
		dst = http1.AppendField(dst, "Transfer-Encoding", "chunked")
	}
	return http1.AppendEnd(r.appendConnection(dst, reply)), reply, nil
}

// appendConnection says what becomes of the client's connection where its version of HTTP would assume otherwise.
func (r *Request) appendConnection(dst []byte, reply Reply) []byte {
	switch {
	case reply.Tunnel:
	case !reply.KeepClient:
		dst = http1.AppendField(dst, "Connection", "close")
	case r.minor == 0:
		dst = http1.AppendField(dst, "Connection", "keep-alive")
	}
	return dst
}

// Minor returns x of the client's HTTP/1.x.
func (r *Request) Minor() int { return r.minor }
