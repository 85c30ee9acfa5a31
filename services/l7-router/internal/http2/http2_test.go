package http2

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// block is what golang.org/x/net makes of fields, one name and one value each.
func block(t testing.TB, fields ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// text is what becomes of a header block.
func text(part Part, b []byte, end, toHead bool) (string, http1.Body, error) {
	var d Decoder
	var h Head
	h.Begin(part, nil)
	if err := d.Decode(b, h.Field); err != nil {
		return "", http1.Body{}, err
	}
	body, err := h.End(end, toHead)
	return string(h.Text()), body, err
}

var get = []string{":method", "GET", ":scheme", "https", ":path", "/a?b", ":authority", "example.org"}

func with(fields []string, more ...string) []string {
	return append(append([]string{}, fields...), more...)
}

func TestRequestText(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		fields []string
		end    bool
		want   string
		body   http1.Body
	}{
		{"GET", get, true, "GET /a?b HTTP/1.1|Host: example.org|Connection: close||", http1.Body{}},
		{"fields", with(get, "accept", "*/*", "te", "trailers", "x", ""), true, "GET /a?b HTTP/1.1|Host: example.org|accept: */*|x: |Connection: close||", http1.Body{}},
		{"crumbs of cookies", with(get, "cookie", "a=1", "b", "c", "cookie", "d=2"), true, "GET /a?b HTTP/1.1|Host: example.org|b: c|Cookie: a=1; d=2|Connection: close||", http1.Body{}},
		{"Host beside :authority", with(get, "host", "Example.ORG"), true, "GET /a?b HTTP/1.1|Host: example.org|Connection: close||", http1.Body{}},
		{"Host alone", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "example.org"}, true, "GET / HTTP/1.1|host: example.org|Connection: close||", http1.Body{}},
		{"OPTIONS *", []string{":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a"}, true, "OPTIONS * HTTP/1.1|Host: a|Connection: close||", http1.Body{}},
		{"body without length", get, false, "GET /a?b HTTP/1.1|Host: example.org|Transfer-Encoding: chunked|Connection: close||", http1.Body{Framing: http1.Chunked}},
		{"body with length", with(get, "content-length", "5"), false, "GET /a?b HTTP/1.1|Host: example.org|Content-Length: 5|Connection: close||", http1.Body{Framing: http1.Length, Length: 5}},
		{"body with length and trailer", with(get, "content-length", "5", "trailer", "x"), false, "GET /a?b HTTP/1.1|Host: example.org|trailer: x|Transfer-Encoding: chunked|Connection: close||", http1.Body{Framing: http1.Chunked}},
		{"POST of nothing", []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"}, true, "POST / HTTP/1.1|Host: a|Content-Length: 0|Connection: close||", http1.Body{}},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a:1"}, false, "CONNECT a:1 HTTP/1.1|Host: a:1|Transfer-Encoding: chunked|Connection: close||", http1.Body{Framing: http1.Chunked}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, body, err := text(Request, block(t, test.fields...), test.end, false)
			if got = strings.ReplaceAll(got, "\r\n", "|"); err != nil || got != test.want || body != test.body {
				t.Errorf("got %q %+v %v, want %q %+v", got, body, err, test.want, test.body)
			}
		})
	}
}

