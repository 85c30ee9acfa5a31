package page

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// fakeServers notes what is asked of it; the server "stuck" cannot be set.
type fakeServers struct {
	mu   sync.Mutex
	done []string
}

func (f *fakeServers) SetServer(backend, server string, c pool.Change, by string) (pool.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if server == "stuck" || server == "nobody" {
		return pool.State{}, errors.New("it cannot be set")
	}
	f.done = append(f.done, fmt.Sprintf("%s/%s %v by %s", backend, server, c, by))
	return pool.State{}, nil
}

func report() stats.Report {
	values := stats.NewSet().Values()
	server := func(name, status string) stats.Server {
		return stats.Server{ID: 1, Name: name, Address: "172.16.0.88:80", Status: status, Weight: 1, WantedWeight: 1, Values: values, Cookie: name}
	}
	return stats.Report{
		Now: time.Now(), Started: time.Now().Add(-time.Hour), Node: "lb1", Version: "1.2.3", Pid: 42,
		Frontends: []stats.Frontend{{ID: 1, Name: "main", Listeners: []string{"*:80"}, MaxConn: 100, Values: values}},
		Backends: []stats.Backend{
			{ID: 2, Name: "web", Algorithm: "roundrobin", Cookie: "SRV", Values: values, Servers: []stats.Server{server("s1", "UP"), server("s2", "DOWN"), server("s3", "MAINT"), server("stuck", "UP")}},
			{ID: 3, Name: "updata", Values: values, Servers: []stats.Server{server("s2", "UP")}},
			{ID: 4, Name: `<script>alert(1)</script>`, Values: values},
		},
	}
}

type pageTest struct {
	*Page
	t       *testing.T
	servers *fakeServers
	logs    *observer.ObservedLogs
	front   spec.Frontend
}

const secret = "correct horse"

