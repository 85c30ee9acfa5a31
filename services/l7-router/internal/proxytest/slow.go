package proxytest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/testreq"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// testSlowHTTPTest: beside slowhttptest in all its modes no request of a good client fails, the router gets rid of the slow
// clients by itself, and nothing of them is left afterwards. What it costs the good ones is told by scripts/slow-router.
func testSlowHTTPTest(t *testing.T, open Open) {
	t.Parallel()
	program, err := exec.LookPath("slowhttptest")
	if err != nil {
		testreq.Missing(t, "slowhttptest (Debian package slowhttptest)")
	}
	const slow, good, large = 100, 4, 16 << 20
	for _, mode := range []struct {
		name, path string
		arguments  []string
		ended      bool // the router has to end all its connections before the time of the attack is up
	}{
		{"headers", "/", []string{"-H", "-i", "1", "-x", "10"}, true},
		{"body", "/", []string{"-B", "-i", "1", "-x", "10", "-s", "8192"}, true},
		{"range", "/", []string{"-R", "-a", "10", "-b", "3000"}, false},
		{"read", "/large", []string{"-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32"}, false}, // what it has in its buffers hides the end from it: see testSlowReader
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			s := origin(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/large" {
					w.Header().Set("Content-Length", strconv.Itoa(large))
					_, _ = io.Copy(w, noise(1, large))
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, "good")
			})
			w := newWorld(t, open, backend("web", server("a", addressOf(s))))
			w.want.Frontends[0].TimeoutRequest = time.Second
			w.want.Frontends[0].Limits = spec.Limits{BodyRate: 500, DrainRate: 500, Grace: time.Second}
			w.apply()
			address := w.address()

			var stop atomic.Bool
			var group sync.WaitGroup
			var served [good]atomic.Int64
			for i := range good {
				group.Go(func() {
					var c net.Conn
					var in *bufio.Reader
					for n := 0; !stop.Load(); n++ {
						if n%50 == 0 { // a new connection now and then
							if c != nil {
								_ = c.Close()
							}
							var err error
							if c, err = net.Dial("tcp", address); err != nil {
								t.Errorf("good client: %v", err)
								return
							}
							in = bufio.NewReader(c)
						}
						_ = c.SetDeadline(time.Now().Add(patience))
						_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
						var r *http.Response
						if err == nil {
							r, err = http.ReadResponse(in, nil)
						}
						var body []byte
						if err == nil {
							body, err = io.ReadAll(r.Body)
						}
						if err != nil || r.StatusCode != 200 || string(body) != "good" {
							t.Errorf("good client, request %d: %q %v", n, body, err)
							return
						}
						served[i].Add(1)
					}
					_ = c.Close()
				})
			}
			n, length := strconv.Itoa(slow), "5"
			if mode.ended {
				length = "20" // it ends before
			}
			attack := exec.CommandContext(t.Context(), program, append(mode.arguments, "-c", n, "-r", n, "-l", length, "-p", "20", "-u", "http://"+address+mode.path)...)
			out, err := attack.CombinedOutput()
			if err != nil {
				t.Errorf("slowhttptest: %v", err)
			}
			if got := established(t, address); got > slow+good+1 { // one more looks whether the service is available
				t.Errorf("%d connections at the end of the attack, want at most %d", got, slow+good+1)
			}
			stop.Store(true)
			group.Wait()
			total := int64(0)
			for i := range served {
				if served[i].Load() == 0 {
					t.Errorf("good client %d was not served at all", i)
				}
				total += served[i].Load()
			}
			t.Logf("%d requests of good clients", total)
			said := colours.ReplaceAllString(string(out), "")
			if mode.ended && !strings.Contains(said, "No open connections left") {
				t.Errorf("slow connections were still open at the end\n%s", said[max(0, len(said)-600):])
			}
			if strings.Contains(said, "available:   NO") {
				t.Errorf("not available in between\n%s", said)
			}
			// Nothing is left.
			look := time.NewTicker(10 * time.Millisecond)
			defer look.Stop()
			for give := time.After(patience); established(t, address) > 0; {
				select {
				case <-look.C:
				case <-give:
					t.Fatalf("%d connections are left", established(t, address))
				}
			}
		})
	}
}

// established counts the connections that a local address has as their server, those that wait to be accepted too.
func established(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // sl local remote state ...
		if len(fields) > 3 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", number)) && fields[3] == "01" {
			n++
		}
	}
	return n
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
