package site_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/mariadbtest"
	"github.com/twotier/twotier/services/forum-backend/internal/plan"
	"github.com/twotier/twotier/services/forum-backend/internal/site"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
)

func TestMain(m *testing.M) { mariadbtest.Main(m) }

// The tests here are not parallel: they share a database server, which one of them stops.

// cluster is a site with two servers, as in the tutorial: server2 takes the uploads.
type cluster struct {
	message *forumv1.Site
	servers map[string]*server
	log     *observer.ObservedLogs
}

type server struct {
	*site.Site
	node, url, files string
	serving          bool
}

const adminPassword = "administrator's secret"

// newCluster makes a site on an empty database; nothing runs yet.
func newCluster(t *testing.T, unattended bool) *cluster {
	t.Helper()
	db := mariadbtest.Start(t)
	folder := t.TempDir()
	write := func(name, content string) string {
		p := filepath.Join(folder, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	core, logs := observer.New(zapcore.InfoLevel)
	c := &cluster{servers: map[string]*server{}, log: logs, message: &forumv1.Site{
		Name:           "forum",
		Database:       &forumv1.Database{Address: "unix:" + db.Socket(), Name: db.Database(t), User: db.User()},
		Session:        &forumv1.Session{KeyFile: write("session.key", strings.Repeat("k", 32)+"\n")},
		MaxUploadBytes: 1 << 20,
	}}
	if unattended {
		c.message.UnattendedInstall = &forumv1.UnattendedInstall{
			AdminName: "admin", AdminEmail: "admin@example.com", AdminPasswordFile: write("admin.password", adminPassword+"\n"),
		}
	}
	log := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel), zaptest.WrapOptions(zap.WrapCore(func(to zapcore.Core) zapcore.Core { return zapcore.NewTee(to, core) })))
	for _, node := range []string{"server1", "server2"} {
		s := &server{node: node, files: filepath.Join(folder, node)}
		if err := os.Mkdir(s.files, 0o755); err != nil {
			t.Fatal(err)
		}
		address := freeAddress(t)
		s.url = "http://" + address
		s.Site = site.New(site.Config{Node: node, Log: log, Listening: func(ok bool) { s.serving = ok }})
		t.Cleanup(s.Close)
		c.servers[node] = s
		c.message.Servers = append(c.message.Servers, &forumv1.Server{Node: node, Address: address, FilesPath: s.files, UploadOrigin: node == "server2"})
	}
	return c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs both servers.
func start(t *testing.T, unattended bool) *cluster {
	t.Helper()
	c := newCluster(t, unattended)
	for _, s := range c.servers {
		c.must(t, s)
	}
	return c
}

// reconcile makes one pass for a server.
func (c *cluster) reconcile(ctx context.Context, s *server) error {
	want, violations := spec.Parse(s.node, []*forumv1.Site{c.message})
	if len(violations) > 0 {
		return fmt.Errorf("%v", violations)
	}
	have, err := s.Observe(ctx, want)
	if err != nil {
		return err
	}
	for _, change := range plan.Diff(want, have) {
		if err := s.Apply(ctx, change); err != nil {
			return fmt.Errorf("%s: %w", change, err)
		}
	}
	return nil
}

func (c *cluster) must(t *testing.T, s *server) {
	t.Helper()
	if err := c.reconcile(t.Context(), s); err != nil {
		t.Fatalf("%s: %v", s.node, err)
	}
	want, _ := spec.Parse(s.node, []*forumv1.Site{c.message})
	have, err := s.Observe(t.Context(), want)
	if rest := plan.Diff(want, have); err != nil || len(rest) != 0 {
		t.Fatalf("%s after a pass: %v, still to be done: %v", s.node, err, rest)
	}
}

// browser is a visitor with cookies, who follows redirects only when asked.
type browser struct {
	t      *testing.T
	client *http.Client
}

// answer is what a visitor got.
type answer struct {
	code int
	head http.Header
	body string
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *browser) do(r *http.Request) answer {
	b.t.Helper()
	resp, err := b.client.Do(r.WithContext(b.t.Context()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func (b *browser) get(address string) answer {
	b.t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(r)
}

func (b *browser) post(address string, fields ...string) answer {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

type upload struct{ name, content string }

func (b *browser) upload(address, title, body string, files ...upload) answer {
	b.t.Helper()
	var buffer bytes.Buffer
	w := multipart.NewWriter(&buffer)
	for _, f := range [][2]string{{"title", title}, {"body", body}} {
		if err := w.WriteField(f[0], f[1]); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, f := range files {
		part, err := w.CreateFormFile("file", f.name)
		if err == nil {
			_, err = io.WriteString(part, f.content)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, address, &buffer)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", w.FormDataContentType())
	return b.do(r)
}

// want checks an answer's status and that its body has all texts; a text that begins with ! must not be there.
func (a answer) want(t *testing.T, code int, texts ...string) answer {
	t.Helper()
	if a.code != code {
		t.Errorf("got status %d, want %d: %s", a.code, code, a.body)
	}
	for _, s := range texts {
		if not, ok := strings.CutPrefix(s, "!"); ok == strings.Contains(a.body, strings.TrimPrefix(s, "!")) {
			t.Errorf("%q (there: %v) in %s", not, ok, a.body)
		}
	}
	return a
}

// to checks a redirect and answers where it leads; it must be a path.
func (a answer) to(t *testing.T, prefix string) string {
	t.Helper()
	l := a.head.Get("Location")
	if a.code != http.StatusSeeOther || !strings.HasPrefix(l, prefix) || !strings.HasPrefix(l, "/") || strings.HasPrefix(l, "//") {
		t.Fatalf("got status %d to %q, want 303 to %s…: %s", a.code, l, prefix, a.body)
	}
	return l
}

// find answers the first group of a pattern in the body.
func (a answer) find(t *testing.T, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(a.body)
	if m == nil {
		t.Fatalf("no %s in %s", pattern, a.body)
	}
	return m[1]
}

func (c *cluster) user(t *testing.T, name string, on *server) *browser {
	t.Helper()
	b := newBrowser(t)
	b.post(on.url+"/register", "name", name, "email", name+"@example.com", "password", "correct horse").to(t, "/")
	return b
}

func (c *cluster) board(t *testing.T, on *server) string {
	t.Helper()
	return newBrowser(t).get(on.url+"/").find(t, `href="(/boards/\d+)"`)
}

const png = "\x89PNG\r\n\x1a\n the rest of a picture"

func TestBothServersStartAtOnceOnAnEmptyDatabase(t *testing.T) {
	c := newCluster(t, true)
	var wg sync.WaitGroup
	for _, s := range c.servers {
		wg.Go(func() {
			if err := c.reconcile(t.Context(), s); err != nil {
				t.Errorf("%s: %v", s.node, err)
			}
		})
	}
	wg.Wait()
	for _, s := range c.servers {
		f := s.Facts(t.Context())
		if !f.Installed || f.Counts.Users != 1 || !f.DatabaseAvailable || !f.UploadsAvailable || f.IsOrigin != (s.node == "server2") {
			t.Errorf("%s: got %+v, want one administrator", s.node, f)
		}
		a := newBrowser(t).get(s.url+"/").want(t, 200, "General", "Served by "+s.node)
		if got := a.head.Get("X-Served-By"); got != s.node {
			t.Errorf("X-Served-By: got %q, want %q", got, s.node)
		}
		b := newBrowser(t)
		b.post(s.url+"/login", "name", "admin", "password", adminPassword).to(t, "/")
		b.get(s.url+"/me").want(t, 200, "Logged in as admin", "administrator")
	}
}

func TestLoginOnOneServerIsValidOnTheOther(t *testing.T) {
	c := start(t, true)
	one, two := c.servers["server1"], c.servers["server2"]
	b := c.user(t, "张三", two) // cookies of one host count for all of its ports, as they do for one VIP
	for _, s := range []*server{one, two} {
		b.get(s.url+"/me").want(t, 200, "Logged in as 张三")
	}
	newBrowser(t).get(one.url+"/me").to(t, "/login")

	b.post(one.url+"/logout").to(t, "/")
	b.get(two.url+"/me").to(t, "/login")
	b.post(one.url+"/login", "name", "张三", "password", "wrong").want(t, 401, "the name or the password is wrong")
	b.post(one.url+"/login", "name", "nobody", "password", "wrong").want(t, 401, "the name or the password is wrong")
	b.post(one.url+"/login", "name", "张三", "password", "correct horse", "next", "/me").to(t, "/me")
	b.post(one.url+"/login", "name", "张三", "password", "correct horse", "next", "//elsewhere.example").to(t, "/")

	u, err := url.Parse(one.url)
	if err != nil {
		t.Fatal(err)
	}
	stolen := *b.client.Jar.Cookies(u)[0]
	thief := newBrowser(t)
	thief.client.Jar.SetCookies(u, []*http.Cookie{&stolen})
	thief.get(two.url+"/me").want(t, 200, "Logged in as 张三")
	b.post(one.url+"/logout", "everywhere", "1").to(t, "/")
	thief.get(two.url+"/me").to(t, "/login")

	forged := stolen
	forged.Value = "A" + stolen.Value[1:]
	thief.client.Jar.SetCookies(u, []*http.Cookie{&forged})
	thief.get(one.url+"/me").to(t, "/login")
}

func TestUploadOnEitherServer(t *testing.T) {
	c := start(t, true)
	one, two := c.servers["server1"], c.servers["server2"]
	b := c.user(t, "alice", one)
	for _, s := range []*server{one, two} {
		thread := b.upload(s.url+c.board(t, s)+"/threads", "图片 <b>bold</b>", "第一行\r\n<script>alert(1)</script>",
			upload{"../../图 片.png", png}, upload{"evil.html", "<!doctype html><script>alert(2)</script>"}, upload{"", ""}).to(t, "/threads/")
		page := b.get(s.url+thread).want(t, 200, "图片 &lt;b&gt;bold", "第一行\n&lt;script&gt;", "!<script>", "图 片.png", "evil.html")
		b.get(s.url+"/").want(t, 200, "图片 &lt;b&gt;bold")
		picture, other := page.find(t, `src="(/attachments/\d+/[^"]+)"`), page.find(t, `href="(/attachments/\d+/evil.html)"`)
		for on, source := range map[*server]string{one: "origin", two: "local"} {
			a := b.get(on.url + picture)
			if a.code != 200 || a.body != png || a.head.Get("X-Attachment-Source") != source || a.head.Get("Content-Type") != "image/png" ||
				!strings.HasPrefix(a.head.Get("Content-Disposition"), "inline") || a.head.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("picture posted on %s read on %s: got %d %v %q", s.node, on.node, a.code, a.head, a.body)
			}
			a = b.get(on.url + other)
			if a.code != 200 || a.head.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(a.head.Get("Content-Disposition"), "attachment") {
				t.Errorf("page posted on %s read on %s: got %d %v", s.node, on.node, a.code, a.head)
			}
		}
		// Another name for the same file is not an address of it.
		b.get(s.url+strings.Replace(other, "evil.html", "good.html", 1)).want(t, 404)
	}
	if entries, err := os.ReadDir(one.files); err != nil || len(entries) != 0 {
		t.Errorf("server1 wrote into the target of the sync: %v %v", entries, err)
	}
	if f := two.Facts(t.Context()); f.Counts.Threads != 2 || f.Counts.Attachments != 4 {
		t.Errorf("facts: got %+v", f)
	}
}

// files lists what the origin keeps.
func files(t *testing.T, s *server) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(s.files, "attachment/forum/*/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTamperedAttachment(t *testing.T) {
	c := start(t, true)
	one, two := c.servers["server1"], c.servers["server2"]
	b := c.user(t, "alice", one)
	thread := b.upload(two.url+c.board(t, two)+"/threads", "t", "b", upload{"x.png", png}).to(t, "/threads/")
	picture := b.get(two.url+thread).find(t, `src="(/attachments/\d+/[^"]+)"`)
	if err := os.WriteFile(files(t, two)[0], []byte(strings.ToUpper(png)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server{one, two} {
		b.get(s.url+picture).want(t, 502, "The file is damaged", "!REST OF A PICTURE")
	}
	if err := os.Remove(files(t, two)[0]); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server{one, two} {
		b.get(s.url+picture).want(t, 404)
	}
}

func TestOriginAway(t *testing.T) {
	c := start(t, true)
	one, two := c.servers["server1"], c.servers["server2"]
	b := c.user(t, "alice", one)
	board := c.board(t, one)
	thread := b.upload(two.url+board+"/threads", "t", "b", upload{"x.png", png}).to(t, "/threads/")
	picture := b.get(two.url+thread).find(t, `src="(/attachments/\d+/[^"]+)"`)
	two.Close()
	b.upload(one.url+board+"/threads", "my title", "my <long> text", upload{"a.png", png}, upload{"b.png", png}).
		want(t, 503, "uploads are not possible at the moment", "Your text was not lost", `value="my title"`, "my &lt;long&gt; text")
	b.upload(one.url+thread+"/replies", "", "my reply", upload{"a.png", png}).want(t, 503, "uploads are not possible", "my reply</textarea>")
	b.get(one.url+picture).want(t, 503, "The server that keeps files does not answer")
	text := b.upload(one.url+board+"/threads", "text", "works in full").to(t, "/threads/")
	b.post(one.url+text+"/replies", "body", "replies too").to(t, text)
	if f := one.Facts(t.Context()); f.UploadsAvailable || f.Counts.Threads != 2 || f.Counts.Posts != 3 {
		t.Errorf("facts: got %+v", f)
	}
	c.must(t, two)
	b.upload(one.url+thread+"/replies", "", "again", upload{"a.png", png}).to(t, thread)
}

func TestPages(t *testing.T) {
	c := start(t, true)
	s := c.servers["server2"]
	b := c.user(t, "alice", s)
	board := c.board(t, s)
	thread := b.post(s.url+board+"/threads", "title", "long", "body", "post 1").to(t, "/threads/")
	for n := 2; n <= 11; n++ {
		want := fmt.Sprintf("%s?page=%d#post-%d", thread, (n-1)/10+1, n)
		if got := b.post(s.url+thread+"/replies", "body", fmt.Sprintf("post %d", n)).to(t, thread); got != want {
			t.Errorf("reply %d leads to %s, want %s", n, got, want)
		}
	}
	b.get(s.url+thread).want(t, 200, "post 10", "!post 11", "Page 1 of 2")
	b.get(s.url+thread+"?page=2").want(t, 200, "post 11", "!post 10", "Page 2 of 2")
	b.get(s.url+thread+"?page=99").want(t, 200, "post 11")
	for n := range 20 {
		b.post(s.url+board+"/threads", "title", fmt.Sprintf("thread-%02d.", n), "body", "x").to(t, "/threads/")
	}
	b.get(s.url+board).want(t, 200, "thread-19.", "thread-00.", "!>long<", "Page 1 of 2")
	b.get(s.url+board+"?page=2").want(t, 200, ">long<", "!thread-00.")
}

func TestBadInput(t *testing.T) {
	c := start(t, true)
	s := c.servers["server1"]
	b := c.user(t, "alice", s)
	board := c.board(t, s)
	thread := b.post(s.url+board+"/threads", "title", "t", "body", "b").to(t, "/threads/")
	admin := newBrowser(t)
	admin.post(s.url+"/login", "name", "admin", "password", adminPassword).to(t, "/")

	newBrowser(t).post(s.url+board+"/threads", "title", "t", "body", "b").to(t, "/login")
	newBrowser(t).post(s.url+thread+"/replies", "body", "b").to(t, "/login")
	for name, c := range map[string]struct {
		got  answer
		code int
		text string
	}{
		"no title":             {b.post(s.url+board+"/threads", "body", "kept <text>"), 422, "kept &lt;text&gt;"},
		"no body":              {b.post(s.url + thread + "/replies"), 422, "the text is empty"},
		"body too long":        {b.post(s.url+thread+"/replies", "body", strings.Repeat("衡", 20001)), 422, "at most 20000"},
		"form too large":       {b.post(s.url+thread+"/replies", "body", strings.Repeat("x", 2<<20)), 413, "larger than"},
		"file too large":       {b.upload(s.url+thread+"/replies", "", "kept", upload{"big.bin", strings.Repeat("x", 1<<20+1)}), 422, "big.bin is larger than 1.0 MiB"},
		"too many files":       {b.upload(s.url+thread+"/replies", "", "kept", make11()...), 422, "at most 10 files"},
		"file without a text":  {b.upload(s.url+thread+"/replies", "", "", upload{"a.png", png}), 422, "the text is empty"},
		"no such board":        {b.post(s.url+"/boards/1/threads", "title", "t", "body", "b"), 404, "Not found"},
		"no such thread":       {b.post(s.url+"/threads/1/replies", "body", "b"), 404, "Not found"},
		"id not a number":      {b.get(s.url + "/threads/abc"), 404, "Not found"},
		"id out of range":      {b.get(s.url + "/threads/99999999999999999999"), 404, "Not found"},
		"no such page":         {b.get(s.url + "/nowhere"), 404, "Not found"},
		"path out of static":   {b.get(s.url + "/static/..%2fweb.go"), 400, ""},
		"internal door":        {b.get(s.url + "/internal/files"), 404, ""},
		"name taken":           {b.post(s.url+"/register", "name", "ALICE", "email", "x@example.com", "password", "12345678"), 422, "this name is taken"},
		"address taken":        {b.post(s.url+"/register", "name", "bob", "email", "alice@example.com", "password", "12345678"), 422, "with this address already"},
		"bad registration":     {b.post(s.url+"/register", "name", "", "email", "", "password", ""), 422, "want 8 to 200"},
		"board by a stranger":  {newBrowser(t).post(s.url+"/boards", "name", "n"), 403, "Only an administrator"},
		"board by a user":      {b.post(s.url+"/boards", "name", "n"), 403, "Only an administrator"},
		"board without a name": {admin.post(s.url+"/boards", "name", " "), 422, "want 1 to 60"},
		"not a multipart form": {b.raw(s.url+thread+"/replies", "multipart/form-data; boundary=x", "no parts"), 400, "could not be read"},
		"form broken off":      {b.raw(s.url+thread+"/replies", "multipart/form-data; boundary=x", brokenOff), 400, "could not be read"},
		"broken off, origin":   {b.raw(c.servers["server2"].url+thread+"/replies", "multipart/form-data; boundary=x", brokenOff), 400, "could not be read"},
		"no boundary":          {b.raw(s.url+thread+"/replies", "multipart/form-data", "no parts"), 400, "could not be read"},
	} {
		t.Run(name, func(t *testing.T) { c.got.want(t, c.code, c.text) })
	}
	if got := files(t, c.servers["server2"]); len(got) != 0 {
		t.Errorf("files of posts that were refused stay: %v", got)
	}
	if f := s.Facts(t.Context()); f.Counts.Threads != 1 || f.Counts.Posts != 1 || f.Counts.Users != 2 {
		t.Errorf("facts: got %+v", f)
	}
	admin.post(s.url+"/boards", "name", "新板", "description", "d").to(t, "/boards/")
	b.get(s.url+"/").want(t, 200, "新板")
}

// brokenOff is a form whose browser went away in the middle of a file.
const brokenOff = "--x\r\nContent-Disposition: form-data; name=\"body\"\r\n\r\ntext\r\n--x\r\n" +
	"Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nhalf of"

func make11() []upload {
	var all []upload
	for n := range 11 {
		all = append(all, upload{fmt.Sprintf("%d.txt", n), "x"})
	}
	return all
}

func (b *browser) raw(address, contentType, body string) answer {
	b.t.Helper()
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	return b.do(r)
}

func TestCrossOriginPostIsRefused(t *testing.T) {
	c := start(t, true)
	s := c.servers["server1"]
	b := c.user(t, "alice", s)
	for name, head := range map[string][2]string{
		"another site, new browser": {"Sec-Fetch-Site", "cross-site"},
		"another site, old browser": {"Origin", "http://evil.example"},
		"no origin that counts":     {"Origin", "null"},
	} {
		for _, path := range []string{"/logout", "/install", c.board(t, s) + "/threads"} {
			r, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader("everywhere=1"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(head[0], head[1])
			if a := b.do(r); a.code != http.StatusForbidden {
				t.Errorf("%s, %s: got %d, want 403", name, path, a.code)
			}
		}
	}
	r, err := http.NewRequest(http.MethodPost, s.url+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", s.url)
	b.get(s.url+"/me").want(t, 200, "Logged in as alice")
	b.do(r).to(t, "/")
}

func TestWizard(t *testing.T) {
	c := start(t, false)
	one, two := c.servers["server1"], c.servers["server2"]
	b := newBrowser(t)
	b.get(one.url+"/").to(t, "/install")
	b.get(one.url+"/threads/1").to(t, "/install")
	b.get(one.url+"/install").want(t, 200, "step 1 of 4", "Licence")
	var tokens []string
	for _, e := range c.log.FilterMessageSnippet("enter this token").All() {
		tokens = append(tokens, e.ContextMap()["token"].(string))
	}
	if len(tokens) != 2 || tokens[0] != tokens[1] || len(tokens[0]) != 32 {
		t.Fatalf("tokens: got %q, want the same from both servers", tokens)
	}
	token := tokens[0]
	install := []string{"step", "install", "token", token, "title", "我的论坛", "name", "管理员", "email", "a@example.com", "password", "0123456789", "again", "0123456789"}
	changed := func(field, value string) []string {
		f := append([]string(nil), install...)
		for i := 0; i < len(f); i += 2 {
			if f[i] == field {
				f[i+1] = value
			}
		}
		return f
	}
	// Each step reaches another server, as behind a balancer that knows nothing of the wizard.
	b.post(one.url+"/install", "step", "licence", "token", "guess", "accept", "yes").want(t, 403, "this is not the token")
	b.post(one.url+"/install", changed("token", "")...).want(t, 403, "this is not the token")
	b.post(one.url+"/install", "step", "licence", "token", token).want(t, 422, "under its licence")
	b.post(one.url+"/install", "step", "licence", "token", token, "accept", "yes").want(t, 200, "step 2 of 4", "<dt>database</dt><dd>ok", "<dt>tables</dt><dd>ok", "<dt>files</dt><dd>ok")
	b.post(two.url+"/install", "step", "check", "token", token).want(t, 200, "step 3 of 4", "It is set in the desired state")
	b.post(one.url+"/install", changed("password", "short")...).want(t, 422, "want 10 to 200", "the two passwords differ", `value="我的论坛"`)
	b.post(one.url+"/install", changed("step", "nonsense")...).want(t, 400)
	b.get(two.url+"/").to(t, "/install")
	b.post(two.url+"/install", install...).to(t, "/install")
	for _, s := range []*server{one, two} {
		b.get(s.url+"/install").want(t, 200, "step 4 of 4", "The forum is installed")
		b.get(s.url+"/").want(t, 200, "我的论坛", "General")
		// The token is void now.
		b.post(s.url+"/install", changed("name", "second")...).to(t, "/install")
	}
	if f := one.Facts(t.Context()); f.Counts.Users != 1 {
		t.Errorf("facts: got %+v, want one user", f)
	}
	b.post(one.url+"/login", "name", "管理员", "password", "0123456789").to(t, "/")
	b.get(two.url+"/me").want(t, 200, "Logged in as 管理员", "administrator")
}

func TestDatabaseStopsAndStartsAgain(t *testing.T) {
	c := start(t, true)
	s := c.servers["server1"]
	b := c.user(t, "alice", s)
	expect := func(test string, code int) {
		t.Helper()
		if a := b.get(s.url + "/test.php"); a.body != test || a.code != code {
			t.Errorf("/test.php: got %d %q, want %d %q", a.code, a.body, code, test)
		}
		b.get(s.url+"/healthz").want(t, 200)
		b.get(s.url+"/readyz").want(t, code)
		b.get(s.url+"/").want(t, code, "Served by server1")
		b.get(s.url+"/me").want(t, code)
	}
	expect("Success...", 200)
	db := mariadbtest.Start(t)
	db.Stop(t)
	expect("Failure...", 503)
	if err := c.reconcile(t.Context(), s); err == nil {
		t.Error("a pass while the database is away: want an error to be shown")
	}
	// A server that starts now serves all the same.
	late := c.servers["server2"]
	late.Close()
	if err := c.reconcile(t.Context(), late); err == nil || !late.serving {
		t.Errorf("start without a database: got error %v, serving %v, want an error and pages", err, late.serving)
	}
	newBrowser(t).get(late.url+"/").want(t, 503, "The forum takes a short break")
	mariadbtest.Start(t)
	expect("Success...", 200)
	b.get(s.url+"/me").want(t, 200, "Logged in as alice")
	c.must(t, late)
	b.get(late.url+"/me").want(t, 200, "Logged in as alice")
}

func TestFilesPathNotThere(t *testing.T) {
	c := newCluster(t, true)
	one, two := c.servers["server1"], c.servers["server2"]
	for _, s := range []*server{one, two} {
		if err := os.Remove(s.files); err != nil {
			t.Fatal(err)
		}
	}
	b := newBrowser(t)
	// The origin does not begin without, because its disk may not be mounted; it shows pages all the same.
	if err := c.reconcile(t.Context(), two); err == nil || !two.serving {
		t.Fatalf("got error %v, serving %v, want an error and pages", err, two.serving)
	}
	b.get(two.url+"/readyz").want(t, 503, "files: not ready")
	if err := os.Mkdir(two.files, 0o755); err != nil {
		t.Fatal(err)
	}
	c.must(t, two)
	b.get(two.url+"/readyz").want(t, 200, "files: ok")

	// On the other server the first sync makes it. Until then files come from the origin.
	c.must(t, one)
	b.get(one.url+"/readyz").want(t, 503, "files: not ready")
	u := c.user(t, "alice", one)
	board := c.board(t, one)
	thread := u.upload(one.url+board+"/threads", "t", "b", upload{"x.png", png}).to(t, "/threads/")
	picture := u.get(one.url+thread).find(t, `src="(/attachments/\d+/[^"]+)"`)
	if a := u.get(one.url + picture); a.code != 200 || a.head.Get("X-Attachment-Source") != "origin" {
		t.Errorf("got %d %v, want the picture from the origin", a.code, a.head)
	}

	// The origin's disk goes away under it.
	if err := os.Rename(two.files, two.files+".gone"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server{one, two} {
		u.upload(s.url+board+"/threads", "kept title", "kept text", upload{"x.png", png}).want(t, 503, "uploads are not possible", "kept title", "kept text")
		u.get(s.url+picture).want(t, 503)
	}
	b.get(two.url+"/readyz").want(t, 503, "files: not ready")
}

func TestChangesWhileServing(t *testing.T) {
	c := start(t, true)
	s := c.servers["server2"]
	b := c.user(t, "alice", s)
	before := s.url
	c.message.Servers[1].Address = freeAddress(t)
	s.url = "http://" + c.message.Servers[1].Address
	c.must(t, s)
	b.get(s.url+"/me").want(t, 200, "Logged in as alice")
	if _, err := b.client.Get(before); err == nil {
		t.Error("the old address still answers")
	}
	c.message.Title = "Another title"
	c.must(t, s)
	b.get(s.url+"/").want(t, 200, "Another title")
	// Another key ends all logins.
	if err := os.WriteFile(c.message.Session.KeyFile, []byte(strings.Repeat("n", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, s)
	b.get(s.url+"/me").to(t, "/login")
	// A site without this server.
	want, _ := spec.Parse("elsewhere", []*forumv1.Site{c.message})
	have, err := s.Observe(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range plan.Diff(want, have) {
		if err := s.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	if s.serving {
		t.Error("still serving")
	}
	if have, err = s.Observe(t.Context(), want); err != nil || len(plan.Diff(want, have)) != 0 {
		t.Errorf("after it has stopped: %v %v", plan.Diff(want, have), err)
	}
}

func TestHealthCheckOfHAProxy(t *testing.T) {
	c := start(t, true)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.servers["server1"].url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "OPTIONS / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(b), "HTTP/1.0 204") {
		t.Errorf("got %q %v, want 204", b, err)
	}
}
