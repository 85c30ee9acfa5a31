package mux

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

// patience bounds every wait of these tests; reaching it is a failure.
const patience = 20 * time.Second

// serveText serves a stream with what net/http makes of its text.
func serveText(answer func(s *Stream, r *http.Request)) func(*Stream) {
	return func(s *Stream) {
		r, err := http.ReadRequest(bufio.NewReader(s))
		if err != nil {
			_, _ = io.WriteString(s, "HTTP/1.1 400 \r\nContent-Length: 0\r\n\r\n")
			return
		}
		answer(s, r)
	}
}

func config(serve func(*Stream)) Config {
	return Config{Serve: serve, Request: patience, Idle: patience, Write: patience}
}

// listen serves HTTP/2 in cleartext. It returns the address, and a function that retires all connections.
func listen(t testing.TB, config Config) (address string, retire func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	conns := map[*Conn]bool{}
	each := func(do func(*Conn)) {
		mu.Lock()
		defer mu.Unlock()
		for c := range conns {
			do(c)
		}
	}
	t.Cleanup(func() {
		_ = l.Close()
		each((*Conn).Abort)
		group.Wait()
	})
	group.Go(func() {
		for {
			n, err := l.Accept()
			if err != nil {
				return
			}
			c := NewServer(n, config)
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			group.Go(func() { _ = c.Run(nil) })
		}
	})
	return l.Addr().String(), func() { each((*Conn).Retire) }
}

// prior is HTTP/2 in cleartext and nothing else.
func prior() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

