package exchange

import (
	"bytes"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// cutPair takes the first "name=value" off a Cookie field (RFC 6265 section 4.2.1).
func cutPair(cookies []byte) (pair, name, value, rest []byte) {
	pair, rest, _ = bytes.Cut(cookies, []byte{';'})
	pair = http1.Trim(pair)
	name, value, _ = bytes.Cut(pair, []byte{'='})
	return pair, http1.Trim(name), http1.Trim(value), rest
}

// readCookies looks for the persistence cookie and the usable server that it names; the first such counts.
func (r *Request) readCookies(cookies []byte, c *spec.Cookie) (found bool) {
	for len(cookies) > 0 {
		_, key, value, rest := cutPair(cookies)
		if string(key) == c.Name {
			found = true
			if r.Named == nil {
				r.readCookie(c, value)
			}
		}
		cookies = rest
	}
	return found
}

// appendCookies appends a Cookie field as the server is to get it: without the persistence cookie, or, when that is the
// application's, without the router's part of it; nothing when no cookie is left.
func appendCookies(dst, field, cookies []byte, c *spec.Cookie) []byte {
	first := true
	for len(cookies) > 0 {
		pair, key, value, rest := cutPair(cookies)
		cookies = rest
		own := string(key) == c.Name
		if len(pair) == 0 || own && c.Mode == spec.CookieInsert {
			continue
		}
		if first {
			dst = append(append(dst, field...), ": "...)
			first = false
		} else {
			dst = append(dst, "; "...)
		}
		if _, theirs, marked := bytes.Cut(value, []byte{prefixMark}); own && marked {
			dst = append(append(append(dst, key...), '='), theirs...)
		} else {
			dst = append(dst, pair...)
		}
	}
	if !first {
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// setsCookie reports whether a Set-Cookie field sets the cookie of this name.
func setsCookie(value []byte, name string) bool {
	_, key, _, _ := cutPair(value)
	return string(key) == name
}

// cacheable reports whether a shared cache could store a response without asking (RFC 9111 section 3): method and status
// allow it by themselves, or the response is public; it says how fresh it is or how to find out; and it does not forbid it.
func (r *Request) cacheable(h *http1.Head) bool {
	allowed := r.safe
	switch h.Status() {
	case 200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501:
	default:
		allowed = false
	}
	explicit := false
	for i := range h.Fields() {
		switch h.Known(i) {
		case http1.ETag, http1.LastModified, http1.Expires:
			explicit = true
		case http1.Pragma:
			if http1.EqualFold(h.Value(i), "no-cache") {
				return false
			}
		case http1.CacheControl:
			for list := h.Value(i); ; {
				directive, rest, ok := http1.CutToken(list)
				if !ok {
					break
				}
				list = rest
				name, value, _ := bytes.Cut(directive, []byte{'='})
				switch {
				case http1.EqualFold(name, "private"), http1.EqualFold(name, "no-cache"), http1.EqualFold(name, "no-store"):
					return false
				case http1.EqualFold(name, "public"):
					allowed = true
				case http1.EqualFold(name, "max-age"), http1.EqualFold(name, "s-maxage"):
					if string(value) == "0" {
						return false
					}
					explicit = true
				}
			}
		}
	}
	return allowed && explicit
}
