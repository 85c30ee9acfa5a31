package proxytest

import (
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	importer "github.com/twotier/twotier/services/l7-router/internal/haproxy"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// The golden differential test: the tutorial's haproxy.cfg in HAProxy, and what Import makes of it in the router; one script
// for both, and the answers have to be the same.

// overlay is what has to be changed in the tutorial's file to run it here: old text, new text, and why.
var overlay = []struct{ old, new, why string }{
	{"frontend main *:80\n", "frontend main\n    bind BIND\n", "HAProxy of today refuses an address behind the name"},
	{"172.16.0.99 cookie s1 check port 80 ", "S1 cookie s1 check CHECK ", "the servers of the test; a check every 50 ms"},
	{"172.16.0.88 cookie s2 check port 80 ", "S2 cookie s2 check CHECK ", "the same"},
	{"server b1 127.0.0.1:8080", "server b1 B1 check CHECK", "the same; and the router checks all servers of a backend or none"},
	{"server s2 172.16.0.99:80 check", "server s2 S1 check CHECK", "the same"},
}

// header goes before it: the file of the tutorial has no section defaults.
const header = `defaults
    mode http
    timeout client 10s
    timeout http-request 10s
    timeout connect 5s
    timeout server 10s
    timeout check 5s
    retries 3
    option redispatch 1
`

// differences are where the answers may differ, each with its reason. One that is not met fails the test.
type difference struct {
	name, why string
	// of is the step that it is about, a prefix of its name; field is what differs.
	of, field string
	// theirs and ours are what each begins with.
	theirs, ours string
}

var differences = []difference{
	{"the page is in the frontend", "In HAProxy the page belongs to backend webservers, so that a rule for POST sends its forms to a server. Here it comes before the rules.",
		"page: action", "answer", "200", "303"},
	{"the page is in the frontend", "And the server's answer to the form is what the client gets; updataserver has no cookie.",
		"page: action", "server", "s1", "-"},
	{"the page is in the frontend", "HAProxy's own answer to a form says no-cache too.",
		"page: action", "cache", "", "no-cache"},
	{"no fullconn", "HAProxy shows the load at which its servers' limits reach their height; limits do not change with the load here.",
		"page: CSV", "limit", "", ""},
	{"no password is taken over", "The tutorial's admin:admin is the first guess of everybody. The router makes a password of its own.",
		"page: admin:admin", "answer", "200", "401"},
}

// answer is what a client sees of one step.
type answer struct{ answer, server, cookie, cache, limit string }

func (a answer) field(name string) string {
	switch name {
	case "answer":
		return a.answer
	case "server":
		return a.server
	case "cookie":
		return a.cookie
	case "limit":
		return a.limit
	}
	return a.cache
}

// golden is one of the two, while the script runs.
type golden struct {
	t        *testing.T
	address  string
	password string
	// set changes a server: ready, drain, maint or weight N.
	set func(server, state string)
}

// ask sends one request on a connection of its own.
func (g *golden) ask(method, target, cookie, user, body string) answer {
	g.t.Helper()
	request, err := http.NewRequest(method, "http://"+g.address+target, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	request.URL.Opaque = target // with its semicolons
	if cookie != "" {
		request.Header.Set("Cookie", cookie)
	}
	if name, password, ok := strings.Cut(user, ":"); ok {
		request.SetBasicAuth(name, strings.ReplaceAll(password, "PASSWORD", g.password))
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	r, err := transport.RoundTrip(request)
	if err != nil {
		g.t.Fatalf("%s %s at %s: %v", method, target, g.address, err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	a := answer{answer: fmt.Sprint(r.StatusCode), server: "-", cookie: strings.Join(r.Header["Set-Cookie"], ", "), cache: strings.Join(r.Header["Cache-Control"], ", ")}
	if name, ok := strings.CutPrefix(string(text), "served by "); ok {
		a.server = name
	}
	if location := r.Header.Get("Location"); location != "" {
		a.answer += " " + location
	}
	if strings.Contains(target, ";csv") && r.StatusCode == 200 {
		a.server, a.limit = csvShape(g.t, text)
	}
	return a
}

// csvShape tells of a table what has to be the same: its columns up to "-", its lines, and which of their cells are empty.
// The limit of backends is told beside it.
func csvShape(t *testing.T, text []byte) (shape, limit string) {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	end := slices.Index(rows[0], "-") + 1
	shape = strings.Join(rows[0][:end], ",")
	status, weight := slices.Index(rows[0], "status"), slices.Index(rows[0], "weight")
	for _, row := range rows[1:] {
		shape += "\n" + row[0] + "/" + row[1] + " " + row[status] + " " + row[weight] + ":"
		for i, cell := range row[:end] {
			if rows[0][i] == "slim" && row[1] == "BACKEND" {
				limit = cell
			} else if cell == "" {
				shape += " " + rows[0][i]
			}
		}
	}
	return shape, limit
}

// testGolden runs the script.
func testGolden(t *testing.T, open Open) {
	t.Parallel()
	tutorial, err := os.ReadFile(filepath.Join("..", "haproxy", "testdata", "tutorial.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	servers := map[string]*switchable{}
	for _, name := range []string{"s1", "s2", "b1"} {
		servers[name] = newSwitchable(t, name)
	}
	text := header + string(tutorial)
	for _, change := range overlay {
		if strings.Count(text, change.old) != 1 {
			t.Fatalf("the overlay does not fit any more: %q", change.old)
		}
		text = strings.Replace(text, change.old, change.new, 1)
	}
	text = strings.NewReplacer("S1", servers["s1"].address, "S2", servers["s2"].address, "B1", servers["b1"].address, "CHECK", "inter 50ms").Replace(text)

	socket := filepath.Join(t.TempDir(), "s")
	theirs := &golden{t: t, password: "admin"}
	theirs.address = runHAProxy(t, "global\n    stats socket "+socket+" level admin\n"+strings.Replace(text, "BIND", "fd@3", 1))
	theirs.set = func(server, state string) {
		word := "state " + state
		if weight, ok := strings.CutPrefix(state, "weight "); ok {
			word = "weight " + weight
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = fmt.Fprintf(c, "set server webservers/%s %s\n", server, word)
		if said, err := io.ReadAll(c); err != nil || strings.TrimSpace(string(said)) != "" {
			t.Fatalf("set server %s %s: %q %v", server, word, said, err)
		}
	}

	imported, err := importer.Import([]byte(strings.Replace(text, "BIND", "127.0.0.1:1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	state, violations := spec.Parse(imported.Frontends, imported.Backends)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	w := newPagedWorld(t, open, state.Backends...)
	bind := w.want.Frontends[0].Bind
	w.want.Frontends = state.Frontends
	w.want.Frontends[0].Bind = bind
	w.apply()
	ours := &golden{t: t, address: w.address(), password: pageSecret}
	ours.set = func(server, state string) {
		var change pool.Change
		switch weight, isWeight := strings.CutPrefix(state, "weight "); {
		case isWeight:
			n := 0
			_, _ = fmt.Sscan(weight, &n)
			change.Weight = &n
		case state == "drain":
			change.Admin = new(spec.AdminDrain)
		case state == "maint":
			change.Admin = new(spec.AdminMaint)
		default:
			change.Admin = new(spec.AdminReady)
		}
		if _, err := w.pool.SetServer("webservers", server, change, "the test"); err != nil {
			t.Fatal(err)
		}
	}
	runScript(t, theirs, ours, servers)
}

// switchable is a server that can be killed and started again at its address.
type switchable struct {
	t       *testing.T
	name    string
	address string
	server  *http.Server
}

func newSwitchable(t *testing.T, name string) *switchable {
	t.Helper()
	s := &switchable{t: t, name: name, address: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *switchable) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if control := r.URL.Query().Get("control"); control != "" {
			w.Header().Set("Cache-Control", control)
		}
		if r.URL.Query().Get("etag") != "" {
			w.Header().Set("Etag", `"x"`)
		}
		if r.URL.Query().Get("set") != "" {
			w.Header().Add("Set-Cookie", "webserver=forged")
			w.Header().Add("Set-Cookie", "session=1")
		}
		if status := r.URL.Query().Get("status"); status != "" {
			code := 200
			_, _ = fmt.Sscan(status, &code)
			w.WriteHeader(code)
			if code == 204 || code == 304 {
				return
			}
		}
		_, _ = io.WriteString(w, "served by "+s.name)
	})}
	server := s.server
	go func() { _ = server.Serve(l) }() // ended by kill
}

func (s *switchable) kill() { _ = s.server.Close() }

// runScript sends the same to both, step by step.
func runScript(t *testing.T, theirs, ours *golden, servers map[string]*switchable) {
	steps := 0
	met := make([]bool, len(differences))
	step := func(name string, ask func(g *golden) answer) {
		t.Helper()
		steps++
		want, got := ask(theirs), ask(ours)
		for _, field := range []string{"answer", "server", "cookie", "cache", "limit"} {
			a, b := want.field(field), got.field(field)
			for i, d := range differences {
				if a != b && strings.HasPrefix(name, d.of) && d.field == field && strings.HasPrefix(a, d.theirs) && strings.HasPrefix(b, d.ours) {
					met[i] = true
					b = a
				}
			}
			if a != b {
				t.Errorf("step %d, %s: %s\nours    %s\nhaproxy %s", steps, name, field, b, a)
			}
		}
	}
	get := func(name, target, cookie string) {
		t.Helper()
		step(name, func(g *golden) answer { return g.ask("GET", target, cookie, "", "") })
	}
	// Both have seen what the last change has made of the servers: nobody of those who are out is chosen, and the one who is back is.
	settle := func(what, cookie, server string, tied bool) {
		t.Helper()
		for _, g := range []*golden{theirs, ours} {
			until(t, what, func() bool { return (g.ask("GET", "/settle", cookie, "", "").server == server) == tied })
		}
	}
	// From here on the turns of the two may stand at different places; a request to each server in turn by its cookie moves none.
	both := func(target string) {
		for _, cookie := range []string{"webserver=s1", "webserver=s2"} {
			get("tied: "+target, target, cookie)
		}
	}

	// 1. The order of turns, from the start.
	settle("the servers are checked", "webserver=s1", "s1", true)
	settle("the servers are checked", "webserver=s2", "s2", true)
	for range 12 {
		get("turns", "/", "")
	}
	// 2. Methods.
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "post"} {
		for _, cookie := range []string{"webserver=s1", "webserver=s2"} {
			step("method "+method, func(g *golden) answer { return g.ask(method, "/m", cookie, "", "") })
		}
	}
	for range 4 {
		step("POST without cookie", func(g *golden) answer { return g.ask("POST", "/p?x=1", "", "", "a=b") })
	}
	// 3. Cookies: valid, in company, unknown, empty, of another case.
	for _, cookie := range []string{
		"webserver=s1", "webserver=s2", "a=1; webserver=s2; b=2", "webserver=s2;webserver=s1", "webserver=nobody; webserver=s1",
	} {
		get("cookie "+cookie, "/c", cookie)
		get("cookie "+cookie, "/c?etag=1", cookie)
	}
	for _, cookie := range []string{"webserver=nobody", "webserver=", "WEBSERVER=s1", "webserver=S1", "other=s1", "webserver=s1x"} {
		for range 3 {
			get("cookie "+cookie, "/c", cookie)
		}
	}
	// 4. What nocache adds, and what a server's own cookie becomes.
	for _, query := range []string{
		"etag=1", "control=max-age=60", "control=max-age=0", "control=no-store", "control=private", "control=public", "control=public,max-age=60",
		"control=no-cache", "control=s-maxage=60", "control=s-maxage=0", "control=max-age=60,private", "set=1", "set=1&etag=1",
		"status=201&etag=1", "status=204", "status=301&etag=1", "status=304&etag=1", "status=404&etag=1", "status=500", "status=503&etag=1",
	} {
		get("nocache "+query, "/n?"+query, "")
	}
	for _, query := range []string{"etag=1", "control=max-age=60", "set=1", "status=404&etag=1"} {
		both("/n?" + query)
	}
	// 5. Weights.
	for _, g := range []*golden{theirs, ours} {
		g.set("s1", "weight 3")
	}
	shares := map[*golden]map[string]int{theirs: {}, ours: {}}
	for range 15 {
		for g, share := range shares {
			steps++
			share[g.ask("GET", "/w", "", "", "").server]++
		}
	}
	if fmt.Sprint(shares[theirs]) != fmt.Sprint(shares[ours]) {
		t.Errorf("shares of 15 with a weight of 3: ours %v, haproxy %v", shares[ours], shares[theirs])
	}
	for _, g := range []*golden{theirs, ours} {
		g.set("s1", "weight 0")
	}
	for range 6 {
		get("weight 0", "/w", "")
	}
	get("weight 0, its cookie", "/w", "webserver=s1")
	for _, g := range []*golden{theirs, ours} {
		g.set("s1", "weight 1")
	}
	// 6. Drained: nobody new, but those who are tied to it.
	for _, g := range []*golden{theirs, ours} {
		g.set("s2", "drain")
	}
	for range 6 {
		get("drained", "/d", "")
	}
	both("/d")
	get("drained, unknown cookie", "/d", "webserver=nobody")
	// 7. In maintenance: nobody at all, and those who were tied to it are tied anew.
	for _, g := range []*golden{theirs, ours} {
		g.set("s2", "maint")
	}
	for range 6 {
		get("maintenance", "/d", "")
	}
	get("maintenance, its cookie", "/d", "webserver=s2")
	get("maintenance, its cookie, cacheable", "/d?etag=1", "webserver=s2")
	for _, g := range []*golden{theirs, ours} {
		g.set("s2", "ready")
	}
	settle("s2 is back", "webserver=s2", "s2", true)
	both("/d")
	// 8. Dead, and alive again. (b1 is no backup in the tutorial's file: it has its turns like the others.)
	servers["s2"].kill()
	settle("s2 is found dead", "webserver=s2", "s2", false)
	get("dead, its cookie", "/dead", "webserver=s2")
	get("dead, its cookie, cacheable", "/dead?etag=1", "webserver=s2")
	get("dead, the other's cookie", "/dead", "webserver=s1")
	servers["s2"].start()
	settle("s2 is back", "webserver=s2", "s2", true)
	both("/alive")
	servers["s1"].kill()
	settle("s1 is found dead", "webserver=s1", "s1", false)
	until(t, "updataserver has no server", func() bool {
		return theirs.ask("POST", "/", "", "", "").answer == "503" && ours.ask("POST", "/", "", "", "").answer == "503"
	})
	for range 2 {
		step("no server for POST", func(g *golden) answer { return g.ask("POST", "/", "", "", "a=b") })
	}
	servers["s2"].kill()
	servers["b1"].kill()
	until(t, "nobody is left", func() bool {
		return theirs.ask("GET", "/", "", "", "").answer == "503" && ours.ask("GET", "/", "", "", "").answer == "503"
	})
	for _, cookie := range []string{"", "webserver=s1", "webserver=nobody"} {
		get("nobody is left", "/", cookie)
	}
	for _, s := range servers {
		s.start()
	}
	settle("s1 is back", "webserver=s1", "s1", true)
	settle("s2 is back", "webserver=s2", "s2", true)
	until(t, "updataserver has its server back", func() bool {
		return theirs.ask("POST", "/", "", "", "").answer == "200" && ours.ask("POST", "/", "", "", "").answer == "200"
	})

	// 9. The page.
	page := func(name, method, suffix, user, body string) {
		t.Helper()
		step("page: "+name, func(g *golden) answer { return g.ask(method, "/haproxy?stats"+suffix, "", user, body) })
	}
	page("no password", "GET", "", "", "")
	page("no password", "GET", ";csv", "", "")
	page("no password", "HEAD", "", "", "")
	page("wrong password", "GET", "", "admin:wrong", "")
	page("wrong user", "GET", "", "nobody:PASSWORD", "")
	page("admin:admin", "GET", "", "admin:admin", "")
	for _, suffix := range []string{"", ";up", ";norefresh", ";no-maint", ";up;norefresh", ";st=DONE", "&more", ";nonsense"} {
		page("page "+suffix, "GET", suffix, "admin:PASSWORD", "")
		page("head "+suffix, "HEAD", suffix, "admin:PASSWORD", "")
	}
	page("CSV", "GET", ";csv", "admin:PASSWORD", "")
	for _, action := range []string{"drain", "ready", "maint", "ready"} {
		form := url.Values{"s": {"s1"}, "action": {action}, "b": {"webservers"}}.Encode()
		page("action "+action, "POST", "", "admin:PASSWORD", form)
	}
	get("not the page", "/haproxy", "webserver=s1")
	get("not the page", "/haproxy/stats", "webserver=s1")
	step("not the page", func(g *golden) answer { return g.ask("PUT", "/haproxy?stats", "webserver=s1", "", "") })

	if steps < 150 {
		t.Errorf("the script has %d requests, want at least 150", steps)
	}
	t.Logf("%d requests, the same to both", steps)
	for i, d := range differences {
		if !met[i] {
			t.Errorf("the list of differences has one that is not met: %s (%s)", d.name, d.of)
		}
	}
}