// client is the one of net/http.
func client(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: prior()}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// noise is n bytes that repeat nowhere.
func noise(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

func sum(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d %x %v", n, h.Sum(nil)[:8], err)
}

func TestMessages(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, config(serveText(func(s *Stream, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
		case "/length":
			_, _ = io.WriteString(s, "HTTP/1.1 103 \r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n")
			_, _ = io.Copy(onlyWriter{s}, noise(1<<20))
		case "/close":
			_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\n\r\n")
			_, _ = io.Copy(onlyWriter{s}, noise(1<<20))
		case "/chunks":
			for _, c := range []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX: y\r\n\r\n") {
				_, _ = s.Write([]byte{c})
			}
		case "/cut":
			_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabc")
		case "/echo":
			got := sum(r.Body)
			text := fmt.Sprintf("%d %v %s %s", r.ContentLength, r.TransferEncoding, got, r.Trailer.Get("X"))
			_, _ = fmt.Fprintf(s, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	})))
	c := client(t)
	get := func(t *testing.T, method, path string, body io.Reader) (*http.Response, string, error) {
		r, err := http.NewRequest(method, "http://"+address+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if r.ContentLength == 0 && body != nil { // it does not know how much there is
			r.Trailer = http.Header{"X": {"y"}}
		}
		a, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		return a, string(b), err
	}
	t.Run("HEAD", func(t *testing.T) {
		if r, body, err := get(t, "HEAD", "/head", nil); r.ContentLength != 7 || body != "" || err != nil {
			t.Errorf("got %+v %q %v", r, body, err)
		}
	})
	for _, path := range []string{"/length", "/close"} {
		t.Run(path, func(t *testing.T) {
			if _, body, err := get(t, "GET", path, nil); err != nil || sum(strings.NewReader(body)) != sum(noise(1<<20)) {
				t.Errorf("got %d bytes %v", len(body), err)
			}
		})
	}
	t.Run("/chunks", func(t *testing.T) {
		if r, body, err := get(t, "GET", "/chunks", nil); body != "hello world" || err != nil || r.Trailer.Get("X") != "y" {
			t.Errorf("got %q %v %v", body, err, r.Trailer)
		}
	})
	t.Run("/cut", func(t *testing.T) {
		_, body, err := get(t, "GET", "/cut", nil)
		var reset xhttp2.StreamError
		if !errors.As(err, &reset) || reset.Code != xhttp2.ErrCodeInternal || body != "abc" {
			t.Errorf("got %q %v", body, err)
		}
	})
	t.Run("up with length", func(t *testing.T) {
		text := strings.Repeat("x", 1<<20)
		if _, body, err := get(t, "POST", "/echo", strings.NewReader(text)); body != "1048576 [] "+sum(strings.NewReader(text))+" " || err != nil {
			t.Errorf("got %q %v", body, err)
		}
	})
	t.Run("up in chunks", func(t *testing.T) {
		if _, body, err := get(t, "POST", "/echo", io.MultiReader(noise(1<<20))); body != "-1 [chunked] "+sum(noise(1<<20))+" y" || err != nil {
			t.Errorf("got %q %v", body, err)
		}
	})
	t.Run("many at a time", func(t *testing.T) {
		var group sync.WaitGroup
		for range 2 * DefaultStreams { // twice as many as may be
			group.Go(func() {
				if _, body, err := get(t, "POST", "/echo", io.MultiReader(noise(70000))); body != "-1 [chunked] "+sum(noise(70000))+" y" || err != nil {
					t.Errorf("got %q %v", body, err)
				}
			})
		}
		group.Wait()
	})
}

type onlyWriter struct{ io.Writer }

// raw is a connection that speaks frames.
type raw struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func dialRaw(t testing.TB, address string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	r := &raw{t, c, bufio.NewReader(c)}
	r.send([]byte(http2.Preface), http2.AppendSettings(nil))
	return r
}

// send fails silently: a connection that is closed meanwhile is for frame to see.
func (r *raw) send(frames ...[]byte) { _, _ = r.Write(bytes.Join(frames, nil)) }

// frame reads the next frame that is not SETTINGS, WINDOW_UPDATE or PING.
func (r *raw) frame() (http2.FrameHeader, []byte, error) {
	for {
		head := make([]byte, http2.FrameHeaderLen)
		if _, err := io.ReadFull(r.in, head); err != nil {
			return http2.FrameHeader{}, nil, err
		}
		h := http2.ParseFrameHeader(head)
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(r.in, payload); err != nil {
			return h, nil, err
		}
		switch h.Type {
		case http2.Settings, http2.WindowUpdate, http2.Ping:
		default:
			return h, payload, nil
		}
	}
}

// goAway reads up to a GOAWAY.
func (r *raw) goAway() (last uint32, code http2.Code, err error) {
	for {
		h, payload, err := r.frame()
		if err != nil {
			return 0, 0, err
		}
		if h.Type == http2.GoAway {
			return binary.BigEndian.Uint32(payload), http2.Code(binary.BigEndian.Uint32(payload[4:])), nil
		}
	}
}

func headers(stream uint32, end bool, fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return http2.AppendBlock(nil, stream, b.Bytes(), http2.MaxFrame, end)
}

func request(stream uint32, end bool) []byte {
	return headers(stream, end, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
}

func TestFloods(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, config(func(s *Stream) { _, _ = io.Copy(io.Discard, s) }))
	frame := func(h http2.FrameHeader, payload ...byte) []byte {
		h.Length = len(payload)
		return append(http2.AppendFrameHeader(nil, h), payload...)
	}
	many := func(n int, f func(i int) []byte) []byte {
		var all []byte
		for i := range n {
			all = append(all, f(i)...)
		}
		return all
	}
	flood := 20 * FrameBurst
	for name, attack := range map[string][]byte{
		"rapid reset": many(20*ResetBurst, func(i int) []byte {
			return http2.AppendReset(request(uint32(2*i+1), true), uint32(2*i+1), http2.Cancel)
		}),
		"CONTINUATION": append(frame(http2.FrameHeader{Type: http2.Headers, Stream: 1}, 0x82), many(http2.MaxContinuations+1, func(int) []byte {
			return frame(http2.FrameHeader{Type: http2.Continuation, Stream: 1})
		})...),
		"large block": append(frame(http2.FrameHeader{Type: http2.Headers, Stream: 1}, 0x82), many(5, func(int) []byte {
			return frame(http2.FrameHeader{Type: http2.Continuation, Stream: 1}, make([]byte, http2.MaxFrame)...)
		})...),
		"SETTINGS":      many(flood, func(int) []byte { return http2.AppendSettings(nil) }),
		"PING":          many(flood, func(int) []byte { return http2.AppendPing(nil, 0, make([]byte, 8)) }),
		"PRIORITY":      many(flood, func(int) []byte { return frame(http2.FrameHeader{Type: http2.Priority, Stream: 1}, 0, 0, 0, 0, 0) }),
		"unknown":       many(flood, func(int) []byte { return frame(http2.FrameHeader{Type: 0x42}) }),
		"WINDOW_UPDATE": many(flood, func(int) []byte { return http2.AppendWindowUpdate(nil, 0, 1) }),
		"empty DATA":    append(request(1, false), many(flood, func(int) []byte { return frame(http2.FrameHeader{Type: http2.Data, Stream: 1}) })...),
		"closed stream": append(http2.AppendReset(request(1, false), 1, http2.Cancel), many(flood, func(int) []byte { return frame(http2.FrameHeader{Type: http2.Data, Stream: 1}) })...),
		"many settings": frame(http2.FrameHeader{Type: http2.Settings}, make([]byte, 6*100)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := dialRaw(t, address)
			go r.send(attack) // ends with the connection
			if _, code, err := r.goAway(); code != http2.EnhanceYourCalm || err != nil {
				t.Errorf("got %v %v", code, err)
			}
		})
	}
}

