package proxytest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const size = 64 << 20

// noise is size bytes that repeat nowhere, the same for each seed.
func noise(seed uint64, n int64) io.Reader {
	var key [32]byte
	key[0] = byte(seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

func sum(t testing.TB, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Errorf("read: %v", err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// onlyReader hides how long a reader is, so that net/http sends chunks.
type onlyReader struct{ io.Reader }

func testStreams(t *testing.T, open Open) {
	t.Parallel()
	uploaded := make(chan string, 1)
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/down":
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.Copy(w, noise(1, size))
		case "/down-chunked":
			_, _ = io.Copy(w, noise(1, size))
		case "/up":
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			uploaded <- fmt.Sprintf("%s %d %v", hex.EncodeToString(h.Sum(nil)), n, err)
		case "/echo":
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.Copy(w, r.Body)
		}
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	do := func(t *testing.T, method, path string, body io.Reader, length int64) *http.Response {
		t.Helper()
		request, err := http.NewRequest(method, "http://"+w.address()+path, body)
		if err != nil {
			t.Fatal(err)
		}
		request.ContentLength = length
		r, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Body.Close() })
		return r
	}
	want := sum(t, noise(1, size))
	for _, path := range []string{"/down", "/down-chunked"} {
		t.Run(path, func(t *testing.T) {
			if got := sum(t, do(t, "GET", path, nil, 0).Body); got != want {
				t.Errorf("another hash came out than went in")
			}
		})
	}
	for name, length := range map[string]int64{"/up": size, "/up chunked": -1} {
		t.Run(name, func(t *testing.T) {
			do(t, "POST", "/up", onlyReader{noise(1, size)}, length)
			if got := <-uploaded; got != fmt.Sprintf("%s %d <nil>", want, size) {
				t.Errorf("the server got %s", got)
			}
		})
	}
	for name, length := range map[string]int64{"/echo": size, "/echo chunked": -1} {
		t.Run(name, func(t *testing.T) {
			// net/http reads a request's body while it writes only on demand; a raw client does both for sure.
			c := dial(t, w.address())
			framing := fmt.Sprintf("Content-Length: %d", size)
			if length < 0 {
				framing = "Transfer-Encoding: chunked"
			}
			c.send("POST /echo HTTP/1.1\r\nHost: x\r\n" + framing + "\r\n\r\n")
			var group sync.WaitGroup
			defer group.Wait()
			group.Go(func() {
				if length >= 0 {
					_, _ = io.Copy(c.TCPConn, noise(1, size))
					return
				}
				buf := make([]byte, 100000)
				for in := noise(1, size); ; {
					n, err := in.Read(buf)
					if err != nil {
						break
					}
					_, _ = fmt.Fprintf(c.TCPConn, "%x\r\n%s\r\n", n, buf[:n])
				}
				_, _ = io.WriteString(c.TCPConn, "0\r\n\r\n")
			})
			r, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := sum(t, r.Body); got != want || r.StatusCode != 200 {
				t.Errorf("%d: another hash came back than went in", r.StatusCode)
			}
		})
	}
}

// testBackPressure has a client that does not read: the server must be held up, not the router filled.
func testBackPressure(t *testing.T, open Open) {
	t.Parallel()
	const most = 96 << 20 // kernels let a receiver have 32 MiB (tcp_rmem), at two places
	written := make(chan int, 1)
	address := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
		total := 0
		block := make([]byte, 64<<10)
		for total < 3*most {
			_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := c.Write(block)
			total += n
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				total = -1
				break
			}
		}
		written <- total
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	c := dial(t, w.address())
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if total := <-written; total <= 0 || total > most {
		t.Errorf("the server could send %d bytes to a client that reads none, want some but at most %d", total, most)
	}
}

// testSlowClient sends one byte at a time and reads one byte at a time.
func testSlowClient(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, r.Header.Get("A"))
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	c := dial(t, w.address())
	_ = c.SetNoDelay(true)
	_ = c.SetReadBuffer(4096)
	for range 2 {
		for _, b := range []byte("POST / HTTP/1.1\r\nHost: x\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: 1\r\n\r\n") {
			c.send(string(b))
		}
		c.in = bufio.NewReaderSize(iotestOneByte{c.TCPConn}, 16)
		if r, body := c.response("POST"); r.StatusCode != 200 || body != "hellob" {
			t.Errorf("%d %q, want 200 hellob", r.StatusCode, body)
		}
	}
}

