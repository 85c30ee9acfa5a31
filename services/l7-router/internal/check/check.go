// Package check asks a server once whether it works, and says how it answered in HAProxy's words.
package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Code is how a check ended, as in HAProxy's column check_status (management.txt 9.1).
type Code string

// The codes. Those of layer 6 and of external programs do not occur.
const (
	None            Code = ""        // there is no check
	Initializing    Code = "INI"     // there has been no result yet
	SocketError     Code = "SOCKERR" // the fault is on this side: no descriptors, no route
	Layer4OK        Code = "L4OK"
	Layer4Timeout   Code = "L4TOUT"
	Layer4Refused   Code = "L4CON"
	Layer7OK        Code = "L7OK"
	Layer7Condition Code = "L7OKC" // 404 under disable-on-404: it works, and wants no new clients
	Layer7Timeout   Code = "L7TOUT"
	Layer7Response  Code = "L7RSP" // what came is no HTTP response
	Layer7Status    Code = "L7STS" // it is one, but not the expected one
)

var descriptions = map[Code]string{
	Initializing: "Initializing", SocketError: "Socket error",
	Layer4OK: "Layer4 check passed", Layer4Timeout: "Layer4 timeout", Layer4Refused: "Layer4 connection problem",
	Layer7OK: "Layer7 check passed", Layer7Condition: "Layer7 check conditionally passed", Layer7Timeout: "Layer7 timeout",
	Layer7Response: "Layer7 invalid response", Layer7Status: "Layer7 wrong status",
}

// Good reports whether the server works.
func (c Code) Good() bool { return c == Layer4OK || c == Layer7OK || c == Layer7Condition }

// Description is what HAProxy writes in its column check_desc.
func (c Code) Description() string { return descriptions[c] }

// Result is how one check ended.
type Result struct {
	Code Code
	// Status of the response; 0 when there was none.
	Status int
	// Reason says it for a person, in UTF-8. Example: status 500 Internal Server Error
	Reason string
	// Duration is how long it took.
	Duration time.Duration
	// Unmade: there were no descriptors or no memory to make it with, so that it says nothing of the server.
	Unmade bool
}

const (
	// MaxBody is the most bytes of a body that are looked at.
	MaxBody = 64 << 10
	// maxPhrase is the most bytes of a reason phrase that are told, as in HAProxy.
	maxPhrase = 128
	// maxInterim is the most interim responses (1xx) before a final one.
	maxInterim = 32
)

// Dial makes a connection to a server.
type Dial func(ctx context.Context, address netip.AddrPort) (net.Conn, error)

// DialTCP makes one with which nothing is special.
func DialTCP(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address.String())
}

// Do checks the server at an address once, over a connection of its own, because a dead listener can hide behind a
// connection that is kept. It ends at c.Timeout at the latest, or when ctx does. A panic is a bad result.
func Do(ctx context.Context, address netip.AddrPort, c *spec.Check) Result {
	return Through(ctx, DialTCP, address, c)
}

// Through is Do over connections that dial makes.
func Through(ctx context.Context, dial Dial, address netip.AddrPort, c *spec.Check) (r Result) {
	begin := time.Now()
	defer func() {
		if cause := recover(); cause != nil {
			r = Result{Code: SocketError, Reason: fmt.Sprintf("the check panicked: %v\n%s", cause, debug.Stack())}
		}
		r.Reason, r.Duration = readable(r.Reason), time.Since(begin)
	}()
	if c.Address.IsValid() {
		address = netip.AddrPortFrom(c.Address, address.Port())
	}
	if c.Port != 0 {
		address = netip.AddrPortFrom(address.Addr(), c.Port)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := dial(ctx, address)
	if err != nil {
		return failed(err, Layer4Timeout, Layer4Refused)
	}
	defer conn.Close()
	if c.Kind == spec.CheckTCP {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it is closed by a reset, which leaves nothing behind on either side; HAProxy does so too
		}
		return Result{Code: Layer4OK, Reason: "connected"}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed one waits for nothing
	defer stop()
	return ask(conn, address, &c.HTTP)
}

// readable makes a text of one that a server may have had a hand in: a reason phrase may hold any bytes from 0x80 on (RFC 9112
// section 4), and what is no UTF-8 cannot be told over gRPC.
func readable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			return utf8.RuneError
		}
		return c
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}

// failed tells a timeout from a fault on this side and from everything else.
func failed(err error, timeout, other Code) Result {
	code := other
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Result{Code: timeout, Reason: "no answer in time"}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.ENOBUFS):
		code = SocketError
	}
	return Result{Code: code, Reason: err.Error(), Unmade: Scarce(err)}
}