func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]string{
		"no method":            {":scheme", "http", ":path", "/", ":authority", "a"},
		"no scheme":            {":method", "GET", ":path", "/", ":authority", "a"},
		"no path":              {":method", "GET", ":scheme", "http", ":authority", "a"},
		"empty path":           {":method", "GET", ":scheme", "http", ":path", "", ":authority", "a"},
		"path without slash":   {":method", "GET", ":scheme", "http", ":path", "a", ":authority", "a"},
		"space in path":        {":method", "GET", ":scheme", "http", ":path", "/ HTTP/1.1", ":authority", "a"},
		"line in path":         {":method", "GET", ":scheme", "http", ":path", "/\r\nx: y", ":authority", "a"},
		"space in method":      {":method", "GET /x", ":scheme", "http", ":path", "/", ":authority", "a"},
		"another scheme":       {":method", "GET", ":scheme", "file", ":path", "/", ":authority", "a"},
		"method twice":         with([]string{":method", "GET"}, get...),
		"status":               with(get, ":status", "200"),
		"extended CONNECT":     with(get, ":protocol", "websocket"),
		"pseudo-field behind":  with(get[:6], "a", "b", ":authority", "a"),
		"CONNECT with path":    {":method", "CONNECT", ":authority", "a:1", ":path", "/", ":scheme", "http"},
		"CONNECT to nothing":   {":method", "CONNECT"},
		"upper case":           with(get, "Accept", "x"),
		"empty name":           with(get, "", "x"),
		"colon in name":        with(get, "a:b", "x"),
		"line in value":        with(get, "a", "x\r\nb: c"),
		"NUL in value":         with(get, "a", "x\x00"),
		"space before value":   with(get, "a", " x"),
		"space behind value":   with(get, "a", "x\t"),
		"connection":           with(get, "connection", "close"),
		"keep-alive":           with(get, "keep-alive", "x"),
		"proxy-connection":     with(get, "proxy-connection", "x"),
		"transfer-encoding":    with(get, "transfer-encoding", "chunked"),
		"upgrade":              with(get, "upgrade", "websocket"),
		"te":                   with(get, "te", "gzip"),
		"host differs":         with(get, "host", "example.com"),
		"host twice":           with(get, "host", "example.org", "host", "example.org"),
		"content-length twice": with(get, "content-length", "5", "content-length", "5"),
		"content-length +5":    with(get, "content-length", "+5"),
		"content-length 5, 5":  with(get, "content-length", "5, 5"),
		"no body of 5 bytes":   with(get, "content-length", "5"),
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := text(Request, block(t, fields...), true, false)
			var malformed *StreamError
			if !errors.As(err, &malformed) || malformed.Code != ProtocolError {
				t.Errorf("got %q %v", got, err)
			}
		})
	}
}

func TestResponseText(t *testing.T) {
	t.Parallel()
	ok := []string{":status", "200"}
	for _, test := range []struct {
		name        string
		fields      []string
		end, toHead bool
		want        string
	}{
		{"nothing", ok, true, false, "HTTP/1.1 200 |Content-Length: 0|Connection: close||"},
		{"chunks", with(ok, "a", "b"), false, false, "HTTP/1.1 200 |a: b|Transfer-Encoding: chunked|Connection: close||"},
		{"length", with(ok, "content-length", "7"), false, false, "HTTP/1.1 200 |Content-Length: 7|Connection: close||"},
		{"HEAD", with(ok, "content-length", "7"), true, true, "HTTP/1.1 200 |Content-Length: 7|Connection: close||"},
		{"204", []string{":status", "204"}, true, false, "HTTP/1.1 204 |Connection: close||"},
		{"interim", []string{":status", "103", "link", "x"}, false, false, "HTTP/1.1 103 |link: x||"},
		{"interim at the end", []string{":status", "103"}, true, false, ""},
		{"101", []string{":status", "101"}, false, false, ""},
		{"no status", []string{"a", "b"}, true, false, ""},
		{"long status", []string{":status", "0200"}, true, false, ""},
		{"too short", with(ok, "content-length", "7"), true, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := text(Response, block(t, test.fields...), test.end, test.toHead)
			if got = strings.ReplaceAll(got, "\r\n", "|"); (err == nil) != (test.want != "") || err == nil && got != test.want {
				t.Errorf("got %q %v, want %q", got, err, test.want)
			}
		})
	}
}

// TestTextIsReadAlike parses the text of requests with http1, and writes it as a header block again.
func TestTextIsReadAlike(t *testing.T) {
	t.Parallel()
	head := func(kind http1.Kind, s string) *http1.Head {
		var h http1.Head
		h.Reset(kind)
		if complete, err := h.Parse([]byte(s)); !complete || err != nil {
			t.Fatalf("%q: %v %v", s, complete, err)
		}
		return &h
	}
	fields := func(b []byte) string {
		all, err := hpack.NewDecoder(MaxTable, nil).DecodeFull(b)
		return fmt.Sprintf("%v %v", all, err)
	}
	s, _, err := text(Request, block(t, with(get, "x-y", "z", "cookie", "a=b")...), false, false)
	if err != nil {
		t.Fatal(err)
	}
	got := fields(AppendRequest(nil, head(http1.Request, s)))
	want := fields(block(t, ":method", "GET", ":scheme", "http", ":path", "/a?b", ":authority", "example.org", "x-y", "z", "cookie", "a=b", "te", "trailers"))
	if strings.ReplaceAll(got, " (sensitive)", "") != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got = fields(AppendResponse(nil, head(http1.Response, "HTTP/1.1 418 Teapot\r\nA: B\r\nConnection: x, close\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n")))
	if want := fields(block(t, ":status", "418", "a", "B")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got = fields(AppendTrailer(nil, []byte("Grpc-Status: 0\r\nx:  y \r\n\r\n")))
	if want := fields(block(t, "grpc-status", "0", "x", "y")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestHeaderListIsBounded(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(get); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: get[i], Value: get[i+1]})
	}
	for range 100 { // 3 KB in the table, 300 KB of fields in 100 bytes
		_ = e.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 3000)})
	}
	if _, _, err := text(Request, b.Bytes(), true, false); err != ErrTooLarge {
		t.Errorf("got %v", err)
	}
}

