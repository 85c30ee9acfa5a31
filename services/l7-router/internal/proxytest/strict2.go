package proxytest

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/twotier/twotier/services/l7-router/internal/stricttest"
)

// testOddRequests2 sends in HTTP/2 what must not become a request of HTTP/1.1, or another one than was meant.
func testOddRequests2(t *testing.T, open Open) {
	t.Parallel()
	s := stricttest.NewOrigin(t)
	w := newWorld2(t, open, backend("web", server("a", s.Address())))
	var forwarded strings.Builder
	for _, row := range stricttest.Requests2() {
		got, err := converse2(w.address(), row)
		served := got == "200"
		if err != nil || served != row.Served {
			t.Errorf("%s: %s %v, want served %t\n%q", row.Name, got, err, row.Served, row.Fields)
		}
		fmt.Fprintf(&forwarded, "# %s (%s): %s\n", row.Name, row.Clause, got)
		// What a server has not got whole does not count: a body begins before its end shows that it is wrong.
		var reached []string
		for _, r := range s.Take() {
			if r.Whole && !strings.Contains(r.Bytes, "mark: alone") {
				reached = append(reached, strings.ReplaceAll(r.Bytes, w.address(), "ROUTER"))
				fmt.Fprintf(&forwarded, "%q\n", reached[len(reached)-1])
			}
		}
		if row.Served && len(reached) != 1 || !row.Served && len(reached) > 0 {
			t.Errorf("%s: reached the server: %q, want served %t", row.Name, reached, row.Served)
		}
	}
	w.stop()
	for _, late := range s.Take() {
		if late.Whole && !strings.Contains(late.Bytes, "mark: alone") {
			t.Errorf("reached the server later: %.300q", late.Bytes)
		}
	}
	stricttest.Golden(t, "forwarded2.golden", forwarded.String())
}

// converse2 sends a row on a connection of its own and tells how its stream ends: with a status, reset, or with the
// connection.
func converse2(address string, row stricttest.Request2) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var sent bytes.Buffer
	sent.WriteString(xhttp2.ClientPreface)
	f := xhttp2.NewFramer(&sent, c)
	f.AllowIllegalWrites = true
	block := func(fields []string) []byte {
		var b bytes.Buffer
		e := hpack.NewEncoder(&b)
		for i := 0; i+1 < len(fields); i += 2 {
			_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true}) // into memory
		}
		return b.Bytes()
	}
	_ = f.WriteSettings()
	_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block(row.Fields), EndHeaders: true, EndStream: row.Data == nil})
	for i, data := range row.Data {
		_ = f.WriteData(1, row.Trailer == nil && i == len(row.Data)-1, []byte(data))
	}
	if row.Trailer != nil {
		_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block(row.Trailer), EndHeaders: true, EndStream: true})
	}
	if _, err := c.Write(sent.Bytes()); err != nil {
		return "", err
	}
	status := ""
	decoder := hpack.NewDecoder(4096, func(h hpack.HeaderField) {
		if h.Name == ":status" && !strings.HasPrefix(h.Value, "1") {
			status = h.Value
		}
	})
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "closed", nil
		}
		switch frame := frame.(type) {
		case *xhttp2.HeadersFrame:
			if _, err := decoder.Write(frame.HeaderBlockFragment()); err != nil {
				return "", err
			}
			if status != "" {
				return status, nil
			}
		case *xhttp2.RSTStreamFrame:
			return "reset " + frame.ErrCode.String(), nil
		case *xhttp2.GoAwayFrame:
			return "connection ended " + frame.ErrCode.String(), nil
		}
	}
}
