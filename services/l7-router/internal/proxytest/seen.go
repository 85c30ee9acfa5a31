package proxytest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// counted prints what a set has counted, without what is zero.
func counted(s *stats.Set) string {
	v := s.Values()
	var words []string
	for _, c := range []struct {
		name string
		c    stats.Counter
	}{
		{"sessions", stats.Sessions}, {"requests", stats.Requests}, {"in", stats.BytesIn}, {"out", stats.BytesOut},
		{"ereq", stats.RequestErrors}, {"econ", stats.ConnectErrors}, {"eresp", stats.ResponseErrors},
		{"redis", stats.Redispatches}, {"1xx", stats.Status1xx}, {"2xx", stats.Status2xx}, {"3xx", stats.Status3xx}, {"4xx", stats.Status4xx},
		{"5xx", stats.Status5xx}, {"other", stats.StatusOther}, {"balanced", stats.Balanced}, {"cli", stats.ClientAborts}, {"srv", stats.ServerAborts},
		{"connects", stats.Connects}, {"reuses", stats.Reuses},
	} {
		if n := v.Count(c.c); n > 0 {
			words = append(words, fmt.Sprint(c.name, " ", n))
		}
	}
	if v.Current > 0 {
		words = append(words, fmt.Sprint("now ", v.Current))
	}
	if v.Total.Count > 0 {
		words = append(words, fmt.Sprint("timed ", v.Total.Count))
	}
	return strings.Join(words, ", ")
}

// testCounters looks at what is counted of every sort of end that a request can have.
func testCounters(t *testing.T, open Open) {
	t.Parallel()
	body := strings.Repeat("x", 200<<10) // spliced
	good := origin(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/large":
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = io.WriteString(w, body)
		case "/404":
			w.WriteHeader(404)
		default:
			fmt.Fprintf(w, "%d", n)
		}
	})
	garbage := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "SSH-2.0-nothing\r\n\r\n")
	})
	cut := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
	})
	silent := rawOrigin(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	slow := backend("slow", server("s", silent))
	slow.TimeoutServer = 50 * time.Millisecond
	web := backend("web", server("dead", deadAddress(t)), server("a", addressOf(good)))
	web.Cookie = spec.Cookie{Name: "SRV"}
	w := newWorld(t, open, web, backend("garbage", server("s", garbage)), backend("cut", server("s", cut)), slow, backend("dead", server("s", deadAddress(t))))
	for _, b := range w.want.Backends[1:] {
		w.want.Frontends[0].Rules = append(w.want.Frontends[0].Rules, spec.Rule{Condition: spec.Condition{PathPrefixes: []string{"/" + b.Name}}, Backend: b.Name})
	}
	w.apply()

	c := dial(t, w.address())
	var out int64
	count := func(r *http.Response, body string) { out += int64(len(body)) }
	for range 3 {
		count(c.get("/", "Cookie: SRV=a"))
	}
	count(c.get("/large", "Cookie: SRV=a"))
	count(c.get("/404", "Cookie: SRV=dead")) // redispatched
	const upload = 300 << 10
	c.send(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: x\r\nCookie: SRV=a\r\nContent-Length: %d\r\n\r\n", upload))
	c.send(strings.Repeat("y", upload))
	count(c.response("PUT"))
	_ = c.Close()
	for _, path := range []string{"/garbage", "/slow", "/dead"} {
		c := dial(t, w.address())
		c.get(path)
		_ = c.Close()
	}
	c = dial(t, w.address())
	c.send("GET /cut HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadAll(c.in); err != nil {
		t.Error(err)
	}
	c = dial(t, w.address())
	c.send("nonsense\r\n\r\n")
	c.response("GET")
	c.expectClosed()

	front := w.pool.Frontend("main")
	until(t, "all connections have ended", func() bool { return front.Values().Current == 0 })
	seen := func(set *stats.Set) string {
		text := counted(set)
		v := set.Values()
		return strings.NewReplacer(fmt.Sprint("in ", v.Count(stats.BytesIn)), "in", fmt.Sprint("out ", v.Count(stats.BytesOut)), "out").Replace(text)
	}
	for name, want := range map[string]string{
		"web":     "sessions 6, requests 6, in, out, econ 1, redis 1, 2xx 5, 4xx 1, balanced 0, connects 2, reuses 4, timed 6",
		"garbage": "sessions 1, requests 1, in, out, eresp 1, 5xx 1, balanced 1, connects 1",
		"slow":    "sessions 1, requests 1, in, out, eresp 1, 5xx 1, balanced 1, connects 1",
		"dead":    "sessions 1, requests 1, in, out, econ 1, 5xx 1, balanced 1",
		"cut":     "sessions 1, requests 1, in, out, 2xx 1, balanced 1, srv 1, connects 1, timed 1",
	} {
		want = strings.Replace(want, ", balanced 0", "", 1)
		if got := seen(w.pool.Backend(name).Seen); got != want {
			t.Errorf("backend %s: got  %s\nwant %s", name, got, want)
		}
	}
	if got, want := seen(front), "sessions 6, requests 10, in, out, ereq 1, eresp 2, 2xx 6, 4xx 2, 5xx 3, srv 1"; got != want {
		t.Errorf("frontend: got  %s\nwant %s", got, want)
	}
	v := w.pool.Backend("web").Seen.Values()
	if n := int64(v.Count(stats.BytesOut)); n < out || n > out+2000 {
		t.Errorf("%d bytes out, want those of %d bytes of bodies and of 6 heads", n, out)
	}
	if n := v.Count(stats.BytesIn); n < upload || n > upload+1000 {
		t.Errorf("%d bytes in, want those of an upload of %d and of 6 heads", n, upload)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("waited too long: %s", what)
		}
	}
}