// Scarce reports whether an error is about something that this side lacks, and that may come back at any moment: descriptors, memory.
func Scarce(err error) bool {
	for _, passing := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// ask sends the request of an HTTP check and judges the response.
func ask(conn net.Conn, address netip.AddrPort, h *spec.HTTPCheck) Result {
	if _, err := conn.Write(request(address, h)); err != nil {
		return failed(err, Layer7Timeout, Layer7Response)
	}
	var head http1.Head
	buffer := make([]byte, 0, 4<<10)
	for interim := 0; ; {
		head.Reset(http1.Response)
		rest, err := readHead(conn, &head, buffer)
		if err != nil {
			return failed(err, Layer7Timeout, Layer7Response)
		}
		buffer = rest
		if head.Status() >= 200 {
			break
		}
		if interim++; interim > maxInterim {
			return Result{Code: Layer7Response, Reason: "too many interim responses"}
		}
		buffer = append(make([]byte, 0, max(4<<10, len(rest))), rest...)
	}
	var body []byte
	if slices.ContainsFunc(h.Expect, func(e spec.Expect) bool { return e.Body != "" || e.Regex.Regexp != nil }) {
		var err error
		if body, err = readBody(conn, head.ResponseBody(h.Method == "HEAD"), buffer); err != nil {
			return failed(err, Layer7Timeout, Layer7Response)
		}
	}
	return judge(&head, body, h)
}

// judge says what a response means. All that is expected has to hold.
func judge(head *http1.Head, body []byte, h *spec.HTTPCheck) Result {
	r := Result{Code: Layer7OK, Status: head.Status(), Reason: fmt.Sprintf("status %d %s", head.Status(), head.Reason()[:min(len(head.Reason()), maxPhrase)])}
	if head.Status() == 404 && h.DisableOn404 {
		r.Code = Layer7Condition
		return r
	}
	if len(h.Expect) == 0 && head.Status() > 399 {
		r.Code = Layer7Status
	}
	for i := range h.Expect {
		e := &h.Expect[i]
		holds, what, code := expected(e, head, body)
		if holds == e.Not {
			not := "is not expected"
			if holds {
				not = "must not be"
			}
			r.Code, r.Reason = code, fmt.Sprintf("%s: %s %s", r.Reason, what, not)
			break
		}
	}
	return r
}

// expected reports whether a response has what an expectation names, and tells what that is and what it means if that is
// wrong.
func expected(e *spec.Expect, head *http1.Head, body []byte) (holds bool, what string, code Code) {
	switch {
	case len(e.Statuses) > 0:
		holds = slices.ContainsFunc(e.Statuses, func(r spec.StatusRange) bool { return r.From <= head.Status() && head.Status() <= r.To })
		return holds, "this status", Layer7Status
	case e.Header != "":
		for i := range head.Fields() {
			holds = holds || http1.EqualFold(head.Name(i), e.Header) && (e.HeaderValue == "" || string(head.Value(i)) == e.HeaderValue)
		}
		return holds, "field " + e.Header, Layer7Status
	case e.Regex.Regexp != nil:
		return e.Regex.Match(body), "what fits the body", Layer7Response
	}
	return bytes.Contains(body, []byte(e.Body)), "the text of the body", Layer7Response
}

// readHead reads up to the end of a head, of which the start may be in buffer. It returns what came behind the head.
func readHead(conn net.Conn, head *http1.Head, buffer []byte) (rest []byte, err error) {
	for {
		complete, err := head.Parse(buffer)
		if err != nil {
			return nil, err
		}
		if complete {
			return buffer[head.Len():], nil
		}
		if len(buffer) == cap(buffer) {
			buffer = append(make([]byte, 0, 2*cap(buffer)), buffer...)
		}
		n, err := conn.Read(buffer[len(buffer):cap(buffer)])
		if err != nil {
			return nil, err
		}
		buffer = buffer[:len(buffer)+n]
	}
}

// readBody reads a body, MaxBody bytes of it at most; begun is what has come of it.
func readBody(conn net.Conn, framing http1.Body, begun []byte) ([]byte, error) {
	from := io.MultiReader(bytes.NewReader(begun), conn)
	switch framing.Framing {
	case http1.NoBody:
		return nil, nil
	case http1.Length:
		body := make([]byte, min(framing.Length, MaxBody))
		_, err := io.ReadFull(from, body)
		return body, err
	case http1.UntilClose:
		return io.ReadAll(io.LimitReader(from, MaxBody))
	}
	var chunks http1.ChunkReader
	var body []byte
	buffer := make([]byte, 0, 4<<10)
	for !chunks.Done() && len(body) < MaxBody {
		n, data, err := chunks.Next(buffer)
		if err != nil {
			return nil, err
		}
		body = append(body, data...)
		buffer = append(buffer[:0], buffer[n:]...)
		if n > 0 {
			continue
		}
		if len(buffer) == cap(buffer) {
			return nil, http1.ErrChunk // no line is as long
		}
		n, err = from.Read(buffer[len(buffer):cap(buffer)])
		if n == 0 && err != nil {
			return nil, err
		}
		buffer = buffer[:len(buffer)+n]
	}
	return body[:min(len(body), MaxBody)], nil
}

// request makes the request of an HTTP check.
func request(address netip.AddrPort, h *spec.HTTPCheck) []byte {
	host := h.Host
	if host == "" {
		host = address.String()
	}
	out := http1.AppendRequestLine(nil, []byte(h.Method), []byte(h.Path), nil)
	if h.Old {
		out[len(out)-3] = '0' // HTTP/1.0, by which the server closes
	} else {
		out = http1.AppendField(out, "Connection", "close")
	}
	out = http1.AppendField(out, "Host", host)
	out = http1.AppendField(out, "User-Agent", "twotier-probe")
	for _, f := range h.Headers {
		out = http1.AppendField(out, f.Name, f.Value)
	}
	if h.Body != "" {
		out = http1.AppendField(out, "Content-Length", strconv.Itoa(len(h.Body)))
	}
	return append(http1.AppendEnd(out), h.Body...)
}
