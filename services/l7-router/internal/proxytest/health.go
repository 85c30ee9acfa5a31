package proxytest

import (
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// set asks something of a server of the backend web.
func (w *world) set(name string, c pool.Change) {
	w.t.Helper()
	if _, err := w.pool.SetServer("web", name, c, "test"); err != nil {
		w.t.Fatal(err)
	}
}

// testAdminStates: what is wanted of a server has effect on connections that are open already.
func testAdminStates(t *testing.T, open Open) {
	t.Parallel()
	web := backend("web", server("a", addressOf(origin(t, named("a")))), server("b", addressOf(origin(t, named("b")))))
	web.Cookie = spec.Cookie{Name: "srv"}
	w := newWorld(t, open, web)
	c := dial(t, w.address())
	expect := func(when, want string, fields ...string) {
		t.Helper()
		for range 4 {
			if r, body := c.get("/", fields...); body != want || r.StatusCode != 200 {
				t.Errorf("%s: %d %q, want %s", when, r.StatusCode, body, want)
			}
		}
	}
	w.set("a", pool.Change{Admin: new(spec.AdminDrain)})
	expect("a drains", "b")
	expect("a drains, and the cookie names it", "a", "Cookie: srv=a")
	w.set("a", pool.Change{Admin: new(spec.AdminMaint)})
	expect("a in maintenance", "b", "Cookie: srv=a")
	w.set("b", pool.Change{Health: pool.Down})
	if r, _ := c.get("/"); r.StatusCode != 503 {
		t.Errorf("nobody is left: %d, want 503", r.StatusCode)
	}
	w.set("a", pool.Change{Admin: new(spec.AdminReady)})
	expect("a is back", "a", "Cookie: srv=b")
	w.set("b", pool.Change{Health: pool.Up})
	w.set("a", pool.Change{Weight: new(0)})
	expect("a has no weight", "b")
	expect("a has no weight, and the cookie names it", "a", "Cookie: srv=a")
}

// testShutdownSessions: what is under way with one server ends, and nothing else does.
func testShutdownSessions(t *testing.T, open Open) {
	t.Parallel()
	begun, release := newTell(), newTell()
	stuck := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/half": // a body without a length, so that only its end tells that it is whole
			conn, buffer, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = buffer.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
			_ = buffer.Flush()
			<-release.c
		case "/post":
			begun.now()
			<-release.c
		}
	}
	a, b := origin(t, stuck), origin(t, stuck)
	t.Cleanup(release.now) // before the origins, which wait for it
	web := backend("web", server("a", addressOf(a)), server("b", addressOf(b)))
	web.Cookie = spec.Cookie{Name: "srv"}
	w := newWorld(t, open, web)
	ask := func(head string) *client {
		c := dial(t, w.address())
		c.send(head + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n")
		return c
	}
	half := func(name string) *client {
		c := ask("GET /half")
		c.send("Cookie: srv=" + name + "\r\n\r\n")
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := make([]byte, 4)
		if _, err := io.ReadFull(r.Body, start); err != nil || string(start) != "half" {
			t.Fatalf("%q %v", start, err)
		}
		return c
	}
	other, cut := half("b"), half("a")
	waiting := ask("POST /post")
	waiting.send("Cookie: srv=a\r\n\r\n")
	begun.wait(t, "the POST reaches its server")
	w.set("a", pool.Change{ShutdownSessions: true})
	if rest, err := io.ReadAll(cut.in); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a response without a length: %q %v, want a reset, or the part would be taken for the whole", rest, err)
	}
	if r, _ := waiting.response("POST"); r.StatusCode != 502 {
		t.Errorf("a request without a response: %d, want 502", r.StatusCode)
	}
	release.now()
	if rest, err := io.ReadAll(other.in); err != nil || len(rest) > 0 {
		t.Errorf("the other server: %q %v, want the end of the response in good order", rest, err)
	}
}
