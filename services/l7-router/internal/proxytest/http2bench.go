package proxytest

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// caller asks for the same again and again over one connection of HTTP/2, allocating nothing itself.
type caller struct {
	*client
	ask    []byte // a HEADERS frame
	stream uint32
	buf    []byte
}

// newCaller greets the router.
func newCaller(t testing.TB, address string) *caller {
	c := &caller{client: dial(t, address), stream: 1, buf: make([]byte, 16<<10)}
	var block, frames bytes.Buffer
	e := hpack.NewEncoder(&block)
	e.SetMaxDynamicTableSize(0)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "example.org"}, {"user-agent", "bench"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to memory
	}
	framer := xhttp2.NewFramer(&frames, nil)
	_ = framer.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	c.ask = bytes.Clone(frames.Bytes())
	frames.Reset()
	_ = framer.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 30})
	_ = framer.WriteWindowUpdate(0, 1<<30)
	c.send(xhttp2.ClientPreface + frames.String())
	return c
}

// call asks once and reads up to the end of the answer.
func (c *caller) call() {
	binary.BigEndian.PutUint32(c.ask[5:], c.stream)
	c.stream += 2
	if _, err := c.TCPConn.Write(c.ask); err != nil {
		c.t.Fatal(err)
	}
	for {
		if _, err := io.ReadFull(c.in, c.buf[:9]); err != nil {
			c.t.Fatal(err)
		}
		n := int(c.buf[0])<<16 | int(c.buf[1])<<8 | int(c.buf[2])
		kind, flags := xhttp2.FrameType(c.buf[3]), c.buf[4]
		if _, err := io.ReadFull(c.in, c.buf[:n]); err != nil {
			c.t.Fatal(err)
		}
		switch {
		case kind == xhttp2.FrameGoAway || kind == xhttp2.FrameRSTStream:
			c.t.Fatalf("got %v %x", kind, c.buf[:n])
		case (kind == xhttp2.FrameData || kind == xhttp2.FrameHeaders) && flags&1 != 0:
			return
		}
	}
}

// testHTTP2AllocatesNothing is testRequestAllocatesNothing for streams.
func testHTTP2AllocatesNothing(t *testing.T, open Open) {
	w := newWorld2(t, open, backend("web", server("a", smallOrigin(t))))
	c := newCaller(t, w.address())
	allocs := testing.AllocsPerRun(2000, c.call)
	// Under the race detector sync.Pool throws things away on purpose.
	if allocs != 0 && !raceDetector {
		t.Errorf("%v allocations a request, want none", allocs)
	}
}
