package http1

import "bytes"

// Kind tells requests from responses.
type Kind uint8

// The two kinds of message.
const (
	Request Kind = iota
	Response
)

// Framing is how the end of a body is told (RFC 9112 section 6.3).
type Framing uint8

// The framings.
const (
	// NoBody: the message ends with its head.
	NoBody Framing = iota
	// Length: the body has Body.Length bytes.
	Length
	// Chunked: the body tells its own end.
	Chunked
	// UntilClose: the body ends with the connection; responses only.
	UntilClose
)

// Body tells how a message's body is framed.
type Body struct {
	Framing Framing
	// Length in bytes when Framing is Length; when it is Chunked, the most bytes that its chunks may hold, 0: any number.
	Length int64
	// Reserved is the name of a field that a trailer must not have, as SameHeader compares; empty: none.
	Reserved string
}

type span struct{ from, to uint32 }

type field struct {
	name, value span
	known       Name
}

// Head is one message head while and after it is read. It keeps positions in the caller's bytes, not copies: what it
// returns is valid as long as the bytes last shown to Parse are left alone. The zero value reads a request.
type Head struct {
	kind   Kind
	buf    []byte
	line   int // where the line being read starts
	search int // up to where the end of that line has been looked for
	begun  bool
	done   bool

	method, target, path, authority, reason span
	status                                  int
	minor                                   int

	fields [MaxFields]field
	count  int

	length       int64 // -1: no Content-Length
	chunked      bool
	host         int // index of the Host field, -1: none
	close        bool
	keepAlive    bool
	upgrade      bool // Connection names Upgrade
	expect       bool // 100-continue
	moreOptions  bool // Connection names fields beyond those that are hop-by-hop anyway
	upgradeField int
}

// Reset makes h ready for another head of the given kind.
func (h *Head) Reset(kind Kind) {
	// The fields stay as they are: count says how many count, and clearing 2.8 KB for each message would be seen.
	h.kind, h.buf, h.line, h.search, h.begun, h.done = kind, nil, 0, 0, false, false
	h.method, h.target, h.path, h.authority, h.reason = span{}, span{}, span{}, span{}, span{}
	h.status, h.minor, h.count = 0, 0, 0
	h.length, h.chunked, h.host = -1, false, -1
	h.close, h.keepAlive, h.upgrade, h.expect, h.moreOptions, h.upgradeField = false, false, false, false, false, -1
}

// Parse reads on. Data starts with the first byte of the message and holds at least what earlier calls were shown (it
// may have moved). It reports whether the head is complete; Len then says how much of data it is. Lines are checked as
// soon as they are whole. After an error the message is not to be trusted and the connection has to be closed.
func (h *Head) Parse(data []byte) (complete bool, err error) {
	if h.done {
		return true, nil
	}
	h.buf = data
	for {
		end := bytes.IndexByte(data[h.search:], '\n')
		if end < 0 {
			h.search = len(data)
			if len(data) >= MaxHeadBytes {
				return false, h.tooLarge()
			}
			return false, nil
		}
		end += h.search
		if end >= MaxHeadBytes {
			return false, h.tooLarge()
		}
		if end == h.line || data[end-1] != '\r' {
			return false, ErrLineEnd
		}
		line := span{uint32(h.line), uint32(end - 1)}
		h.line, h.search = end+1, end+1
		switch {
		case !h.begun && line.from == line.to && line.from == 0 && h.kind == Request:
			// One empty line before a request is forgiven (2.2): some clients send it after a body.
		case !h.begun:
			h.begun = true
			if h.kind == Request {
				err = h.requestLine(line)
			} else {
				err = h.statusLine(line)
			}
		case line.from == line.to:
			if err = h.finish(); err != nil {
				return false, err
			}
			h.done = true
			return true, nil
		default:
			err = h.addField(line)
		}
		if err != nil {
			return false, err
		}
	}
}

// tooLarge tells what is too large about a head.
func (h *Head) tooLarge() error {
	if h.begun || h.kind == Response {
		return ErrHeadTooLarge
	}
	switch space := bytes.IndexByte(h.buf[h.line:], ' '); {
	case space < 0:
		return ErrRequestLine
	case space > MaxMethodBytes:
		return ErrMethod
	}
	return ErrTargetTooLong
}

func (h *Head) bytes(s span) []byte { return h.buf[s.from:s.to:s.to] }

// version reads HTTP/1.x.
func (h *Head) version(b []byte, malformed *Error) error {
	if len(b) != 8 || string(b[:5]) != "HTTP/" || b[6] != '.' || b[5] < '0' || b[5] > '9' || b[7] < '0' || b[7] > '9' {
		return malformed
	}
	if b[5] != '1' || b[7] > '1' {
		return ErrVersion
	}
	h.minor = int(b[7] - '0')
	return nil
}

func (h *Head) requestLine(line span) error {
	b := h.bytes(line)
	first := bytes.IndexByte(b, ' ')
	last := bytes.LastIndexByte(b, ' ')
	if first < 1 || last == first || !isToken(b[:first]) {
		return ErrRequestLine
	}
	if first > MaxMethodBytes {
		return ErrMethod
	}
	target := b[first+1 : last]
	if len(target) == 0 || !all(target, classTarget) {
		return ErrTarget
	}
	if err := h.version(b[last+1:], ErrRequestLine); err != nil {
		return err
	}
	h.method = span{line.from, line.from + uint32(first)}
	h.target = span{line.from + uint32(first) + 1, line.from + uint32(last)}
	return h.splitTarget()
}

