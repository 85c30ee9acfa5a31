package proxytest

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/twotier/twotier/services/internal/testreq"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// newWorld2 is a world whose frontend speaks HTTP/2 in cleartext too.
func newWorld2(t testing.TB, open Open, backends ...spec.Backend) *world {
	t.Helper()
	w := newWorld(t, open, backends...)
	w.want.Frontends[0].HTTP2 = spec.HTTP2{Cleartext: true, Streams: spec.DefaultHTTP2Streams}
	w.apply()
	return w
}

// prior is HTTP/2 in cleartext and nothing else.
func prior() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

// client2 is the client of net/http, speaking HTTP/2 in cleartext.
func client2(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: prior()}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// origin2 is a server that speaks HTTP/2 in cleartext.
func origin2(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = prior()
	s.Start()
	t.Cleanup(s.Close)
	return addressOf(s)
}

// ask2 asks for a path and reads the answer.
func ask2(c *http.Client, method, url string, body io.Reader, fields ...string) (*http.Response, string, error) {
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, "", err
	}
	if body != nil && r.ContentLength == 0 { // it does not know how much there is
		r.Trailer = http.Header{"X-Up": {"u"}}
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		r.Header.Add(name, value)
	}
	a, err := c.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	return a, string(text), err
}

// reporting is what the handler of testHTTP2 answers.
func reporting(w http.ResponseWriter, r *http.Request) {
	h, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	w.Header().Set("Trailer", "X-Down")
	w.Header().Set("X-Te", r.Header.Get("Te"))
	if r.Method != "HEAD" {
		fmt.Fprintf(w, "%s %s %s %q %d %v %s", r.Method, r.RequestURI, r.Host, r.Header["Cookie"], len(h), err, r.Trailer.Get("X-Up"))
	}
	w.Header().Set("X-Down", "d")
}

func testHTTP2(t *testing.T, open Open) {
	t.Parallel()
	for name, behind := range map[string]func(testing.TB) spec.Backend{
		"before HTTP/1.1": func(t testing.TB) spec.Backend {
			return backend("web", server("a", addressOf(origin(t, reporting))), server("b", addressOf(origin(t, reporting))))
		},
		"before h2c": func(t testing.TB) spec.Backend {
			b := backend("web", server("a", origin2(t, reporting)), server("b", origin2(t, reporting)))
			b.H2C = true
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := behind(t)
			b.Cookie = spec.Cookie{Name: "SRV", Indirect: true}
			w := newWorld2(t, open, b)
			c := client2(t)
			url := "http://" + w.address()
			r, body, err := ask2(c, "GET", url+"/x?y", nil, "Cookie: a=b")
			if want := fmt.Sprintf("GET /x?y %s [\"a=b\"] 0 <nil> ", w.address()); err != nil || body != want || r.ProtoMajor != 2 || r.Trailer.Get("X-Down") != "d" {
				t.Errorf("got %q %v %+v, want %q", body, err, r, want)
			}
			if got := r.Header.Get("Set-Cookie"); got != "SRV=a; path=/" {
				t.Errorf("Set-Cookie: %q", got)
			}
			if r, _, err := ask2(c, "HEAD", url+"/", nil); err != nil || r.StatusCode != 200 {
				t.Errorf("HEAD: %v %v", r, err)
			}
			up := strings.Repeat("x", 1<<20)
			_, body, err = ask2(c, "POST", url+"/", strings.NewReader(up))
			if want := fmt.Sprintf("POST / %s [] %d <nil> ", w.address(), len(up)); err != nil || body != want {
				t.Errorf("got %q %v, want %q", body, err, want)
			}
			_, body, err = ask2(c, "POST", url+"/", onlyReader{strings.NewReader(up)}, "Cookie: SRV=b", "Cookie: c=d")
			if want := fmt.Sprintf("POST / %s [\"c=d\"] %d <nil> u", w.address(), len(up)); err != nil || body != want {
				t.Errorf("got %q %v, want %q", body, err, want)
			}
			var group sync.WaitGroup
			for range 150 {
				group.Go(func() {
					_, body, err := ask2(c, "POST", url+"/", onlyReader{strings.NewReader(up[:50000])})
					if want := fmt.Sprintf("POST / %s [] 50000 <nil> u", w.address()); err != nil || body != want {
						t.Errorf("got %q %v, want %q", body, err, want)
					}
				})
			}
			group.Wait()
		})
	}
}

