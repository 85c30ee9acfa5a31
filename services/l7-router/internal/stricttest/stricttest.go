// Package stricttest holds what HTTP/1 says about odd messages, as tables; a server that records what reaches it; and the
// incumbents, to be asked the same. Tests ask whether the router lets anything through that two programs read differently.
package stricttest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// Patience bounds every wait; reaching it is a failure.
const Patience = 20 * time.Second

// Reached is what has reached a server as one request.
type Reached struct {
	// Bytes are those of the whole request, or as many as there were.
	Bytes string
	// Whole: it is a complete request.
	Whole bool
}

// Origin is a server that records the bytes of what reaches it and answers each request with 200.
type Origin struct {
	listener net.Listener
	group    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	reached []Reached
	conns   map[net.Conn]struct{}
}

// NewOrigin starts an Origin on loopback; it ends with the test.
func NewOrigin(t testing.TB) *Origin {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &Origin{listener: l, conns: map[net.Conn]struct{}{}}
	o.group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.conns[c] = struct{}{}
			o.mu.Unlock()
			o.group.Go(func() { o.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		o.mu.Lock()
		for c := range o.conns {
			_ = c.Close()
		}
		o.mu.Unlock()
		o.group.Wait()
	})
	return o
}

// Address is where it listens.
func (o *Origin) Address() string { return o.listener.Addr().String() }

// Take returns what has reached it since the last call.
func (o *Origin) Take() []Reached {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.reached
	o.reached = nil
	return taken
}

func (o *Origin) add(b []byte, whole bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reached = append(o.reached, Reached{string(b), whole})
}

func (o *Origin) serve(c net.Conn) {
	defer func() {
		o.mu.Lock()
		delete(o.conns, c)
		o.mu.Unlock()
		_ = c.Close()
	}()
	var held []byte
	more := func() error {
		b := make([]byte, 32<<10)
		n, err := c.Read(b)
		held = append(held, b[:n]...)
		if n > 0 {
			return nil
		}
		return err
	}
	for {
		n, toHead, err := whole(&held, more)
		if err != nil {
			if len(held) > 0 {
				o.add(held, false)
			}
			var refused *http1.Error
			if errors.As(err, &refused) {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nunreadable")
			}
			return
		}
		o.add(held[:n], true)
		held = append([]byte(nil), held[n:]...)
		answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
		if !toHead {
			answer += "ok"
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// whole reads one request and returns its length.
func whole(held *[]byte, more func() error) (n int, toHead bool, err error) {
	var h http1.Head
	h.Reset(http1.Request)
	for {
		complete, err := h.Parse(*held)
		if err != nil {
			return 0, false, err
		}
		if complete {
			break
		}
		if err := more(); err != nil {
			return 0, false, err
		}
	}
	n, toHead = h.Len(), string(h.Method()) == "HEAD"
	body := h.RequestBody()
	switch body.Framing {
	case http1.Length:
		for int64(len(*held)-n) < body.Length {
			if err := more(); err != nil {
				return 0, false, err
			}
		}
		n += int(body.Length)
	case http1.Chunked:
		for chunks := (http1.ChunkReader{}); !chunks.Done(); {
			m, _, err := chunks.Next((*held)[n:])
			if err != nil {
				return 0, false, err
			}
			n += m
			if m == 0 && !chunks.Done() {
				if err := more(); err != nil {
					return 0, false, err
				}
			}
		}
	}
	return n, toHead, nil
}

// Method is the method of the first request in a row's bytes, GET when there is none to be found.
func Method(b string) string {
	if bytes.HasPrefix([]byte(b), []byte("HEAD ")) {
		return "HEAD"
	}
	return "GET"
}
