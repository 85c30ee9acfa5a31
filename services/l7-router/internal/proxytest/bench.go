package proxytest

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

var smallResponse = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + string(bytes.Repeat([]byte("x"), 100)))

var smallRequest = []byte("GET /index.html HTTP/1.1\r\nHost: example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")

// smallOrigin answers every read with the small response.
func smallOrigin(t testing.TB) string {
	return rawOrigin(t, func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(smallResponse); err != nil {
				return
			}
		}
	})
}

// testRequestAllocatesNothing counts what the whole process allocates: the client and the server here allocate nothing.
func testRequestAllocatesNothing(t *testing.T, open Open) {
	for _, b := range []spec.Balance{{}, {Algorithm: spec.LeastConn}, {Algorithm: spec.URI, Hash: spec.HashMaglev}, {Algorithm: spec.PeakEWMA}} {
		web := backend("web", server("a", smallOrigin(t)))
		web.Balance, web.Servers[0].MaxConn = b, 10
		allocatesNothing(t, newWorld(t, open, web), b)
	}
}

// testLoggedRequestAllocatesNothing is the same with an access log.
func testLoggedRequestAllocatesNothing(t *testing.T, open Open) {
	w := newWorld(t, open, backend("web", server("a", smallOrigin(t))))
	w.want.Frontends[0].AccessLog = spec.AccessLog{Kind: spec.LogFile, Target: filepath.Join(t.TempDir(), "log"), Sample: 1}
	w.apply()
	allocatesNothing(t, w, spec.Balance{})
}

func allocatesNothing(t *testing.T, w *world, b spec.Balance) {
	t.Helper()
	c := dial(t, w.address())
	buf := make([]byte, len(smallResponse))
	allocs := testing.AllocsPerRun(2000, func() {
		if _, err := c.Write(smallRequest); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c.TCPConn, buf); err != nil {
			t.Fatal(err)
		}
	})
	// Under the race detector sync.Pool throws things away on purpose.
	if allocs != 0 && !raceDetector {
		t.Errorf("balance %v: %v allocations a request, want none", b.Algorithm, allocs)
	}
}

// SmallRequests is a benchmark: it sends small GETs over connections that are kept, to a server that only answers. The figure
// holds client and server too; what counts is its change, and the allocations, of which the router's share is none.
func SmallRequests(b *testing.B, open Open) {
	w := newWorld(b, open, backend("web", server("a", smallOrigin(b))))
	front := w.address()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", front)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, len(smallResponse))
		for pb.Next() {
			if _, err := c.Write(smallRequest); err != nil {
				b.Error(err)
				return
			}
			if _, err := io.ReadFull(c, buf); err != nil || !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 ")) {
				b.Errorf("%q %v", buf, err)
				return
			}
		}
	})
}