type iotestOneByte struct{ io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:1]) }

// testServerKilledMidBody: the client must never take a part for the whole.
func testServerKilledMidBody(t *testing.T, open Open) {
	t.Parallel()
	for name, head := range map[string]string{
		"length":       "Content-Length: 1000000",
		"short length": "Content-Length: 100",
		"chunked":      "Transfer-Encoding: chunked",
		"until close":  "Server: old",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := rawOrigin(t, func(c *net.TCPConn) {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n\r\n")
				if name == "chunked" {
					_, _ = io.WriteString(c, "ff\r\n")
				}
				_, _ = io.WriteString(c, strings.Repeat("x", 50))
				if name == "until close" {
					// The part must have gone through before the reset overtakes it.
					_, _ = c.Read(make([]byte, 1))
				}
				_ = c.SetLinger(0)
			})
			w := newWorld(t, open, backend("web", server("a", address)))
			c := dial(t, w.address())
			if name == "until close" {
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
				r, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(r.Body, make([]byte, 50)); err != nil {
					t.Fatal(err)
				}
				c.send("x")
				if n, err := r.Body.Read(make([]byte, 10)); err == nil || err == io.EOF {
					t.Errorf("%d more bytes and %v, want a reset", n, err)
				}
				return
			}
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, body, err := c.read("GET"); err == nil {
				t.Errorf("got %q as the whole", body)
			}
		})
	}
}

// testClientGone: whatever the client was doing, the server's side ends too.
func testClientGone(t *testing.T, open Open) {
	t.Parallel()
	for _, name := range []string{"waiting", "waiting for more", "waiting after a body", "downloading", "uploading", "uploading chunks"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun, ended := newTell(), newTell()
			address := rawOrigin(t, func(c *net.TCPConn) {
				defer ended.now()
				_, _ = c.Read(make([]byte, 4096))
				begun.now()
				if name == "waiting for more" {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome")
				}
				if name == "downloading" {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
					_, _ = io.Copy(c, noise(1, 1000000000))
					return
				}
				_, _ = io.Copy(io.Discard, c)
			})
			w := newWorld(t, open, backend("web", server("a", address)))
			c := dial(t, w.address())
			switch name {
			case "waiting after a body":
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
			case "uploading":
				c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
			case "uploading chunks":
				c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")
			default:
				c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			}
			begun.wait(t, "the request reaches the server")
			if name == "waiting after a body" {
				c.send("0123456789")
			}
			_ = c.Close()
			ended.wait(t, "the server's connection ends")
		})
	}
}

// testEarlyRefusal: a server that answers without reading the body and hangs up is heard.
func testEarlyRefusal(t *testing.T, open Open) {
	t.Parallel()
	address := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 512))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
		_ = c.CloseWrite()
		_, _ = io.CopyN(io.Discard, c, 200<<10)
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	c := dial(t, w.address())
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\nthe beginning")
	if r, body := c.response("POST"); r.StatusCode != 413 || body != "no!" || !r.Close {
		t.Errorf("%d %q close %t, want 413, its body and close", r.StatusCode, body, r.Close)
	}
	c.expectClosed()
}

// testEarlyRefusalFreesTheServer: who goes on sending a body that has been refused keeps nobody else from the server.
func testEarlyRefusalFreesTheServer(t *testing.T, open Open) {
	t.Parallel()
	address := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 512))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	one := server("a", address)
	one.MaxConn = 1
	b := backend("web", one)
	b.TimeoutQueue = time.Second // the refused one is listened to for two
	w := newWorld(t, open, b)
	for range 2 {
		c := dial(t, w.address())
		c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\nthe beginning")
		if r, _ := c.response("POST"); r.StatusCode != 413 {
			t.Errorf("%d, want the 413 of the server", r.StatusCode)
		}
	}
}