// TestResetByServer has requests reset by faults instead of resetting them (CVE-2025-8671).
func TestResetByServer(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, config(func(s *Stream) { _, _ = io.Copy(io.Discard, s) }))
	r := dialRaw(t, address)
	for i := range uint32(10 * ResetBurst) {
		id := 2*i + 1
		r.send(request(id, false), http2.AppendWindowUpdate(nil, id, 0))
		h, payload, err := r.frame()
		if err != nil {
			t.Fatal(err)
		}
		if h.Type == http2.GoAway {
			if code := http2.Code(binary.BigEndian.Uint32(payload[4:])); code != http2.EnhanceYourCalm {
				t.Errorf("got %v", code)
			}
			return
		}
	}
	t.Errorf("%d requests were reset", 10*ResetBurst)
}

// TestResetCounts holds that a request counts until nobody works on it any more, whatever the client says.
func TestResetCounts(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := config(func(*Stream) { <-release })
	c.Streams = 3
	address, _ := listen(t, c)
	t.Cleanup(func() { close(release) })
	r := dialRaw(t, address)
	for i := range uint32(4) {
		r.send(request(2*i+1, true), http2.AppendReset(nil, 2*i+1, http2.Cancel))
	}
	h, payload, err := r.frame()
	if err != nil || h.Type != http2.Reset || h.Stream != 7 || http2.Code(binary.BigEndian.Uint32(payload)) != http2.RefusedStream {
		t.Errorf("got %+v %x %v", h, payload, err)
	}
}

func TestTooLargeIs431(t *testing.T) {
	t.Parallel()
	address, _ := listen(t, config(func(s *Stream) {
		b := make([]byte, 64<<10)
		n, _ := s.Read(b)
		var h http1.Head
		h.Reset(http1.Request)
		_, err := h.Parse(b[:n])
		var refused *http1.Error
		if errors.As(err, &refused) {
			_, _ = fmt.Fprintf(s, "HTTP/1.1 %d \r\nContent-Length: 0\r\n\r\n", refused.Status)
		}
	}))
	r := dialRaw(t, address)
	fields := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	for i := range 2000 {
		fields = append(fields, fmt.Sprintf("a%d", i), "b")
	}
	r.send(headers(1, true, fields...))
	h, payload, err := r.frame()
	all, decodeErr := hpack.NewDecoder(http2.MaxTable, nil).DecodeFull(payload)
	if err != nil || decodeErr != nil || h.Type != http2.Headers || !h.Has(http2.EndStream) || all[0].Value != "431" {
		t.Errorf("got %+v %v %v", h, all, err)
	}
}

func TestRetire(t *testing.T) {
	t.Parallel()
	release, begun := make(chan struct{}), make(chan struct{}, 2)
	address, retire := listen(t, config(func(s *Stream) {
		begun <- struct{}{}
		<-release
		_, _ = io.WriteString(s, "HTTP/1.1 204 \r\n\r\n")
	}))
	r := dialRaw(t, address)
	r.send(request(1, true))
	<-begun
	retire()
	if last, code, err := r.goAway(); last != http2.MaxStreamID || code != http2.NoError || err != nil {
		t.Fatalf("first: %d %v %v", last, code, err)
	}
	r.send(request(3, true)) // on its way before the first was read
	<-begun
	r.send(http2.AppendPing(nil, http2.Ack, goAwayPing[:]))
	if last, code, err := r.goAway(); last != 3 || code != http2.NoError || err != nil {
		t.Fatalf("second: %d %v %v", last, code, err)
	}
	r.send(request(5, true)) // it will be sent elsewhere
	close(release)
	seen := map[uint32]bool{}
	for {
		h, _, err := r.frame()
		if err != nil {
			break
		}
		seen[h.Stream] = true
	}
	if !seen[1] || !seen[3] || seen[5] {
		t.Errorf("answered: %v", seen)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		send []byte
		want time.Duration
	}{
		"without a request": {nil, 3 * time.Second},
		"after one":         {request(1, true), 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				c := NewServer(far, Config{
					Serve:   func(s *Stream) { _, _ = io.WriteString(s, "HTTP/1.1 204 \r\n\r\n") },
					Request: 3 * time.Second, Idle: 7 * time.Second, Write: time.Second,
				})
				begin := time.Now()
				go func() {
					_, _ = near.Write(append(http2.AppendSettings([]byte(http2.Preface)), test.send...))
				}()
				go func() { _, _ = io.Copy(io.Discard, near) }()
				if err := c.Run(nil); err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took != test.want {
					t.Errorf("after %v, want %v", took, test.want)
				}
				_ = near.Close()
			})
		})
	}
}

