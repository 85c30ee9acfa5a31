package mux

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

// TestSlowReadersStopNobodyElse has so many readers of one connection to a server stop that they hold all of its window.
func TestSlowReadersStopNobodyElse(t *testing.T) {
	t.Parallel()
	const body = 4 << 20
	address := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, noise(body)) })
	var g Group
	t.Cleanup(g.Close)
	open := func() *Stream {
		s, _, err := g.Open(func() (net.Conn, error) { return net.Dial("tcp", address) }, config(nil))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if _, err := io.WriteString(s, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 2 * ConnWindow / StreamWindow {
		if _, err := open().Read(make([]byte, 1)); err != nil { // it has begun, and is read no further
			t.Fatal(err)
		}
	}
	last := open()
	_ = last.SetReadDeadline(time.Now().Add(patience))
	r, err := http.ReadResponse(bufio.NewReader(last), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sum(r.Body), sum(noise(body)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := len(g.conns); n != 1 {
		t.Errorf("%d connections, want one", n)
	}
}

// TestWaitingBodiesStopNoOther has requests that nobody serves yet hold all of the window of their connection.
func TestWaitingBodiesStopNoOther(t *testing.T) {
	t.Parallel()
	const waiting = uint32(2 * ConnWindow / StreamWindow)
	release := make(chan struct{})
	address, _ := listen(t, config(func(s *Stream) {
		if s.id < 2*waiting { // they are in a queue, for instance
			<-release
			return
		}
		_, _ = io.Copy(io.Discard, s)
		_, _ = io.WriteString(s, "HTTP/1.1 204 \r\n\r\n")
	}))
	t.Cleanup(func() { close(release) })
	r := dialRaw(t, address)
	window, left := map[uint32]int{0: http2.InitialWindow}, map[uint32]int{}
	for i := range waiting + 1 {
		id := 2*i + 1
		r.send(request(id, false))
		window[id], left[id] = StreamWindow, StreamWindow
	}
	last := 2*waiting + 1
	left[last] = 4 * StreamWindow
	for {
		for i := range waiting + 1 {
			id := 2*i + 1
			for n := min(window[0], window[id], left[id], http2.MaxFrame); n > 0; n = min(window[0], window[id], left[id], http2.MaxFrame) {
				window[0] -= n
				window[id] -= n
				left[id] -= n
				h := http2.FrameHeader{Type: http2.Data, Stream: id, Length: n}
				if left[id] == 0 {
					h.Flags = http2.EndStream
				}
				r.send(append(http2.AppendFrameHeader(nil, h), make([]byte, n)...))
			}
		}
		head := make([]byte, http2.FrameHeaderLen)
		if _, err := io.ReadFull(r.in, head); err != nil {
			t.Fatalf("the last body does not go on: %v, %d bytes of it are left", err, left[last])
		}
		h := http2.ParseFrameHeader(head)
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(r.in, payload); err != nil {
			t.Fatal(err)
		}
		switch {
		case h.Type == http2.WindowUpdate:
			window[h.Stream] += int(binary.BigEndian.Uint32(payload))
		case h.Type == http2.Headers && h.Stream == last:
			return
		case h.Type == http2.GoAway || h.Type == http2.Reset:
			t.Fatalf("got %+v %q", h, payload)
		}
	}
}

// TestEndedStreamCountsNoMore begins another request as soon as the answer to the one before is there, whatever its goroutine
// still does.
func TestEndedStreamCountsNoMore(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c := config(func(s *Stream) {
		_, _ = io.WriteString(s, "HTTP/1.1 204 \r\n\r\n")
		<-release
	})
	c.Streams = 1
	address, _ := listen(t, c)
	t.Cleanup(func() { close(release) })
	r := dialRaw(t, address)
	for i := range uint32(3) {
		r.send(request(2*i+1, true))
		if h, payload, err := r.frame(); err != nil || h.Type != http2.Headers || h.Stream != 2*i+1 {
			t.Fatalf("request %d: got %+v %x %v", i, h, payload, err)
		}
	}
}
