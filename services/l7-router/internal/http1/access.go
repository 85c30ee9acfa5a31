package http1

// Len returns the number of bytes of the complete head, the empty line included.
func (h *Head) Len() int { return h.line }

// Method returns a request's method.
func (h *Head) Method() []byte { return h.bytes(h.method) }

// Target returns a request's target as it was sent.
func (h *Head) Target() []byte { return h.bytes(h.target) }

// Path returns the path of a request's target, neither decoded nor normalised, without the query. It is never empty.
func (h *Head) Path() []byte {
	switch {
	case h.path.from < h.path.to:
		return h.bytes(h.path)
	case h.path.to == h.target.to && string(h.Method()) == "OPTIONS":
		return asterisk // RFC 9112 3.2.4
	}
	return slash // RFC 9112 3.2.1
}

// Query returns the query of a request's target with the "?" before it, nil when there is none.
func (h *Head) Query() []byte {
	if h.path.to == h.target.to {
		return nil
	}
	return h.bytes(span{h.path.to, h.target.to})
}

var slash, asterisk = []byte("/"), []byte("*")

// Host returns the value of the Host field, nil without one.
func (h *Head) Host() []byte {
	if h.host < 0 {
		return nil
	}
	return h.Value(h.host)
}

// Minor returns x of HTTP/1.x: 0 or 1.
func (h *Head) Minor() int { return h.minor }

// Status returns a response's status, 100 to 999.
func (h *Head) Status() int { return h.status }

// Reason returns a response's reason phrase, which may be empty.
func (h *Head) Reason() []byte { return h.bytes(h.reason) }

// Fields returns the number of fields.
func (h *Head) Fields() int { return h.count }

// Name returns the name of the i-th field as it was sent.
func (h *Head) Name(i int) []byte { return h.bytes(h.fields[i].name) }

// Value returns the value of the i-th field without the space around it.
func (h *Head) Value(i int) []byte { return h.bytes(h.fields[i].value) }

// Known returns the i-th field's Name.
func (h *Head) Known(i int) Name { return h.fields[i].known }

// Authority returns the host and port of a request's target, nil unless it is in absolute form.
func (h *Head) Authority() []byte { return h.bytes(h.authority) }

// HasHost reports whether there is a Host field.
func (h *Head) HasHost() bool { return h.host >= 0 }

// KeepAlive reports whether the sender keeps the connection after this message (RFC 9112 section 9.3).
func (h *Head) KeepAlive() bool {
	if h.minor >= 1 {
		return !h.close
	}
	return h.keepAlive && !h.close
}

// Upgrade returns the protocols that the sender offers or has switched to (RFC 9110 section 7.8), nil when none. An
// offer of h2c does not count (RFC 9113 section 3.1 has given it up): requests inside it would reach the server past
// everything that is decided here.
func (h *Head) Upgrade() []byte {
	if !h.upgrade || h.upgradeField < 0 || h.minor == 0 {
		return nil
	}
	value := h.Value(h.upgradeField)
	for list := value; ; {
		protocol, rest, ok := CutToken(list)
		switch {
		case !ok:
			return value
		case EqualFold(protocol, "h2c"):
			return nil
		}
		list = rest
	}
}

// RequestBody tells how the body of a request is framed.
func (h *Head) RequestBody() Body {
	switch {
	case h.chunked:
		return Body{Framing: Chunked}
	case h.length > 0:
		return Body{Framing: Length, Length: h.length}
	}
	return Body{}
}

// ResponseBody tells how the body of a response is framed; toHead says whether it answers a HEAD request.
func (h *Head) ResponseBody(toHead bool) Body {
	switch {
	case toHead, h.status < 200, h.status == 204, h.status == 304:
		return Body{}
	case h.chunked:
		return Body{Framing: Chunked}
	case h.length == 0:
		return Body{}
	case h.length > 0:
		return Body{Framing: Length, Length: h.length}
	}
	return Body{Framing: UntilClose}
}

// hopByHop tells the fields that are for the next hop only (RFC 9110 section 7.6.1).
func hopByHop(name Name) bool {
	switch name {
	case Connection, HTTP2Settings, KeepAlive, ProxyConnection, TE, TransferEncoding, Upgrade:
		return true
	}
	return false
}

// HopByHop reports whether the i-th field must not be passed on: it is for this hop only, by itself or because
// Connection names it. Host and Content-Length always go on, whatever Connection says: without them the message would
// be read as another.
func (h *Head) HopByHop(i int) bool {
	known := h.fields[i].known
	if hopByHop(known) {
		return true
	}
	if !h.moreOptions || known == Host || known == ContentLength {
		return false
	}
	name := h.Name(i)
	for j := range h.count {
		if h.fields[j].known != Connection {
			continue
		}
		for list := h.Value(j); ; {
			option, rest, ok := CutToken(list)
			if !ok {
				break
			}
			if EqualFold(option, name) {
				return true
			}
			list = rest
		}
	}
	return false
}
