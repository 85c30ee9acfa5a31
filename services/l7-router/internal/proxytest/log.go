package proxytest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// listenLog listens for syslog.
func listenLog(t *testing.T) (conn net.PacketConn, next func() string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	buffer := make([]byte, 64<<10)
	return conn, func() string {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			t.Fatalf("no line in the log: %v", err)
		}
		_, line, _ := strings.Cut(string(buffer[:n]), "]: ")
		return strings.TrimSuffix(line, "\n")
	}
}

var (
	logStart   = regexp.MustCompile(`^127\.0\.0\.1:\d+ \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d\.\d{3}\] `)
	logNumbers = regexp.MustCompile(` (-1|\d+)/(-1|\d+)/(-1|\d+)/(-1|\d+)/\+?(\d+) (-1|\d+) (\d+) `)
)

// plainLog leaves out of a line what cannot be the same: addresses, dates, times that came, and sizes.
func plainLog(t *testing.T, line string) string {
	t.Helper()
	if !logStart.MatchString(line) || !logNumbers.MatchString(line) {
		t.Errorf("this is no httplog: %s", line)
	}
	line = logStart.ReplaceAllString(line, "")
	return logNumbers.ReplaceAllStringFunc(line, func(s string) string {
		parts := logNumbers.FindStringSubmatch(s)
		for i := 1; i <= 5; i++ {
			if parts[i] != "-1" {
				parts[i] = "T"
			}
		}
		return fmt.Sprintf(" %s %s BYTES ", strings.Join(parts[1:6], "/"), parts[6])
	})
}

// testLogLikeHAProxy sends the same requests through HAProxy and compares the lines.
func testLogLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	good := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/404" {
			w.WriteHeader(404)
		}
		_, _ = io.WriteString(w, "hello")
	})
	garbage := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "SSH-2.0-nothing\r\n\r\n")
	})
	cut := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
	})
	hangup := rawOrigin(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 4096)) })
	silent := rawOrigin(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	web := backend("web", server("a", addressOf(good)))
	web.Cookie = spec.Cookie{Name: "SRV"}
	slow := backend("slow", server("s", silent))
	slow.TimeoutServer = 100 * time.Millisecond
	backends := []spec.Backend{web, backend("garbage", server("s", garbage)), backend("cut", server("s", cut)), backend("hangup", server("s", hangup)),
		slow, backend("empty")}

	theirLog, theirNext := listenLog(t)
	var config strings.Builder
	fmt.Fprintf(&config, "defaults\n mode http\n option httplog\n retries 0\n timeout client 10s\n timeout server 10s\n timeout connect 5s\n log %s local0\nfrontend main\n bind fd@3\n default_backend web\n", theirLog.LocalAddr())
	ourLog, ourNext := listenLog(t)
	w := newWorld(t, open, backends...)
	w.want.Frontends[0].AccessLog = spec.AccessLog{Kind: spec.LogUDP, Target: netip.MustParseAddrPort(ourLog.LocalAddr().String()).String(), Sample: 1, Facility: 16}
	for _, b := range backends[1:] {
		fmt.Fprintf(&config, " use_backend %s if { path_beg /%s }\n", b.Name, b.Name)
		w.want.Frontends[0].Rules = append(w.want.Frontends[0].Rules, spec.Rule{Condition: spec.Condition{PathPrefixes: []string{"/" + b.Name}}, Backend: b.Name})
	}
	w.apply()
	for _, b := range backends {
		fmt.Fprintf(&config, "backend %s\n timeout server %dms\n", b.Name, b.TimeoutServer.Milliseconds())
		if b.Cookie.Name != "" {
			fmt.Fprintf(&config, " cookie %s insert\n", b.Cookie.Name)
		}
		for _, s := range b.Servers {
			fmt.Fprintf(&config, " server %s %s", s.Name, s.Address)
			if b.Cookie.Name != "" {
				fmt.Fprintf(&config, " cookie %s", s.Cookie)
			}
			config.WriteString("\n")
		}
	}
	theirs := runHAProxy(t, config.String())

	for _, test := range []struct {
		name, request string
		// theirs is what HAProxy says and ours what we do, where they differ, and why.
		theirs, ours, why string
	}{
		{name: "good", request: "GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "404", request: "GET /404 HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "POST", request: "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"},
		{name: "cookie valid", request: "GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=a\r\n\r\n"},
		{name: "cookie unknown", request: "GET / HTTP/1.1\r\nHost: x\r\nCookie: SRV=z\r\n\r\n"},
		{name: "old client", request: "GET / HTTP/1.0\r\n\r\n"},
		{name: "no server", request: "GET /empty HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "hangs up", request: "GET /hangup HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "no HTTP", request: "GET /garbage HTTP/1.1\r\nHost: x\r\n\r\n", theirs: " PH-- ", ours: " SH-- ",
			why: "what is wrong is the server's response; one code for all that come from there"},
		{name: "cut", request: "GET /cut HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "silent", request: "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "bad request", request: "GET / HTTP/1.1\r\nbad header\r\n\r\n"},
	} {
		for _, address := range []string{theirs, w.address()} {
			c := dial(t, address)
			c.send(test.request)
			_ = c.SetReadDeadline(time.Now().Add(patience))
			r, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			_, _ = io.Copy(io.Discard, r.Body) // one is cut
			_ = c.Close()
		}
		want, got := plainLog(t, theirNext()), plainLog(t, ourNext())
		if test.theirs != "" {
			if !strings.Contains(want, test.theirs) {
				t.Errorf("%s: HAProxy does not say %q: %s", test.name, test.theirs, want)
			}
			want = strings.Replace(want, test.theirs, test.ours, 1)
		}
		if got != want {
			t.Errorf("%s:\nours    %s\nhaproxy %s", test.name, got, want)
		}
	}
}

// testLogOfTrustedHop: behind a trusted hop the client is logged, before it the sender of the connection.
func testLogOfTrustedHop(t *testing.T, open Open) {
	t.Parallel()
	log, next := listenLog(t)
	w := newWorld(t, open, backend("web", server("a", addressOf(origin(t, named("a"))))))
	w.want.Frontends[0].AccessLog = spec.AccessLog{Kind: spec.LogUDP, Target: netip.MustParseAddrPort(log.LocalAddr().String()).String(), Sample: 1, Facility: 16}
	for trusted, want := range map[string]string{"192.0.2.0/24": "127.0.0.1:", "127.0.0.0/8": "198.51.100.7:0 "} {
		w.want.Frontends[0].Forwarded = spec.Forwarded{Trusted: []netip.Prefix{netip.MustParsePrefix(trusted)}}
		w.apply()
		dial(t, w.address()).get("/", "X-Forwarded-For: 6.6.6.6, 198.51.100.7")
		if line := next(); !strings.HasPrefix(line, want) {
			t.Errorf("with %s trusted: %q, want %q", trusted, line, want)
		}
	}
}