// TestWindowsBoundMemory sends as much as the windows allow, and beyond.
func TestWindowsBoundMemory(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	address, _ := listen(t, config(func(*Stream) { <-release }))
	t.Cleanup(func() { close(release) })
	data := func(stream uint32) []byte {
		return append(http2.AppendFrameHeader(nil, http2.FrameHeader{Type: http2.Data, Stream: stream, Length: http2.MaxFrame}), make([]byte, http2.MaxFrame)...)
	}
	t.Run("stream", func(t *testing.T) {
		r := dialRaw(t, address)
		r.send(request(1, false))
		for range StreamWindow/http2.MaxFrame + 1 {
			r.send(data(1))
		}
		if h, payload, err := r.frame(); err != nil || h.Type != http2.Reset || http2.Code(binary.BigEndian.Uint32(payload)) != http2.FlowControlError {
			t.Errorf("got %+v %x %v", h, payload, err)
		}
	})
	t.Run("connection", func(t *testing.T) {
		r := dialRaw(t, address)
		for i := range uint32(ConnWindow/StreamWindow + 1) {
			r.send(request(2*i+1, false))
			for range StreamWindow / http2.MaxFrame {
				r.send(data(2*i + 1))
			}
		}
		if _, code, err := r.goAway(); err != nil || code != http2.FlowControlError {
			t.Errorf("got %v %v", code, err)
		}
	})
}

// TestSlowReader answers a client that opens no window and one that reads nothing.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	address, _ := listen(t, config(func(s *Stream) {
		_, _ = io.WriteString(s, "HTTP/1.1 200 \r\n\r\n")
		_ = s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := io.Copy(onlyWriter{s}, noise(64<<20))
		if n > http2.InitialWindow {
			err = fmt.Errorf("%d bytes left", n)
		}
		ended <- err
	}))
	r := dialRaw(t, address)
	r.send(request(1, true))
	var timeout net.Error
	if err := <-ended; !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

