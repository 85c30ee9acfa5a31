// Package page shows people how everything stands, and lets them set servers: the statistics page, its CSV and JSON.
//
// The page is a net/http server inside the process. To a connection driver it is a server like any other, only that it is
// reached through a socketpair instead of an address; so requests for it are counted, logged, bounded and timed out like
// all others, by both drivers.
package page

import (
	"context"
	"embed"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

//go:embed templates
var files embed.FS

const (
	// timeout is how long a request for the page may take, from its head to the end of the response.
	timeout = 15 * time.Second
	// shutdownTimeout is how long requests under way may take to end when the router stops.
	shutdownTimeout = 5 * time.Second
	// maxForm is the largest body of a form; a larger one ends with EXCD, as in HAProxy.
	maxForm = 16 << 10
)

// Config is what the page needs.
type Config struct {
	// StateDir is where the router's own password is kept; empty: there is none, and pages need named users.
	StateDir string
	// Servers is where servers are set; nil: they cannot be.
	Servers Servers
	Log     *zap.Logger
}

// Page serves the pages of all frontends.
type Page struct {
	log     *zap.Logger
	servers Servers
	inside  *inside
	backend *pool.Backend
	door    *doorman
	look    *look
	report  func() stats.Report
}

// Open makes a page, and the router's own password if there is none yet. Run serves it.
func Open(c Config) (*Page, error) {
	p := &Page{log: c.Log.Named("page"), servers: c.Servers, inside: newInside()}
	var err error
	if p.look, err = newLook(); err != nil {
		return nil, err
	}
	var file string
	if c.StateDir != "" {
		var made bool
		if file, made, err = makePassword(c.StateDir); err != nil {
			return nil, err
		}
		p.log.Info("password of the statistics page", logging.Path(file), logging.Subject(spec.DefaultStatsUser), zap.Bool("made", made))
	}
	p.door = newDoorman(file)
	p.backend = pool.Inside(timeout, p.inside.dial)
	return p, nil
}

// Backend is what requests for the page are sent to.
func (p *Page) Backend() *pool.Backend { return p.backend }

// Run serves until ctx ends. report tells how everything stands.
func (p *Page) Run(ctx context.Context, report func() stats.Report) error {
	p.report = report
	server := &http.Server{
		Handler:           p,
		ConnContext:       withCaller,
		ReadTimeout:       timeout,
		ReadHeaderTimeout: timeout,
		WriteTimeout:      timeout,
		MaxHeaderBytes:    72 << 10, // a little more than the drivers pass on
		ErrorLog:          zap.NewStdLog(p.log),
	}
	server.SetKeepAlivesEnabled(false) // each connection is of one caller
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(p.inside) }() // it is waited for below
	<-ctx.Done()
	ending, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(ending)
	if err != nil {
		err = server.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// request is one request for the page.
type request struct {
	*http.Request
	page *spec.StatsPage
	// front is the name of its frontend, from the client's address.
	front, from string
	user        spec.StatsUser
	options
}

// options are what stands behind the URI: words with a semicolon before each.
type options struct {
	csv, json, refresh, up, maint bool
	scope, outcome                string
}

// maxScope is the most bytes of a scope, as in HAProxy.
const maxScope = 20

func readOptions(rest string) options {
	o := options{refresh: true, maint: true}
	for word := range strings.SplitSeq(rest, ";") {
		switch {
		case word == "csv":
			o.csv = true
		case word == "json":
			o.json = true
		case word == "norefresh":
			o.refresh = false
		case word == "up":
			o.up = true
		case word == "no-maint":
			o.maint = false
		case strings.HasPrefix(word, "scope="):
			if scope, err := url.PathUnescape(word[len("scope="):]); err == nil {
				o.scope = scope[:min(len(scope), maxScope)]
			}
		case strings.HasPrefix(word, "st="):
			o.outcome = word[len("st="):]
		}
	}
	return o
}

// String writes the options as they stand behind the URI; without the outcome, which is news once.
func (o options) String() string {
	text := ""
	for _, w := range []struct {
		set  bool
		word string
	}{{!o.refresh, ";norefresh"}, {o.up, ";up"}, {!o.maint, ";no-maint"}} {
		if w.set {
			text += w.word
		}
	}
	if o.scope != "" {
		text += ";scope=" + url.PathEscape(o.scope)
	}
	return text
}

// ServeHTTP answers one request.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	caller, ok := r.Context().Value(callerKey{}).(pool.Caller)
	if !ok {
		http.Error(w, "this server is inside the router", http.StatusForbidden)
		return
	}
	x := &request{Request: r, page: &caller.Frontend.Stats, front: caller.Frontend.Name, from: caller.Address}
	if at := strings.Index(r.RequestURI, x.page.URI); at >= 0 {
		x.options = readOptions(r.RequestURI[at+len(x.page.URI):])
	}
	p.secure(w.Header())
	if !p.admit(w, x) {
		return
	}
	if r.Method == http.MethodPost {
		p.post(w, x)
		return
	}
	p.show(w, x)
}

// secure sets what protects the page in a browser: nothing is loaded from elsewhere, no script runs, nobody frames it, and
// nobody stores it.
func (p *Page) secure(h http.Header) {
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+p.look.styleHash+"'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// unauthorized is HAProxy's page.
const unauthorized = "<html><body><h1>401 Unauthorized</h1>\nYou need a valid user and password to access this content.\n</body></html>\n"

// admit answers who may not see the page.
func (p *Page) admit(w http.ResponseWriter, x *request) bool {
	name, given, ok := x.BasicAuth()
	var err error
	if ok {
		if x.user, err = p.door.admit(x.Context(), x.page, x.from, name, given); err == nil {
			return true
		}
		if errors.Is(err, errPassword) || p.door.news(time.Now()) { // wrong passwords are bounded, what fails without one is not
			p.log.Warn("statistics page: not let in", zap.Error(err), logging.Subject(name[:min(len(name), spec.MaxName)]),
				logging.Address(x.from), zap.String("frontend", x.front))
		}
	}
	switch {
	case errors.Is(err, errTooMany):
		w.Header().Set("Retry-After", strconv.Itoa(int(guessWindow/time.Second)))
		http.Error(w, "Too many wrong passwords. Wait a minute.", http.StatusTooManyRequests)
	case err != nil && !errors.Is(err, errPassword):
		http.Error(w, "The router cannot tell who may see this page. Its log says why.", http.StatusServiceUnavailable)
	default:
		w.Header().Set("WWW-Authenticate", `Basic realm="`+x.page.Realm+`"`)
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(unauthorized)) // a client that has gone needs none
	}
	return false
}

// inScope reports whether the page may show or change the frontend or backend of this name.
func inScope(page *spec.StatsPage, name string) bool {
	for _, wanted := range page.Scope {
		if wanted == name {
			return true
		}
	}
	return len(page.Scope) == 0
}

// show answers with the page, or the same as CSV or JSON.
func (p *Page) show(w http.ResponseWriter, x *request) {
	report := p.report().Scoped(func(name string) bool {
		return inScope(x.page, name) && (x.scope == "" || strings.Contains(name, x.scope))
	})
	var body []byte
	switch {
	case x.csv:
		w.Header().Set("Content-Type", "text/plain")
		body = report.CSV()
	case x.json:
		w.Header().Set("Content-Type", "application/json")
		body = report.JSON()
	default:
		var err error
		if body, err = p.look.page(p, x, &report); err != nil {
			p.log.Error("statistics page", zap.Error(err))
			http.Error(w, "The page cannot be made. The router's log says why.", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that has gone needs none
}

// audit tells who did what, and what came of it.
func (p *Page) audit(x *request, backend string, servers []string, what, outcome string) {
	p.log.Info("statistics page: action", logging.Subject(x.user.Name), logging.Address(x.from), zap.String("frontend", x.front),
		logging.Backend(backend), zap.Strings("servers", servers), zap.String("action", what), zap.String("outcome", outcome))
}