func newPageTest(t *testing.T) *pageTest {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	servers := &fakeServers{}
	p, err := Open(Config{StateDir: t.TempDir(), Servers: servers, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	p.report = report
	hash, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from the file\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	front := spec.Frontend{Name: "main", Stats: spec.StatsPage{
		URI: "/haproxy?stats", Realm: "HAProxy Statistics",
		Users: []spec.StatsUser{{Name: "boss", Bcrypt: string(hash), Admin: true}, {Name: "guest", File: file}},
	}}
	return &pageTest{Page: p, t: t, servers: servers, logs: logs, front: front}
}

// ask sends a request; user is NAME:PASSWORD.
func (p *pageTest) ask(method, target, user, body string, fields ...string) *httptest.ResponseRecorder {
	p.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RequestURI = target
	r.Host = "router.example:8080"
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if name, password, ok := strings.Cut(user, ":"); ok {
		r.SetBasicAuth(name, password)
	}
	from := "10.10.60.1"
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		if name == "From-Address" {
			from = value
			continue
		}
		r.Header.Add(name, value)
	}
	r = r.WithContext(context.WithValue(r.Context(), callerKey{}, pool.Caller{Address: from, Frontend: &p.front}))
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

const (
	boss  = "boss:" + secret
	guest = "guest:from the file"
)

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	for _, test := range []struct {
		user   string
		status int
	}{
		{"", 401}, {boss, 200}, {guest, 200}, {"boss:wrong", 401}, {"guest:" + secret, 401}, {"nobody:" + secret, 401},
		{"boss:", 401}, {":", 401}, {"admin:admin", 401}, {"boss:" + strings.Repeat("x", 100), 401}, {"guest:not this", 401},
	} {
		w := p.ask("GET", "/haproxy?stats", test.user, "", "From-Address: 10.0.0."+fmt.Sprint(len(test.user)))
		if w.Code != test.status {
			t.Errorf("%q: %d, want %d", test.user, w.Code, test.status)
		}
		if test.status == 401 && (w.Header().Get("WWW-Authenticate") != `Basic realm="HAProxy Statistics"` || w.Body.String() != unauthorized || w.Body.Len() != 112) {
			t.Errorf("%q: %v %q", test.user, w.Header(), w.Body)
		}
	}
	for _, entry := range p.logs.All() {
		if strings.Contains(fmt.Sprint(entry.ContextMap(), entry.Message), secret) {
			t.Errorf("the log has a password: %v", entry)
		}
	}
}

// TestPasswordOfItsOwn: without named users there is one, with a password made at the first start.
func TestPasswordOfItsOwn(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "state")
	core, logs := observer.New(zap.InfoLevel)
	var texts []string
	for range 2 {
		p, err := Open(Config{StateDir: folder, Log: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		text, err := password(filepath.Join(folder, PasswordFile))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
		page := &spec.StatsPage{}
		if user, err := p.door.admit(t.Context(), page, "x", "admin", string(text)); err != nil || !user.Admin {
			t.Errorf("%+v %v", user, err)
		}
		for _, guess := range []string{"", "admin", "password"} {
			if _, err := p.door.admit(t.Context(), page, "x", "admin", guess); !errors.Is(err, errPassword) {
				t.Errorf("%q: %v", guess, err)
			}
		}
	}
	info, err := os.Stat(filepath.Join(folder, PasswordFile))
	if err != nil || info.Mode().Perm() != 0o600 || len(texts[0]) < 20 || texts[0] != texts[1] {
		t.Errorf("%v %v %q", info, err, texts)
	}
	if entries := logs.FilterMessage("password of the statistics page").All(); len(entries) != 2 || entries[0].ContextMap()["path"] != filepath.Join(folder, PasswordFile) {
		t.Errorf("%v", entries)
	}
	none, err := Open(Config{Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.door.admit(t.Context(), &spec.StatsPage{}, "x", "admin", ""); !errors.Is(err, errNoDefault) {
		t.Errorf("without a state folder: %v", err)
	}
}

// TestGuessing: an address has a few guesses a minute, and who was let in before is not stopped by the guesses of others.
func TestGuessing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPageTest(t)
		if w := p.ask("GET", "/haproxy?stats", boss, ""); w.Code != 200 {
			t.Fatal(w.Code)
		}
		defer func() {
			if n := p.logs.FilterMessage("statistics page: not let in").Len(); n > allGuesses+10 {
				t.Errorf("%d lines in the log: whoever guesses fills it", n)
			}
		}()
		for i := range guesses + 5 {
			want := 401
			if i >= guesses {
				want = 429
			}
			if w := p.ask("GET", "/haproxy?stats", fmt.Sprint("boss:guess", i), ""); w.Code != want || want == 429 && w.Header().Get("Retry-After") == "" {
				t.Errorf("guess %d: %d, want %d", i, w.Code, want)
			}
		}
		if w := p.ask("GET", "/haproxy?stats", boss, ""); w.Code != 200 {
			t.Errorf("the one who was let in before: %d", w.Code)
		}
		if w := p.ask("GET", "/haproxy?stats", guest, ""); w.Code != 429 {
			t.Errorf("the right password, but too late: %d", w.Code)
		}
		if w := p.ask("GET", "/haproxy?stats", guest, "", "From-Address: 10.9.9.9"); w.Code != 200 {
			t.Errorf("from elsewhere: %d", w.Code)
		}
		stopped := 0
		for i := range 2 * allGuesses {
			if w := p.ask("GET", "/haproxy?stats", "guest:guess", "", fmt.Sprint("From-Address: 10.1.0.", i)); w.Code == 429 {
				stopped++
			}
		}
		if stopped < allGuesses {
			t.Errorf("of %d guesses from as many addresses only %d were stopped", 2*allGuesses, stopped)
		}
		time.Sleep(guessWindow) // of synctest
		if w := p.ask("GET", "/haproxy?stats", guest, ""); w.Code != 200 {
			t.Errorf("a minute later: %d", w.Code)
		}
	})
}

func TestCSV(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	w := p.ask("GET", "/haproxy?stats;csv;norefresh", guest, "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/plain" || !strings.HasPrefix(w.Body.String(), "# pxname,svname,qcur,") {
		t.Fatalf("%d %v %.60s", w.Code, w.Header(), w.Body)
	}
	rows, err := csv.NewReader(strings.NewReader(w.Body.String())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range rows[1:] {
		names = append(names, row[0]+"/"+row[1]+" "+row[17])
	}
	want := "main/FRONTEND OPEN, web/s1 UP, web/s2 DOWN, web/s3 MAINT, web/stuck UP, web/BACKEND UP, updata/s2 UP, updata/BACKEND UP, <script>alert(1)</script>/BACKEND DOWN"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	w = p.ask("GET", "/haproxy?stats;csv;scope=upd", guest, "")
	if got := strings.Count(w.Body.String(), "\n"); got != 3 {
		t.Errorf("in scope: %d lines, want 3:\n%s", got, w.Body)
	}
	p.front.Stats.Scope = []string{"web"}
	if w = p.ask("GET", "/haproxy?stats;csv", guest, ""); strings.Contains(w.Body.String(), "updata") || !strings.Contains(w.Body.String(), "web,s1,") {
		t.Errorf("scope web:\n%s", w.Body)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	w := p.ask("GET", "/haproxy?stats;json", guest, "")
	var table [][]struct {
		ObjType string
		Field   struct {
			Pos  int
			Name string
		}
		Value struct {
			Type  string
			Value any
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &table); err != nil || len(table) != 9 || table[1][1].Value.Value != "s1" || table[1][0].ObjType != "Server" {
		t.Errorf("%v\n%.300s", err, w.Body)
	}
}

// TestPage: the page shows what there is, loads nothing from elsewhere, and has actions for those who may.
func TestPage(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	p.front.Stats.Refresh = 10 * time.Second
	w := p.ask("GET", "/haproxy?stats", boss, "")
	text := w.Body.String()
	for _, want := range []string{"version 1.2.3", "on lb1", `id="web/s1"`, `class="pill maint">MAINT`, `class="pill down">DOWN`, `class="pill up">UP`,
		`http-equiv="refresh" content="10;url=/haproxy?stats"`, `&lt;script&gt;`, `name="token"`, "(1 down)", `<option value="drain">`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if found := regexp.MustCompile(`(?i)<script|https?://|@import|url\(|\son\w+=`).FindString(text); found != "" {
		t.Errorf("the page has %q", found)
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-cache", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	if text := p.ask("GET", "/haproxy?stats", guest, "").Body.String(); strings.Contains(text, "<form") || !strings.Contains(text, `id="web/s1"`) {
		t.Error("somebody who may only look gets a form, or nothing")
	}
	text = p.ask("GET", "/haproxy?stats;up;no-maint;norefresh;st=PART", boss, "").Body.String()
	if strings.Contains(text, `id="web/s2"`) || strings.Contains(text, `id="web/s3"`) || strings.Contains(text, "http-equiv") || !strings.Contains(text, "partially processed") {
		t.Error("the options have no effect")
	}
	p.front.Stats.HideVersion = true
	if text := p.ask("GET", "/haproxy?stats", boss, "").Body.String(); strings.Contains(text, "1.2.3") {
		t.Error("the version is not hidden")
	}
}

func (p *pageTest) token() string { return p.door.token("boss", time.Now()) }

// TestActions: what a form does, and how it is answered.
func TestActions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ form, outcome, done string }{
		{"s=s1&action=drain&b=web", "DONE", "web/s1 admin drain"},
		{"s=s1&s=s2&action=maint&b=web", "DONE", "web/s1 admin maint, web/s2 admin maint"},
		{"s=s1&action=ready&b=%232", "DONE", "web/s1 admin ready"},
		{"s=s1&action=disable&b=web", "DONE", "web/s1 admin maint"},
		{"s=s1&action=enable&b=web", "DONE", "web/s1 admin ready"},
		{"s=s1&action=stop&b=web", "DONE", "web/s1 admin drain"},
		{"s=s1&action=start&b=web", "DONE", "web/s1 admin ready"},
		{"s=s1&action=weight&weight=7&b=web", "DONE", "web/s1 weight 7"},
		{"s=s1&action=weight&b=web", "DONE", "web/s1 desired weight"},
		{"s=s1&action=weight&weight=257&b=web", "ERRP", ""},
		{"s=s1&action=shutdown&b=web", "DONE", "web/s1 shutdown sessions"},
		{"s=s1&action=hdown&b=web", "DONE", "web/s1 health DOWN"},
		{"s=s1&action=hrunn&b=web", "DONE", "web/s1 health UP"},
		{"s=s1&action=hnolb&b=web", "DONE", "web/s1 health NOLB"},
		{"s=s1&action=dhlth&b=web", "DONE", "web/s1 checks off"},
		{"s=s1&action=ehlth&b=web", "DONE", "web/s1 checks on"},
		{"s=s1&s=stuck&action=ready&b=web", "PART", "web/s1 admin ready"},
		{"s=nobody&action=ready&b=web", "ERRP", ""},
		{"s=s1&action=nonsense&b=web", "ERRP", ""},
		{"s=s1&action=ready&b=nowhere", "ERRP", ""},
		{"action=ready&b=web", "NONE", ""},
		{"s=s1&action=ready&b=web&x=" + strings.Repeat("y", maxForm), "EXCD", ""},
	} {
		p := newPageTest(t)
		w := p.ask("POST", "/haproxy?stats;up", boss, test.form)
		want := ""
		if test.done != "" {
			want = strings.ReplaceAll(test.done, ", ", " by boss from 10.10.60.1, ") + " by boss from 10.10.60.1"
		}
		if got := strings.Join(p.servers.done, ", "); w.Code != 303 || w.Header().Get("Location") != "/haproxy?stats;up;st="+test.outcome || got != want {
			t.Errorf("%.60s: %d %s, done %q; want %s, %q", test.form, w.Code, w.Header().Get("Location"), got, test.outcome, want)
		}
		audit := p.logs.FilterMessage("statistics page: action").All()
		if len(audit) != 1 || audit[0].ContextMap()["subject"] != "boss" || audit[0].ContextMap()["address"] != "10.10.60.1" || audit[0].ContextMap()["outcome"] != test.outcome {
			t.Errorf("%.60s: audit %v", test.form, audit)
		}
	}
}

// TestForeignForms: who may not, another site, and a form without the token of the page, do nothing.
func TestForeignForms(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	form := "s=s1&action=maint&b=web&confirm=yes"
	own := form + "&token=" + p.token()
	for _, test := range []struct {
		name, user, form string
		fields           []string
		good             bool
	}{
		{"a program", boss, form, nil, true},
		{"the page", boss, own, []string{"Origin: http://router.example:8080", "Sec-Fetch-Site: same-origin", "Referer: http://router.example:8080/haproxy?stats"}, true},
		{"no admin", guest, form, nil, false},
		{"another site", boss, own, []string{"Origin: http://evil.example"}, false},
		{"another port", boss, own, []string{"Origin: http://router.example:9090"}, false},
		{"a sandboxed frame", boss, own, []string{"Origin: null"}, false},
		{"another site's page", boss, own, []string{"Referer: http://evil.example/router.example:8080"}, false},
		{"two origins", boss, own, []string{"Origin: http://router.example:8080", "Origin: http://evil.example"}, false},
		{"cross site", boss, own, []string{"Sec-Fetch-Site: cross-site"}, false},
		{"same site, other host", boss, own, []string{"Sec-Fetch-Site: same-site"}, false},
		{"typed", boss, own, []string{"Sec-Fetch-Site: none"}, false},
		{"a browser without a token", boss, form, []string{"Origin: http://router.example:8080"}, false},
		{"a wrong token", boss, form + "&token=00", nil, false},
		{"another user's token", boss, form + "&token=" + p.door.token("guest", time.Now()), nil, false},
		{"an old token", boss, form + "&token=" + p.door.token("boss", time.Now().Add(-3*tokenHours*time.Hour)), nil, false},
	} {
		p.servers.done = nil
		w := p.ask("POST", "/haproxy?stats", test.user, test.form, test.fields...)
		outcome, done := "DENY", 0
		if test.good {
			outcome, done = "DONE", 1
		}
		if w.Code != 303 || w.Header().Get("Location") != "/haproxy?stats;st="+outcome || len(p.servers.done) != done {
			t.Errorf("%s: %d %s, done %v; want %s", test.name, w.Code, w.Header().Get("Location"), p.servers.done, outcome)
		}
	}
	p.front.Stats.Scope = []string{"updata"}
	for _, backend := range []string{"web", "nowhere"} {
		if w := p.ask("POST", "/haproxy?stats", boss, "s=s1&action=maint&b="+backend); w.Header().Get("Location") != "/haproxy?stats;st=DENY" {
			t.Errorf("out of scope, %s: %v", backend, w.Header())
		}
	}
}

// TestConfirmation: a form of the page is asked about first, and nothing is done until the answer.
func TestConfirmation(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	values := url.Values{"s": {"s1", "s2"}, "action": {"maint"}, "b": {"web"}, "token": {p.token()}}
	w := p.ask("POST", "/haproxy?stats;up", boss, values.Encode(), "Sec-Fetch-Site: same-origin")
	text := w.Body.String()
	if w.Code != http.StatusOK || len(p.servers.done) != 0 {
		t.Fatalf("%d, done %v", w.Code, p.servers.done)
	}
	for _, want := range []string{"Set state to MAINT", "<b>s1</b>, <b>s2</b>", `name="confirm" value="yes"`, `action="/haproxy?stats;up"`, p.token()} {
		if !strings.Contains(text, want) {
			t.Errorf("the question lacks %s:\n%s", want, text)
		}
	}
	values.Set("confirm", "yes")
	if w = p.ask("POST", "/haproxy?stats;up", boss, values.Encode(), "Sec-Fetch-Site: same-origin"); w.Code != 303 || len(p.servers.done) != 2 {
		t.Errorf("%d, done %v", w.Code, p.servers.done)
	}
}

func TestStranger(t *testing.T) {
	t.Parallel()
	p := newPageTest(t)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/haproxy?stats", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("without a caller: %d", w.Code)
	}
	if bcrypt.CompareHashAndPassword([]byte(nobody), nil) != bcrypt.ErrMismatchedHashAndPassword {
		t.Error("the hash of nobody is none")
	}
}

// TestInsideIsBounded: more connections than there may be are refused, and places come back.
func TestInsideIsBounded(t *testing.T) {
	t.Parallel()
	in := newInside()
	for range 3 {
		var conns []func()
		for range maxConns {
			fd, err := in.dial(pool.Caller{})
			if err != nil {
				t.Fatal(err)
			}
			c, err := in.Accept()
			if err != nil {
				t.Fatal(err)
			}
			file := os.NewFile(uintptr(fd), "")
			conns = append(conns, func() { _, _ = file.Close(), c.Close() })
		}
		if _, err := in.dial(pool.Caller{}); !errors.Is(err, errBusy) {
			t.Errorf("one too many: %v", err)
		}
		for _, end := range conns {
			end()
		}
	}
	_ = in.Close()
	if _, err := in.dial(pool.Caller{}); err == nil {
		t.Error("it connects after the end")
	}
}