// TestLateWrite lets a write go on that is late, and holds that nothing of it is sent twice or lost.
func TestLateWrite(t *testing.T) {
	t.Parallel()
	const n = 200000
	asked := make(chan int, 100)
	address, _ := listen(t, config(func(s *Stream) {
		s.OnLate(func(moved int) error {
			select {
			case asked <- moved:
			default: // the test has seen enough
			}
			return s.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		})
		_ = s.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = fmt.Fprintf(s, "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", n)
		body, _ := io.ReadAll(noise(n))
		_, _ = s.Write(append(body, "\r\n0\r\n\r\n"...))
	}))
	r := dialRaw(t, address)
	r.send(request(1, true))
	for moved := 0; moved < http2.InitialWindow; { // the first window
		moved += <-asked
	}
	r.send(http2.AppendWindowUpdate(nil, 0, n), http2.AppendWindowUpdate(nil, 1, n/4))
	for <-asked > 0 { // until nothing moves any more
	}
	r.send(http2.AppendWindowUpdate(nil, 1, n))
	var got bytes.Buffer
	for {
		h, payload, err := r.frame()
		if err != nil {
			t.Fatal(err)
		}
		if h.Type == http2.Data {
			got.Write(payload)
			if h.Has(http2.EndStream) {
				break
			}
		}
	}
	if sum(&got) != sum(noise(n)) {
		t.Error("another hash came out than went in")
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	begun, ended := make(chan struct{}), make(chan error, 2)
	address, _ := listen(t, config(func(s *Stream) {
		s.OnEnd(func() { ended <- nil })
		close(begun)
		_, err := io.Copy(io.Discard, s)
		ended <- err
	}))
	r := dialRaw(t, address)
	r.send(request(1, false))
	<-begun
	r.send(http2.AppendReset(nil, 1, http2.Cancel))
	for range 2 {
		var reset *ResetError
		if err := <-ended; err != nil && (!errors.As(err, &reset) || reset.Code != http2.Cancel) {
			t.Errorf("got %v", err)
		}
	}
}

// server is the one of net/http.
func server(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = prior()
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestToServer(t *testing.T) {
	t.Parallel()
	address := server(t, func(w http.ResponseWriter, r *http.Request) {
		got := sum(r.Body)
		w.Header().Set("Trailer", "X")
		_, _ = fmt.Fprintf(w, "%s %s %d %s %s %s", r.Method, r.Host, r.ContentLength, r.Header.Get("te"), got, r.Trailer.Get("T"))
		_, _ = io.Copy(w, noise(1<<20))
		w.Header().Set("X", "y")
	})
	var g Group
	t.Cleanup(g.Close)
	ask := func(text string, body io.Reader) (*http.Response, string, error) {
		s, _, err := g.Open(func() (net.Conn, error) { return net.Dial("tcp", address) }, config(nil))
		if err != nil {
			return nil, "", err
		}
		defer s.Close()
		if _, err := io.WriteString(s, text); err != nil {
			return nil, "", err
		}
		if body != nil {
			if _, err := io.Copy(onlyWriter{s}, body); err != nil {
				return nil, "", err
			}
		}
		r, err := http.ReadResponse(bufio.NewReader(s), nil)
		if err != nil {
			return nil, "", err
		}
		b, err := io.ReadAll(r.Body)
		return r, string(b), err
	}
	more := new(bytes.Buffer)
	_, _ = io.Copy(more, noise(1<<20))
	var group sync.WaitGroup
	for range 40 {
		group.Go(func() {
			r, body, err := ask("GET /x HTTP/1.1\r\nHost: h\r\n\r\n", nil)
			want := "GET h 0 trailers " + sum(noise(0)) + " " + more.String()
			if err != nil || body != want || r.Trailer.Get("X") != "y" {
				t.Errorf("got %.80q %v", body, err)
			}
			r, body, err = ask("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n", noise(1<<20))
			want = "POST h 1048576 trailers " + sum(noise(1<<20)) + " " + more.String()
			if err != nil || body != want || r.Trailer.Get("X") != "y" {
				t.Errorf("got %.80q %v", body, err)
			}
			_, body, err = ask("POST /x HTTP/1.1\r\nHost: h\r\nTrailer: T\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n", nil)
			want = "POST h -1 trailers " + sum(strings.NewReader("abc")) + " u" + more.String()
			if err != nil || body != want {
				t.Errorf("got %.80q %v", body, err)
			}
		})
	}
	group.Wait()
}

// TestServerGoesAway holds that a request above the last one is told as untouched, and that the connection is left.
func TestServerGoesAway(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	var g Group
	t.Cleanup(g.Close)
	go func() { _, _ = io.Copy(io.Discard, far) }() // ends with the pipe
	s, fresh, err := g.Open(func() (net.Conn, error) { return near, nil }, config(nil))
	if err != nil || !fresh {
		t.Fatal(err)
	}
	other, fresh, err := g.Open(nil, config(nil))
	if err != nil || fresh {
		t.Fatal(err)
	}
	for _, s := range []*Stream{s, other} {
		if _, err := io.WriteString(s, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = far.Write(append(http2.AppendSettings(nil), http2.AppendGoAway(nil, 1, http2.NoError, "")...))
	b := make([]byte, 100)
	if _, err := other.Read(b); err != ErrUntouched {
		t.Errorf("got %v", err)
	}
	_ = other.Close()
	if _, _, err := g.Open(func() (net.Conn, error) { return nil, io.EOF }, config(nil)); err != io.EOF {
		t.Errorf("another stream: %v", err)
	}
	_, _ = far.Write(headers(1, true, ":status", "204"))
	if n, err := s.Read(b); string(b[:n]) != "HTTP/1.1 204 \r\nConnection: close\r\n\r\n" || err != nil {
		t.Errorf("got %q %v", b[:n], err)
	}
	_ = s.Close()
}

func TestBreak(t *testing.T) {
	t.Parallel()
	asked, gone := make(chan struct{}), make(chan struct{})
	address := server(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(gone)
	})
	var g Group
	t.Cleanup(g.Close)
	s, _, err := g.Open(func() (net.Conn, error) { return net.Dial("tcp", address) }, config(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-asked
	s.Break()
	var reset *ResetError
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, &reset) {
		t.Errorf("got %v", err)
	}
	_ = s.Close()
	<-gone
}

// FuzzFrames serves any bytes. Whatever a stream has to read must be what http1 refuses or reads as one request.
func FuzzFrames(f *testing.F) {
	f.Add(request(1, true))
	f.Add(append(request(1, false), http2.AppendFrameHeader(nil, http2.FrameHeader{Type: http2.Data, Stream: 1, Flags: http2.EndStream})...))
	f.Add(append(request(1, false), headers(1, true, "a", "b")...))
	f.Add(append(http2.AppendReset(request(1, false), 1, http2.Cancel), request(3, true)...))
	f.Fuzz(func(t *testing.T, frames []byte) {
		near, far := net.Pipe()
		c := NewServer(far, Config{Request: patience, Idle: patience, Write: patience, Serve: func(s *Stream) {
			text, err := io.ReadAll(s)
			var h http1.Head
			h.Reset(http1.Request)
			complete, refused := h.Parse(text)
			if refused != nil || err != nil && !complete {
				_, _ = io.WriteString(s, "HTTP/1.1 400 \r\nContent-Length: 0\r\n\r\n")
				return
			}
			rest := text[h.Len():]
			body := h.RequestBody()
			switch {
			case !complete:
				t.Errorf("%q is no request", text)
			case err != nil:
			case body.Framing != http1.Chunked && int64(len(rest)) != body.Length:
				t.Errorf("%q: a body of %d bytes", text, len(rest))
			case body.Framing == http1.Chunked:
				var chunks http1.ChunkReader
				for {
					n, _, err := chunks.Next(rest)
					if err != nil {
						return // a trailer that is refused
					}
					if rest = rest[n:]; n == 0 {
						break
					}
				}
				if !chunks.Done() || len(rest) > 0 {
					t.Errorf("%q: %d bytes behind its end", text, len(rest))
				}
			}
			_, _ = io.WriteString(s, "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx")
		}})
		var group sync.WaitGroup
		group.Go(func() { _ = c.Run(append(http2.AppendSettings([]byte(http2.Preface)), frames...)) })
		group.Go(func() { _, _ = io.Copy(io.Discard, near) })
		// It answers this when it has taken all frames, unless it has ended.
		_ = near.SetWriteDeadline(time.Now().Add(patience))
		_, _ = near.Write(http2.AppendPing(nil, 0, make([]byte, 8)))
		_ = near.Close()
		group.Wait()
	})
}

// TestLateForGoAway sends what was on its way when the last GOAWAY came: it is passed over, and the streams before go on
// (RFC 9113 section 6.8).
func TestLateForGoAway(t *testing.T) {
	t.Parallel()
	release, begun := make(chan struct{}), make(chan struct{}, 1)
	address, retire := listen(t, config(func(s *Stream) {
		begun <- struct{}{}
		<-release
		_, _ = io.WriteString(s, "HTTP/1.1 204 \r\n\r\n")
	}))
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let)
	r := dialRaw(t, address)
	r.send(request(1, true))
	<-begun
	retire()
	for last := uint32(http2.MaxStreamID); last == http2.MaxStreamID; { // the second comes although the PING is not answered
		var err error
		if last, _, err = r.goAway(); err != nil {
			t.Fatal(err)
		}
	}
	data := append(http2.AppendFrameHeader(nil, http2.FrameHeader{Type: http2.Data, Stream: 3, Length: 3}), "abc"...)
	r.send(request(3, false), data, http2.AppendWindowUpdate(nil, 3, 1), headers(3, true, "a", "b"), http2.AppendReset(nil, 3, http2.Cancel),
		http2.AppendPing(nil, 0, make([]byte, 8)))
	for h := (http2.FrameHeader{}); h.Type != http2.Ping; { // all have been taken
		head := make([]byte, http2.FrameHeaderLen)
		if _, err := io.ReadFull(r.in, head); err != nil {
			t.Fatal(err)
		}
		h = http2.ParseFrameHeader(head)
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(r.in, payload); err != nil || h.Type == http2.GoAway {
			t.Fatalf("got %+v %q %v", h, payload, err)
		}
	}
	let()
	if h, _, err := r.frame(); err != nil || h.Type != http2.Headers || h.Stream != 1 {
		t.Errorf("got %+v %v", h, err)
	}
}