// TestDecoderLikeOther reads what golang.org/x/net writes, over a table that changes.
func TestDecoderLikeOther(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	var d Decoder
	for range 2000 {
		b.Reset()
		if random.IntN(20) == 0 {
			e.SetMaxDynamicTableSize(uint32(random.IntN(MaxTable + 1)))
		}
		var want, got []string
		for range random.IntN(8) {
			f := hpack.HeaderField{
				Name:      []string{"a", "cookie", ":path", "x-" + strings.Repeat("n", random.IntN(50))}[random.IntN(4)],
				Value:     strings.Repeat(string(rune('a'+random.IntN(26))), random.IntN(300)),
				Sensitive: random.IntN(5) == 0,
			}
			_ = e.WriteField(f)
			want = append(want, f.Name, f.Value)
		}
		if err := d.Decode(b.Bytes(), func(name, value []byte) error {
			got = append(got, string(name), string(value))
			return nil
		}); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %q %v, want %q", got, err, want)
		}
	}
}

func TestDecoderAllocatesNothing(t *testing.T) {
	var d Decoder
	var h Head
	b := block(t, with(get, "user-agent", "some browser or other", "cookie", "a=b")...)
	var dst []byte
	run := func() {
		h.Begin(Request, dst[:0])
		if err := d.Decode(b, h.Field); err != nil {
			t.Fatal(err)
		}
		if _, err := h.End(true, false); err != nil {
			t.Fatal(err)
		}
		dst = h.Text()
	}
	run()
	// The race detector empties the pool of buffers of the Huffman decoder.
	if n := testing.AllocsPerRun(100, run); n > 0 && !race {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecode holds that what is taken is read as golang.org/x/net reads it, over two blocks that share a table.
func FuzzDecode(f *testing.F) {
	f.Add(block(f, get...), block(f, with(get, "a", "b")...))
	f.Add([]byte{0x3f, 0xe1, 0x1f}, []byte{0x82})
	f.Add([]byte{0x20, 0x40, 1, 'a', 1, 'b'}, []byte{0xbe})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if len(first)+len(second) > MaxBlock {
			return
		}
		var d Decoder
		other := hpack.NewDecoder(MaxTable, nil)
		for _, b := range [][]byte{first, second} {
			var got, want []string
			err := d.Decode(b, func(name, value []byte) error {
				got = append(got, string(name), string(value))
				return nil
			})
			all, otherErr := other.DecodeFull(b)
			for _, field := range all {
				want = append(want, field.Name, field.Value)
			}
			if err != nil {
				return // it is laxer about long integers and late changes of the table's size
			}
			if otherErr != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%x: got %q, want %q %v", b, got, want, otherErr)
			}
		}
	})
}

// FuzzRequest holds that whatever header block becomes text is one request, which http1 either refuses or reads to its
// end.
func FuzzRequest(f *testing.F) {
	f.Add(block(f, get...), true)
	f.Add(block(f, with(get, "content-length", "5", "cookie", "a", "cookie", "b")...), false)
	f.Fuzz(func(t *testing.T, b []byte, end bool) {
		s, body, err := text(Request, b, end, false)
		if err != nil {
			return
		}
		var h http1.Head
		h.Reset(http1.Request)
		complete, err := h.Parse([]byte(s))
		if err != nil {
			return // answered with its status
		}
		if !complete || h.Len() != len(s) || h.RequestBody() != body || h.KeepAlive() || h.Upgrade() != nil {
			t.Fatalf("%q: complete %v, %d of %d bytes, %+v", s, complete, h.Len(), len(s), h.RequestBody())
		}
	})
}
