package proxytest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// haproxy runs the incumbent with one backend that is configured like ours, and returns its address. fromProxy: each
// connection begins with a line of the PROXY protocol.
func haproxy(t *testing.T, b spec.Backend, fromProxy ...bool) string {
	t.Helper()
	var config strings.Builder
	config.WriteString("defaults\n mode http\n timeout client 10s\n timeout server 10s\n timeout connect 5s\n timeout queue 10s\nfrontend f\n bind fd@3\n")
	if len(fromProxy) > 0 {
		config.WriteString(" tcp-request connection expect-proxy layer4\n")
	}
	config.WriteString(" default_backend b\nbackend b\n" + balanceWords(b.Balance))
	if b.AllBackups {
		config.WriteString(" option allbackups\n")
	}
	if b.Cookie.Name != "" {
		config.WriteString(cookieWords(&b.Cookie))
	}
	if b.Persist {
		config.WriteString(" option persist\n option redispatch\n retries 1\n")
	}
	for _, s := range b.Servers {
		fmt.Fprintf(&config, " server %s %s weight %d", s.Name, s.Address, s.Weight)
		if s.Cookie != "" && b.Cookie.Name != "" {
			config.WriteString(" cookie " + s.Cookie)
		}
		if s.Backup {
			config.WriteString(" backup")
		}
		if s.MaxConn > 0 {
			fmt.Fprintf(&config, " maxconn %d", s.MaxConn)
		}
		config.WriteString("\n")
	}
	return runHAProxy(t, config.String())
}

// runHAProxy runs the incumbent and returns its address. It is given the listening socket, as fd@3, so that connections wait
// in its queue until the program has started.
func runHAProxy(t *testing.T, config string) string {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		testreq.Missing(t, "haproxy (Debian package haproxy)")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, program, "-db", "-q", "-f", file)
	var words strings.Builder
	command.Stderr = &words
	command.ExtraFiles = []*os.File{socket} // descriptor 3
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = command.Wait() // it was killed
		if t.Failed() {
			t.Logf("%s\n%s", config, words.String())
		}
	})
	return listener.Addr().String()
}

// ask sends one request on a connection of its own and returns the answer and its body.
func ask(t *testing.T, address, method, path, cookie string) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	request, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cookie != "" {
		request.Header.Set("Cookie", cookie)
	}
	r, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

// testOrderLikeHAProxy compares the order of servers, request by request.
func testOrderLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	var addresses []string
	for i := range 6 {
		addresses = append(addresses, addressOf(origin(t, named(string(rune('A'+i))))))
	}
	for _, weights := range [][]int{{1, 1, 1}, {3, 2, 1}, {5, 1, 1}, {1, 3}, {1, 2, 3, 4}, {10, 7, 2}, {2, 2, 1}, {256, 1}, {1, 0, 2}, {4, 4, 3, 3, 2, 1}, {13, 17, 5}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			t.Parallel()
			b := backend("web")
			total := 0
			for i, weight := range weights {
				s := server(string(rune('a'+i)), addresses[i])
				s.Weight = weight
				b.Servers = append(b.Servers, s)
				total += weight
			}
			theirs, ours := haproxy(t, b), newWorld(t, open, b).address()
			var want, got strings.Builder
			for range min(3*total, 100) {
				_, body := ask(t, theirs, "GET", "/", "")
				want.WriteString(body)
				_, body = ask(t, ours, "GET", "/", "")
				got.WriteString(body)
			}
			if got.String() != want.String() {
				t.Errorf("weights %v\nours    %s\nhaproxy %s", weights, got.String(), want.String())
			}
		})
	}
}

// testCookiesLikeHAProxy compares the headers that persistence adds and removes, on both sides.
func testCookiesLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	handler := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			if control, ok := strings.CutPrefix(r.URL.Path, "/control:"); ok {
				h.Set("Cache-Control", control)
			}
			switch r.URL.Path {
			case "/etag":
				h.Set("Etag", `"x"`)
			case "/pragma":
				h.Set("Etag", `"x"`)
				h.Set("Pragma", "no-cache")
			case "/public-201":
				h.Set("Cache-Control", "public, max-age=60")
				w.WriteHeader(201)
			case "/modified":
				h.Set("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
			case "/expires":
				h.Set("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")
			case "/no-store":
				h.Set("Cache-Control", "no-store")
				h.Set("Etag", `"x"`)
			case "/forged":
				h.Add("Set-Cookie", "SRV=forged; path=/")
				h.Add("Set-Cookie", "other=1")
			case "/201":
				h.Set("Etag", `"x"`)
				w.WriteHeader(201)
			case "/404":
				h.Set("Etag", `"x"`)
				w.WriteHeader(404)
			}
			fmt.Fprintf(w, "%s saw %q", name, r.Header["Cookie"])
		}
	}
	servers := []spec.Server{
		server("a", addressOf(origin(t, handler("a")))),
		server("b", addressOf(origin(t, handler("b")))),
		server("plain", addressOf(origin(t, handler("plain")))),
		server("zero", addressOf(origin(t, handler("zero")))),
		server("spare", addressOf(origin(t, handler("spare")))),
	}
	servers[2].Cookie = ""
	servers[3].Weight = 0
	servers[4].Backup = true
	cookies := []string{"", "SRV=b", "SRV=a", "SRV=zero", "SRV=spare", "SRV=nobody", "SRV=", "srv=a", "x=1; SRV=b; y=2", "x=1;SRV=b", "SRV=nobody; SRV=b", "SRV=A"}
	paths := []string{
		"/", "/etag", "/modified", "/expires", "/no-store", "/pragma", "/forged", "/201", "/404", "/public-201",
		"/control:max-age=60", "/control:max-age=0", "/control:s-maxage=60", "/control:s-maxage=0", "/control:public",
		"/control:public,max-age=60", "/control:public,s-maxage=60", "/control:private,max-age=60", "/control:no-cache,max-age=60",
		"/control:no-store,max-age=60", "/control:public,no-store", "/control:max-age=60,must-revalidate",
		"/control:max-age=0,s-maxage=60", "/control:private,public", "/control:public,private",
	}
	for _, cookie := range []spec.Cookie{
		{Name: "SRV"},
		{Name: "SRV", Indirect: true},
		{Name: "SRV", NoCache: true},
		{Name: "SRV", NoCache: true, Indirect: true, HTTPOnly: true, Secure: true},
	} {
		t.Run(fmt.Sprintf("%+v", cookie), func(t *testing.T) {
			t.Parallel()
			b := backend("web", servers...)
			b.Cookie = cookie
			theirs, ours := haproxy(t, b), newWorld(t, open, b).address()
			for _, path := range paths {
				for _, method := range []string{"GET", "POST", "HEAD"} {
					sentCookies := cookies
					if path != "/" && path != "/forged" {
						sentCookies = cookies[:2] // what is compared there does not hang on how the cookie is written
					}
					for _, sent := range sentCookies {
						want, wantBody := ask(t, theirs, method, path, sent)
						got, gotBody := ask(t, ours, method, path, sent)
						for _, name := range []string{"Set-Cookie", "Cache-Control"} {
							if fmt.Sprint(got.Header[name]) != fmt.Sprint(want.Header[name]) {
								t.Errorf("%s %s with %q: %s\nours    %q\nhaproxy %q", method, path, sent, name, got.Header[name], want.Header[name])
							}
						}
						if gotBody != wantBody {
							t.Errorf("%s %s with %q:\nours    %s\nhaproxy %s", method, path, sent, gotBody, wantBody)
						}
					}
				}
			}
		})
	}
}