// testOldClientBeforeH2C asks in HTTP/1.1 for what a server says in HTTP/2.
func testOldClientBeforeH2C(t *testing.T, open Open) {
	t.Parallel()
	b := backend("web", server("a", origin2(t, reporting)))
	b.H2C = true
	w := newWorld(t, open, b)
	c := dial(t, w.address())
	for range 2 { // the connection is kept
		r, body := c.get("/x", "TE: gzip")
		if body != `GET /x example.org [] 0 <nil> ` || r.Header.Get("X-Te") != "trailers" || r.Trailer.Get("X-Down") != "d" {
			t.Errorf("got %+v %q", r, body)
		}
	}
	c.send("POST / HTTP/1.1\r\nHost: h\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Up: u\r\n\r\n")
	if _, body := c.response("POST"); body != `POST / h [] 3 <nil> u` {
		t.Errorf("got %q", body)
	}
}

// testHTTP2Off holds that the preface is nothing special where it is not wanted.
func testHTTP2Off(t *testing.T, open Open) {
	t.Parallel()
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, named("a"))))))
	c := dial(t, w.address())
	c.send(xhttp2.ClientPreface)
	if r, _ := c.response("PRI"); r.StatusCode != 505 {
		t.Errorf("got %d", r.StatusCode)
	}
	// Where it is wanted HTTP/1.1 is served beside it, and the address changes to it without being closed.
	w.want.Frontends[0].HTTP2 = spec.HTTP2{Cleartext: true, Streams: 3}
	w.apply()
	if _, body := dial(t, w.address()).get("/"); body != "a" {
		t.Errorf("HTTP/1.1: got %q", body)
	}
	if _, body, err := ask2(client2(t), "GET", "http://"+w.address()+"/", nil); body != "a" || err != nil {
		t.Errorf("HTTP/2: got %q %v", body, err)
	}
	w.want.Frontends[0].HTTP2 = spec.HTTP2{}
	w.apply()
	c = dial(t, w.address())
	c.send("P") // begins like the preface, and is none
	c.send("OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	if _, body := c.response("POST"); body != "a" {
		t.Errorf("a slow POST: got %q", body)
	}
}

// testCancel2 holds that a stream that the client gives up is given up before the server, in either protocol.
func testCancel2(t *testing.T, open Open) {
	t.Parallel()
	for _, h2c := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2c=%v", h2c), func(t *testing.T) {
			t.Parallel()
			asked, gone := newTell(), newTell()
			wait := func(w http.ResponseWriter, r *http.Request) {
				asked.now()
				<-r.Context().Done()
				gone.now()
			}
			address := ""
			if h2c {
				address = origin2(t, wait)
			} else {
				address = addressOf(origin(t, wait))
			}
			b := backend("web", server("a", address))
			b.H2C = h2c
			w := newWorld2(t, open, b)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() {
				r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+w.address()+"/", nil)
				_, err := client2(t).Do(r)
				ended <- err
			}()
			asked.wait(t, "for the request")
			cancel()
			gone.wait(t, "for the server to see it")
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// testStop2 holds that a stopping router serves what is there, and says which requests it has not looked at.
func testStop2(t *testing.T, open Open) {
	t.Parallel()
	asked, release := newTell(), make(chan struct{})
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		asked.now()
		<-release
		_, _ = io.WriteString(w, "served")
	})
	w := newWorld2(t, open, backend("web", server("a", addressOf(s))))
	ended := make(chan string, 1)
	go func() {
		_, body, err := ask2(client2(t), "GET", "http://"+w.address()+"/", nil)
		ended <- fmt.Sprint(body, err)
	}()
	asked.wait(t, "for the request")
	stopped := make(chan struct{})
	go func() {
		w.stop()
		close(stopped)
	}()
	close(release)
	if got := <-ended; got != "served<nil>" {
		t.Errorf("got %s", got)
	}
	<-stopped
}

