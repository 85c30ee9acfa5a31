package http1

import "bytes"

// PlainPath reports whether a path reads the same for everybody: it has no code, no "//", no "/." and no "\". Such a path
// is what AppendNormalisedPath and AppendDecodedPath make of it.
func PlainPath(path []byte) bool {
	for i, c := range path {
		switch c {
		case '%', '\\':
			return false
		case '/':
			if i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
				return false
			}
		}
	}
	return true
}

// AppendNormalisedPath appends a path in the normal form of RFC 3986 section 6.2.2: codes of unreserved characters decoded,
// other codes in upper case, segments "." and ".." resolved. A "%" that begins no code becomes "%25", so that it begins none
// afterwards either. What does not begin with "/" has no segments to resolve. Doing it twice changes nothing more.
func AppendNormalisedPath(dst, path []byte) []byte {
	start := len(dst)
	for i := 0; i < len(path); i++ {
		c, ok := decoded(path[i:])
		switch {
		case !ok && path[i] == '%':
			dst = append(dst, "%25"...)
		case !ok:
			dst = append(dst, path[i])
		case unreserved(c):
			dst = append(dst, c)
			i += 2
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
			i += 2
		}
	}
	return resolve(dst, start)
}

// AppendDecodedPath appends a path as the most lenient servers read it: each code decoded once, "\" taken for "/", several
// "/" for one, then segments "." and ".." resolved.
func AppendDecodedPath(dst, path []byte) []byte {
	start := len(dst)
	for i := 0; i < len(path); i++ {
		c, ok := decoded(path[i:])
		if ok {
			i += 2
		} else {
			c = path[i]
		}
		if c == '\\' {
			c = '/'
		}
		if c == '/' && len(dst) > start && dst[len(dst)-1] == '/' {
			continue
		}
		dst = append(dst, c)
	}
	return resolve(dst, start)
}

// AppendDecodedText appends a name or value of a query decoded, "+" as a space.
func AppendDecodedText(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		c, ok := decoded(text[i:])
		switch {
		case ok:
			i += 2
		case text[i] == '+':
			c = ' '
		default:
			c = text[i]
		}
		dst = append(dst, c)
	}
	return dst
}

const hex = "0123456789ABCDEF"

// decoded reads the code that b begins with (RFC 3986 section 2.1).
func decoded(b []byte) (c byte, ok bool) {
	if len(b) < 3 || b[0] != '%' {
		return 0, false
	}
	high, low := digit(b[1]), digit(b[2])
	return high<<4 | low&15, high < 16 && low < 16
}

// digit is the value of a hexadecimal digit, 255 when c is none.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// unreserved is RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// resolve takes the segments "." and ".." out of the path that begins at a place of dst (RFC 3986 section 5.2.4).
func resolve(dst []byte, start int) []byte {
	path := dst[start:]
	if len(path) == 0 || path[0] != '/' || !bytes.Contains(path, []byte("/.")) {
		return dst
	}
	out := 0 // path[:out] is what has been made; it is behind what is read
	for i := 0; i < len(path); {
		end := i + 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		switch segment := path[i:end]; {
		case len(segment) == 2 && segment[1] == '.':
			if end == len(path) { // "/a/." is "/a/"
				path[out] = '/'
				out++
			}
		case len(segment) == 3 && segment[1] == '.' && segment[2] == '.':
			for out > 0 {
				out--
				if path[out] == '/' {
					break
				}
			}
			if end == len(path) {
				path[out] = '/'
				out++
			}
		default:
			out += copy(path[out:], segment)
		}
		i = end
	}
	return dst[:start+out]
}
