package exchange

import (
	"bytes"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
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
func (r *Request) readCookies(cookies []byte, name string) (found bool) {
	for len(cookies) > 0 {
		_, key, value, rest := cutPair(cookies)
		if string(key) == name {
			found = true
			if r.Named == nil {
				r.Named = r.Backend.ByCookie(value)
				r.sawCookie(value)
			}
		}
		cookies = rest
	}
	return found
}

// appendWithoutCookie appends a Cookie field without the cookies of one name; nothing when no other is left.
func appendWithoutCookie(dst, field, cookies []byte, name string) []byte {
	first := true
	for len(cookies) > 0 {
		pair, key, _, rest := cutPair(cookies)
		cookies = rest
		if len(pair) == 0 || string(key) == name {
			continue
		}
		if first {
			dst = append(dst, field...)
			dst = append(dst, ": "...)
			first = false
		} else {
			dst = append(dst, "; "...)
		}
		dst = append(dst, pair...)
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

// appendSetCookie appends the cookie that ties the client to the server, or, when the server has no value, one that
// frees the client from an earlier server (HAProxy: cookie NAME insert).
func appendSetCookie(dst []byte, c *spec.Cookie, s *pool.Server) []byte {
	dst = append(dst, "Set-Cookie: "...)
	dst = append(dst, c.Name...)
	dst = append(dst, '=')
	dst = append(dst, s.Spec.Cookie...)
	if s.Spec.Cookie == "" {
		dst = append(dst, "; Expires=Thu, 01-Jan-1970 00:00:01 GMT"...)
	}
	dst = append(dst, "; path=/"...)
	if c.HTTPOnly {
		dst = append(dst, "; HttpOnly"...)
	}
	if c.Secure {
		dst = append(dst, "; Secure"...)
	}
	return append(dst, "\r\n"...)
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