// testServerGoesAway holds that what a server has not looked at is sent to another, whatever its method.
func testServerGoesAway(t *testing.T, open Open) {
	t.Parallel()
	refuses := rawOrigin(t, func(c *net.TCPConn) {
		in := xhttp2.NewFramer(c, c)
		_, _ = io.CopyN(io.Discard, c, int64(len(xhttp2.ClientPreface)))
		_ = in.WriteSettings()
		for {
			f, err := in.ReadFrame()
			if err != nil {
				return
			}
			if f.Header().Type == xhttp2.FrameHeaders {
				_ = in.WriteGoAway(0, xhttp2.ErrCodeNo, nil)
			}
		}
	})
	b := backend("web", server("a", refuses), server("b", origin2(t, named("b"))))
	b.H2C = true
	w := newWorld2(t, open, b)
	for range 4 {
		if _, body, err := ask2(client2(t), "POST", "http://"+w.address()+"/", nil); body != "b" || err != nil {
			t.Errorf("got %q %v", body, err)
		}
	}
}

// testReset2 holds that a server that breaks a response off with a code breaks the client's off with the same.
func testReset2(t *testing.T, open Open) {
	t.Parallel()
	breaks := origin2(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // INTERNAL_ERROR
	})
	b := backend("web", server("a", breaks))
	b.H2C = true
	w := newWorld2(t, open, b)
	_, body, err := ask2(client2(t), "GET", "http://"+w.address()+"/", nil)
	var reset xhttp2.StreamError
	if body != "begun" || !errors.As(err, &reset) || reset.Code != xhttp2.ErrCodeInternal {
		t.Errorf("got %q %v", body, err)
	}
}

// testH2Spec runs h2spec, over TLS in package engine. One of its tests has no place where HTTP/1.1 is spoken too: what is
// not the preface of HTTP/2 is answered with the 400 of HTTP/1.1, not with GOAWAY.
func testH2Spec(t *testing.T, open Open) {
	t.Parallel()
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("x", 100))
	})
	b := backend("web", server("a", addressOf(s)))
	passed, failed := H2Spec(t, newWorld2(t, open, b).address())
	theirs, theirFailed := H2Spec(t, haproxy(t, b))
	t.Logf("h2spec: %d passed, failed %q; HAProxy: %d passed, failed %q", passed, failed, theirs, theirFailed)
	failed = slices.DeleteFunc(failed, func(name string) bool { return name == "Sends invalid connection preface" })
	if passed < 144 || len(failed) > 0 {
		t.Errorf("%d tests passed, want 144; failed: %q", passed, failed)
	}
}

// H2Spec runs the program of this name, with more flags, against an address. It returns how many of its tests have
// passed, and what those that have failed do.
func H2Spec(t testing.TB, address string, flags ...string) (passed int, failed []string) {
	t.Helper()
	program, err := filepath.Abs("../../../../dist/tools/h2spec") // from the folder of a room, in which its tests run
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		testreq.Missing(t, "dist/tools/h2spec: run scripts/tools h2spec")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	defer cancel()
	words := append([]string{"-h", host, "-p", port, "-o", "5", "-j", report}, flags...)
	text, err := exec.CommandContext(ctx, program, words...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // it fails when a test does
		t.Fatalf("h2spec: %v: %s", err, text)
	}
	out, err := os.ReadFile(report)
	var suites struct {
		Suites []struct {
			Cases []struct {
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err == nil {
		err = xml.Unmarshal(out, &suites)
	}
	if err != nil {
		t.Fatalf("h2spec: %v: %s", err, text)
	}
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, c.Name)
			} else {
				passed++
			}
		}
	}
	return passed, failed
}

// testEarlyRefusal2: a stream whose body is refused is not reset while its client may still be sending: there are clients that
// lose the answer then.
func testEarlyRefusal2(t *testing.T, open Open) {
	t.Parallel()
	address := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 512))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
		_, _ = io.Copy(io.Discard, c)
	})
	c := dial(t, newWorld2(t, open, backend("web", server("a", address))).address())
	c.send(xhttp2.ClientPreface)
	frames := xhttp2.NewFramer(c, c.in)
	var block bytes.Buffer
	fields := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}, {"content-length", "10"}} {
		_ = fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	_ = frames.WriteSettings()
	_ = frames.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = frames.WriteData(1, false, []byte("five!"))
	for pinged := false; ; {
		f, err := frames.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *xhttp2.RSTStreamFrame:
			t.Fatalf("the stream is reset: %v", f)
		case *xhttp2.DataFrame:
			if !f.StreamEnded() {
				break
			}
			_ = frames.WriteData(1, true, []byte("five!"))
			_ = frames.WritePing(false, [8]byte{1})
			pinged = true
		case *xhttp2.PingFrame:
			if pinged && f.IsAck() {
				return
			}
		}
	}
}
