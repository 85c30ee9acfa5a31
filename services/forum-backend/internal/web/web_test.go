package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/web"
)

// small is a database with one board and one thread, and nobody is logged in. What else is asked of it panics.
type small struct {
	web.Store
	web.Sessions
}

func (small) Title(context.Context) (string, bool, error) { return "Forum", true, nil }

func (small) Board(_ context.Context, id forum.ID) (forum.Board, error) {
	return forum.Board{ID: id, Name: "General", Threads: 100}, nil
}

func (small) Threads(context.Context, forum.ID, forum.Page) ([]forum.Thread, error) { return nil, nil }

func (small) Thread(_ context.Context, id forum.ID) (forum.Thread, error) {
	return forum.Thread{ID: id, Title: "t", Replies: 100}, nil
}

func (small) Posts(context.Context, forum.ID, forum.Page) ([]forum.Post, error) { return nil, nil }

func (small) Reader(*http.Request, time.Time) (forum.ID, uint32, bool) { return 0, 0, false }

// body remembers whether anybody read it.
type body struct {
	*strings.Reader
	read bool
}

func (b *body) Read(p []byte) (int, error) {
	b.read = true
	return b.Reader.Read(p)
}

// A page that is only looked at takes nothing in: net/http would put the files of a form on the disk, without a limit.
func TestBodyOfGetIsNotRead(t *testing.T) {
	t.Parallel()
	site := web.New(web.Config{Store: small{}, Sessions: small{}, Log: zaptest.NewLogger(t)})
	const form = "--x\r\nContent-Disposition: form-data; name=\"page\"\r\n\r\n1\r\n" +
		"--x\r\nContent-Disposition: form-data; name=\"next\"\r\n\r\n/\r\n--x--\r\n"
	for path, want := range map[string]string{
		"/boards/1?page=2":  "Page 2 of",
		"/threads/1?page=2": "Page 2 of",
		"/login?next=/me":   `value="/me"`,
	} {
		b := &body{Reader: strings.NewReader(form)}
		r := httptest.NewRequest(http.MethodGet, path, b)
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("GET %s: got %d without %q:\n%s", path, w.Code, want, w.Body)
		}
		if b.read {
			t.Errorf("GET %s: the body was read", path)
		}
	}
}

func TestLoginLeadsToThisSiteOnly(t *testing.T) {
	t.Parallel()
	site := web.New(web.Config{Store: small{}, Sessions: small{}, Log: zaptest.NewLogger(t)})
	for next, want := range map[string]string{
		"/threads/1?page=2":     "/threads/1?page=2",
		"":                      "/",
		"//evil.example":        "/",
		`/\evil.example`:        "/",
		"/%09/evil.example":     "/",
		"/%0d%0aSet-Cookie: x":  "/",
		"/%01":                  "/",
		"/%c2%85":               "/",
		"https://evil.example/": "/",
		"javascript:alert(1)":   "/",
	} {
		r := httptest.NewRequest(http.MethodGet, "/login", nil)
		r.URL.RawQuery = "next=" + next
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if !strings.Contains(w.Body.String(), `name="next" value="`+want+`"`) {
			t.Errorf("next %q: want %q in\n%s", next, want, w.Body)
		}
	}
}
