package lab

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Browser is a visitor on a machine of the lab: it keeps cookies, follows redirects, and opens a connection for each
// request, so that every request is balanced anew.
type Browser struct {
	base   string
	client *http.Client
	jar    *cookiejar.Jar
	dials  atomic.Int64
}

// Page is an answer that a browser got.
type Page struct {
	Status int
	Header http.Header
	Body   string
	// Hops are the names of the servers (X-Served-By) that answered, redirects included, in order.
	Hops []string
}

// Browse opens a browser on the machine. base is where relative addresses lead. Example: http://10.10.60.22
func (m *Machine) Browse(base string) *Browser {
	jar, _ := cookiejar.New(nil) // cannot fail without options
	b := &Browser{base: base, jar: jar}
	b.client = &http.Client{
		Jar:     jar,
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			DialContext:       m.DialContext,
			DisableKeepAlives: true,
		},
	}
	return b
}

// KeepAlive makes the browser use one connection for all that follows.
func (b *Browser) KeepAlive() {
	transport := b.client.Transport.(*http.Transport).Clone()
	dial := transport.DialContext
	transport.DisableKeepAlives, transport.MaxConnsPerHost = false, 1
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		b.dials.Add(1)
		return dial(ctx, network, address)
	}
	b.client.Transport = transport
}

// Dials is how many connections the browser has opened since KeepAlive.
func (b *Browser) Dials() int64 { return b.dials.Load() }

// Stream gets a page whose body the caller reads and closes.
func (b *Browser) Stream(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+path, nil)
	if err != nil {
		return nil, err
	}
	client := *b.client
	client.Timeout = 0 // ctx bounds it
	return client.Do(req)
}

// Try gets a page.
func (b *Browser) Try(path string) (*Page, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, b.base+path, nil)
	if err != nil {
		return nil, err
	}
	return b.do(req)
}

// Get gets a page that has to be there.
func (b *Browser) Get(t testing.TB, path string) *Page {
	t.Helper()
	page, err := b.Try(path)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	if page.Status != http.StatusOK {
		t.Fatalf("get %s: status %d, served by %v: %s", path, page.Status, page.Hops, page.text())
	}
	return page
}

// Post sends a form: names and values in turn.
func (b *Browser) Post(t testing.TB, path string, fields ...string) *Page {
	t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.send(t, path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
}

// Upload sends a form with one file.
func (b *Browser) Upload(t testing.TB, path, fileName string, content []byte, fields ...string) *Page {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for i := 0; i < len(fields); i += 2 {
		if err := form.WriteField(fields[i], fields[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	file, err := form.CreateFormFile("file", fileName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	return b.send(t, path, form.FormDataContentType(), &body)
}

func (b *Browser) send(t testing.TB, path, contentType string, body io.Reader) *Page {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Origin", b.base)
	page, err := b.do(req)
	if err != nil {
		t.Fatalf("post %s: %v", path, err)
	}
	return page
}

func (b *Browser) do(req *http.Request) (*Page, error) {
	page := &Page{}
	client := *b.client
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) > 10 {
			return fmt.Errorf("redirected %d times", len(via))
		}
		page.Hops = append(page.Hops, next.Response.Header.Get("X-Served-By"))
		return nil
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // read to its end below
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	page.Status, page.Header, page.Body = res.StatusCode, res.Header, string(body)
	page.Hops = append(page.Hops, res.Header.Get("X-Served-By"))
	return page, nil
}

// Cookie is the value of a cookie that the browser holds; "" when it holds none.
func (b *Browser) Cookie(name string) string {
	base, _ := url.Parse(b.base) // was parsed for every request
	for _, cookie := range b.jar.Cookies(base) {
		if cookie.Name == name {
			return cookie.Value
		}
	}
	return ""
}

// ServedBy is the server that gave the page.
func (p *Page) ServedBy() string { return p.Hops[len(p.Hops)-1] }

// Has tells whether the page shows the text.
func (p *Page) Has(text string) bool {
	return strings.Contains(html.UnescapeString(p.Body), text)
}

// Link is the first address in the page that fits the pattern.
func (p *Page) Link(t testing.TB, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(`(?:href|src|action)="(` + pattern + `)"`).FindStringSubmatch(p.Body)
	if found == nil {
		t.Fatalf("no link %s in the page (status %d, served by %v): %s", pattern, p.Status, p.Hops, p.text())
	}
	return html.UnescapeString(found[1])
}

// text is the beginning of the page without its markup, for messages.
func (p *Page) text() string {
	plain := regexp.MustCompile(`(?s)<style.*?</style>|<[^>]*>`).ReplaceAllString(p.Body, " ")
	plain = strings.Join(strings.Fields(plain), " ")
	return plain[:min(len(plain), 300)]
}
