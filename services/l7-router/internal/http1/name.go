package http1

// Name is a field name that a proxy has to know; Other is any else.
type Name uint8

// The known field names.
const (
	Other Name = iota
	CacheControl
	Connection
	ContentLength
	Cookie
	ETag
	Expect
	Expires
	Host
	HTTP2Settings
	KeepAlive
	LastModified
	Pragma
	ProxyConnection
	SetCookie
	TE
	TransferEncoding
	Upgrade
	XForwardedFor
	Forwarded
	XForwardedHost
	XForwardedPort
	XForwardedProto
)

// nameOf finds the Name of a field. The length picks the candidates, so that most fields cost one comparison or none.
func nameOf(b []byte) Name {
	is := func(s string, n Name) Name {
		if EqualFold(b, s) {
			return n
		}
		return Other
	}
	switch len(b) {
	case 2:
		return is("te", TE)
	case 4:
		if lower(b[0]) == 'h' {
			return is("host", Host)
		}
		return is("etag", ETag)
	case 6:
		switch lower(b[0]) {
		case 'c':
			return is("cookie", Cookie)
		case 'e':
			return is("expect", Expect)
		}
		return is("pragma", Pragma)
	case 7:
		if lower(b[0]) == 'u' {
			return is("upgrade", Upgrade)
		}
		return is("expires", Expires)
	case 9:
		return is("forwarded", Forwarded)
	case 10:
		switch lower(b[0]) {
		case 'c':
			return is("connection", Connection)
		case 's':
			return is("set-cookie", SetCookie)
		}
		return is("keep-alive", KeepAlive)
	case 13:
		if lower(b[0]) == 'c' {
			return is("cache-control", CacheControl)
		}
		return is("last-modified", LastModified)
	case 14:
		if lower(b[0]) == 'h' {
			return is("http2-settings", HTTP2Settings)
		}
		return is("content-length", ContentLength)
	case 15:
		return is("x-forwarded-for", XForwardedFor)
	case 16:
		if lower(b[0]) == 'p' {
			return is("proxy-connection", ProxyConnection)
		}
		if n := is("x-forwarded-host", XForwardedHost); n != Other {
			return n
		}
		return is("x-forwarded-port", XForwardedPort)
	case 17:
		if lower(b[0]) == 'x' {
			return is("x-forwarded-proto", XForwardedProto)
		}
		return is("transfer-encoding", TransferEncoding)
	}
	return Other
}

// aliased reports whether a field name with an underscore means one of the known fields when "_" is read as "-": CGI and what descends from
// it (PHP's $_SERVER, WSGI) cannot tell the two apart, so X_Forwarded_For would speak for X-Forwarded-For.
func aliased(name []byte) bool {
	var other [len("transfer-encoding")]byte // the longest known name
	if len(name) > len(other) {
		return false
	}
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		other[i] = c
	}
	return nameOf(other[:len(name)]) != Other
}
