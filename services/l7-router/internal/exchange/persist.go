package exchange

import (
	"bytes"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Persistence by cookie is HAProxy's, byte by byte: its formats, when a cookie counts and when it is sent
// (configuration manual, "cookie"; src/http_ana.c).

const (
	// dateMark stands before each date in a value, prefixMark behind the router's part of an application's cookie.
	dateMark, prefixMark = '|', '~'
	// dateLength is how many characters a date has, of 6 bits each, most significant first; it counts in 4 seconds.
	dateLength, dateStep = 5, 4
	// maxFuture is how far in the future a date may be and count, in seconds: clocks differ.
	maxFuture = 24 * 60 * 60
	digits    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)

// persisted is what the client's cookie says beside the server.
type persisted struct {
	lastVisit, firstVisit int64 // dates, in Unix seconds; 0: not there
	post                  bool
}

// appendDate appends a date.
func appendDate(dst []byte, seconds int64) []byte {
	dst = append(dst, dateMark)
	for shift := 6 * (dateLength - 1); shift >= 0; shift -= 6 {
		dst = append(dst, digits[seconds/dateStep>>shift&63])
	}
	return dst
}

// date reads a date off the front; 0: there is none.
func date(text []byte) int64 {
	if len(text) < dateLength {
		return 0
	}
	value := int64(0)
	for _, c := range text[:dateLength] {
		digit := bytes.IndexByte([]byte(digits), c)
		if digit < 0 {
			return 0
		}
		value = value<<6 | int64(digit)
	}
	return value * dateStep
}

// readCookie takes in one cookie of the persistence cookie's name.
func (r *Request) readCookie(c *spec.Cookie, value []byte) {
	r.lastVisit, r.firstVisit = 0, 0
	switch c.Mode {
	case spec.CookiePrefix:
		value, _, _ = bytes.Cut(value, []byte{prefixMark})
	default:
		if c.KeyFile != "" {
			var ok bool
			if value, ok = r.Backend.Unseal(value); !ok {
				r.Record.CookieIn = 'I'
				return
			}
		}
		name, rest, dated := bytes.Cut(value, []byte{dateMark})
		if dated {
			value = name
			r.lastVisit = date(rest)
			if at := bytes.IndexByte(rest, dateMark); at >= 0 {
				r.firstVisit = date(rest[at+1:])
			}
		}
	}
	if c.Dated() && r.outdated(c, time.Now().Unix()) {
		return
	}
	r.Named = r.Backend.ByCookie(value)
	r.sawCookie(value)
}

// outdated reports whether a cookie is too old to count, and forgets its dates then.
func (r *Request) outdated(c *spec.Cookie, now int64) bool {
	d := &r.persisted
	too := func(date int64, most time.Duration) bool {
		return date != 0 && most > 0 && (now-date > int64(most/time.Second) || date-now > maxFuture)
	}
	switch {
	case too(d.firstVisit, c.MaxLife):
		r.Record.CookieIn = 'O'
	case too(d.lastVisit, c.MaxIdle):
		r.Record.CookieIn = 'E'
	default:
		return false
	}
	d.lastVisit, d.firstVisit = 0, 0
	return true
}

// cookieClock is the time in Unix seconds, if the cookie needs it.
func (r *Request) cookieClock(c *spec.Cookie) int64 {
	if !c.Dated() && r.lastVisit == 0 {
		return 0
	}
	return time.Now().Unix()
}

// inserts reports whether the response has to carry the cookie: the client came to another server than its cookie names, or
// the dates in it have to be renewed, added or removed.
func (r *Request) inserts(c *spec.Cookie, now int64) bool {
	d := &r.persisted
	switch {
	case c.Mode != spec.CookieInsert || c.PostOnly && !d.post || c.KeyFile != "" && !r.Backend.Seals():
		return false
	case !same(r.Named, r.server):
		return true
	}
	return (c.MaxIdle > 0 || d.lastVisit != 0) && d.lastVisit < now || c.MaxLife > 0 && d.firstVisit == 0 || c.MaxLife == 0 && d.firstVisit != 0
}

// appendSetCookie appends the cookie that ties the client to its server, or, when that has no value, one that frees the
// client from an earlier server.
func (r *Request) appendSetCookie(dst []byte, c *spec.Cookie, now int64) []byte {
	dst = append(dst, "Set-Cookie: "...)
	dst = append(dst, c.Name...)
	dst = append(dst, '=')
	from := len(dst)
	dst = append(dst, r.server.Spec.Cookie...)
	if r.server.Spec.Cookie == "" {
		dst = append(dst, "; Expires=Thu, 01-Jan-1970 00:00:01 GMT"...)
	} else {
		if c.Dated() {
			dst = appendDate(dst, now+dateStep-1)
			if c.MaxLife > 0 {
				if r.firstVisit != 0 {
					dst = appendDate(dst, r.firstVisit)
				} else {
					dst = appendDate(dst, now+dateStep-1)
				}
			}
		}
		if c.KeyFile != "" {
			dst = r.Backend.Seal(dst, from)
		}
	}
	dst = append(dst, "; path=/"...)
	dst = append(dst, c.Domain...)
	if c.HTTPOnly {
		dst = append(dst, "; HttpOnly"...)
	}
	if c.Secure {
		dst = append(dst, "; Secure"...)
	}
	dst = append(dst, c.Attributes...)
	return append(dst, "\r\n"...)
}

// passSetCookie passes on a Set-Cookie field of the persistence cookie's name that the server has sent, as the mode has it;
// blanks around the "=" are left out.
func (r *Request) passSetCookie(dst, field, cookie []byte, c *spec.Cookie) []byte {
	own := r.server.Spec.Cookie
	if !c.Preserve && (c.Mode == spec.CookieInsert || c.Indirect && same(r.Named, r.server)) {
		return dst
	}
	_, value, _ := bytes.Cut(cookie, []byte{'='})
	value = bytes.TrimLeft(value, " \t")
	dst = append(append(dst, field...), ": "...)
	dst = append(append(dst, c.Name...), '=')
	r.Record.CookieOut = 'R'
	switch {
	case c.Preserve || own == "" || c.Mode == spec.CookiePassive:
		r.Record.CookieOut = 'P'
	case c.Mode == spec.CookiePrefix:
		dst = append(append(dst, own...), prefixMark)
	default:
		dst = append(dst, own...)
		end := bytes.IndexByte(value, ';')
		if end < 0 {
			end = len(value)
		}
		value = value[len(bytes.TrimRight(value[:end], " \t")):]
	}
	return append(append(dst, value...), "\r\n"...)
}