// splitTarget finds path and authority in the three forms that a reverse proxy may get (3.2): "/path?query",
// "http://host/path?query" and, for OPTIONS, "*".
func (h *Head) splitTarget() error {
	method, target := h.bytes(h.method), h.bytes(h.target)
	if string(method) == "CONNECT" {
		return ErrMethod
	}
	from, to := 0, len(target)
	if query := bytes.IndexByte(target, '?'); query >= 0 {
		to = query
	}
	switch {
	case target[0] == '/':
	case string(target) == "*":
		if string(method) != "OPTIONS" {
			return ErrTarget
		}
	default:
		scheme := bytes.Index(target[:to], []byte("://"))
		if scheme < 1 || !EqualFold(target[:scheme], "http") && !EqualFold(target[:scheme], "https") {
			return ErrTarget
		}
		authority := scheme + 3
		from = to
		if slash := bytes.IndexByte(target[authority:to], '/'); slash >= 0 {
			from = authority + slash
		}
		if !isHost(target[authority:from]) {
			return ErrTarget
		}
		h.authority = span{h.target.from + uint32(authority), h.target.from + uint32(from)}
	}
	h.path = span{h.target.from + uint32(from), h.target.from + uint32(to)}
	return nil
}

func (h *Head) statusLine(line span) error {
	b := h.bytes(line)
	// The space after the status is required even before an empty reason, but left out by too many servers.
	if len(b) < 12 || b[8] != ' ' || len(b) > 12 && b[12] != ' ' {
		return ErrStatusLine
	}
	if err := h.version(b[:8], ErrStatusLine); err != nil {
		return err
	}
	status, ok := decimal(b[9:12])
	if !ok || status < 100 {
		return ErrStatusLine
	}
	h.status = int(status)
	h.reason = span{line.to, line.to}
	if len(b) > 13 {
		h.reason.from = line.from + 13
		if !isValue(b[13:]) {
			return ErrStatusLine
		}
	}
	return nil
}

func (h *Head) addField(line span) error {
	if h.count == MaxFields {
		return ErrTooManyFields
	}
	name, value, underscore, err := splitField(h.bytes(line))
	if err != nil {
		return err
	}
	// The value is a part of the line, so its place follows from what was cut off behind it.
	b := h.bytes(line)
	start := line.from + uint32(cap(b)-cap(value))
	f := &h.fields[h.count]
	f.name = span{line.from, line.from + uint32(len(name))}
	f.value = span{start, start + uint32(len(value))}
	f.known = nameOf(name)
	if underscore && h.kind == Request && aliased(name) {
		return ErrFieldAlias
	}
	err = h.note(f.known, value)
	h.count++
	return err
}

// splitField cuts a header or trailer line, without its CR LF, into name and value, and tells whether the name has an
// underscore.
func splitField(line []byte) (name, value []byte, underscore bool, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, false, ErrFolding
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return nil, nil, false, ErrFieldName
	}
	ok, underscore := isName(line[:colon])
	if !ok {
		return nil, nil, false, ErrFieldName
	}
	value = Trim(line[colon+1:])
	if !isValue(value) {
		return nil, nil, false, ErrFieldValue
	}
	return line[:colon], value, underscore, nil
}

// note remembers what the known fields say about framing and connection.
func (h *Head) note(name Name, value []byte) error {
	switch name {
	case Host:
		if h.kind == Response {
			return nil // it means nothing there
		}
		if h.host >= 0 || !isHost(value) {
			return ErrHost
		}
		h.host = h.count
	case ContentLength:
		n, ok := decimal(value)
		if !ok || h.length >= 0 {
			return ErrContentLength
		}
		if h.kind == Request && len(value) > 1 && value[0] == '0' {
			return ErrContentLength // some read it as octal
		}
		h.length = n
	case Expect:
		if h.kind == Request && h.minor >= 1 {
			if h.expect || !EqualFold(value, "100-continue") {
				return ErrExpect
			}
			h.expect = true
		}
	case TransferEncoding:
		if h.chunked || h.minor == 0 {
			return ErrTransferEncoding
		}
		if !EqualFold(value, "chunked") {
			return badCoding(value)
		}
		h.chunked = true
	case Connection:
		for list := value; ; {
			option, rest, ok := CutToken(list)
			if !ok {
				break
			}
			list = rest
			switch {
			case EqualFold(option, "close"):
				h.close = true
			case EqualFold(option, "keep-alive"):
				h.keepAlive = true
			case EqualFold(option, "upgrade"):
				h.upgrade = true
			case !hopByHop(nameOf(option)):
				h.moreOptions = true
			}
		}
	case Upgrade:
		h.upgradeField = h.count
	}
	return nil
}

// finish checks what can only be told from the whole head.
func (h *Head) finish() error {
	if h.chunked && h.length >= 0 {
		return ErrTwoFramings
	}
	if h.kind == Response {
		return nil
	}
	if string(h.bytes(h.method)) == "TRACE" && (h.chunked || h.length > 0) {
		return ErrTrace
	}
	if h.host < 0 {
		if h.minor >= 1 {
			return ErrHost
		}
		return nil
	}
	if h.authority.from < h.authority.to && !EqualFold(h.bytes(h.authority), h.Value(h.host)) {
		return ErrHostTarget
	}
	return nil
}

// badCoding tells a list of codings that ends with chunked, of which this program knows the last only, from what cannot be
// read at all: a body whose end nobody finds (6.3).
func badCoding(list []byte) error {
	last, chunked := []byte(nil), 0
	for rest := list; ; {
		coding, more, ok := CutToken(rest)
		if !ok {
			break
		}
		if !isToken(coding) {
			return ErrTransferEncoding
		}
		if EqualFold(coding, "chunked") {
			chunked++
		}
		last, rest = coding, more
	}
	if chunked != 1 || !EqualFold(last, "chunked") || len(last) == len(list) || list[0] == ',' || list[len(list)-1] == ',' {
		return ErrTransferEncoding
	}
	return ErrUnknownCoding
}
