// Package install answers: is there a forum yet, and is this server fit to serve it? It holds the first-run wizard and the
// pages that machines look at: /test.php, /healthz and /readyz.
package install

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/base32"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// Limits.
const (
	checkTime   = 2 * time.Second  // of one check: /test.php, /readyz, the environment check
	installTime = 10 * time.Second // of the installation
	maxForm     = 64 << 10         // bytes
)

// Store is the database.
type Store interface {
	SelectOne(context.Context) error
	Schema(context.Context) (int, error)
	Title(context.Context) (title string, installed bool, err error)
	SetupNonce(context.Context) (string, error)
	Install(context.Context, forum.Installation) error
}

// Passwords hashes passwords.
type Passwords interface {
	Hash(ctx context.Context, password string) (string, error)
}

// Config is what the wizard works with.
type Config struct {
	Node         string
	Title        string // offered as the title
	Database     string // for a person: name, address and user
	FilesPath    string
	Uploads      string // for a person: who takes uploads
	LatestSchema int    // the version of the tables that is needed
	Store        Store
	FilesReady   func() error
	Passwords    Passwords
	Key          []byte // the token is made from it; the same on every server
	Log          *zap.Logger
}

// Door serves the wizard and the checks.
type Door struct {
	Config
	mux       *http.ServeMux
	announced atomic.Bool
}

// New makes the door.
func New(c Config) *Door {
	d := &Door{Config: c, mux: http.NewServeMux()}
	d.Log = c.Log.Named("install")
	d.mux.HandleFunc("GET /install", d.open)
	d.mux.HandleFunc("POST /install", d.step)
	d.mux.HandleFunc("GET /test.php", d.test)
	d.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	d.mux.HandleFunc("GET /readyz", d.ready)
	return d
}

// Patterns are the paths that the door serves.
func Patterns() []string { return []string{"/install", "/test.php", "/healthz", "/readyz"} }

func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.mux.ServeHTTP(w, r) }

func text(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(s)) // an asker who has gone is nobody's error
}

// test is the tutorial's page: it asks the database for real. Failure comes with 503, so that a health check which
// looks at the status only is told too.
func (d *Door) test(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTime)
	defer cancel()
	if err := d.Store.SelectOne(ctx); err != nil {
		d.Log.Debug("test", zap.Error(err))
		text(w, http.StatusServiceUnavailable, "Failure...")
		return
	}
	text(w, http.StatusOK, "Success...")
}

// Check is one thing that a server needs.
type Check struct {
	Name string
	Err  error
}

// checks looks at everything that this server needs to serve the forum.
func (d *Door) checks(ctx context.Context) []Check {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	version, err := d.Store.Schema(ctx)
	tables := err
	if tables == nil && version < d.LatestSchema {
		tables = errors.New("the tables are not there yet")
	}
	return []Check{{"database", d.Store.SelectOne(ctx)}, {"tables", tables}, {"files", d.FilesReady()}}
}

// ready answers 200 when all checks are good. Reasons go to the log, because anybody may ask.
func (d *Door) ready(w http.ResponseWriter, r *http.Request) {
	code, b := http.StatusOK, strings.Builder{}
	for _, c := range d.checks(r.Context()) {
		b.WriteString(c.Name)
		if c.Err == nil {
			b.WriteString(": ok\n")
			continue
		}
		d.Log.Debug("not ready", zap.String("check", c.Name), zap.Error(c.Err))
		b.WriteString(": not ready\n")
		code = http.StatusServiceUnavailable
	}
	text(w, code, b.String())
}

// Announce prints the token of the wizard in the log, once, when there is no forum yet.
func (d *Door) Announce(ctx context.Context) error {
	if _, installed, err := d.Store.Title(ctx); err != nil || installed {
		return err
	}
	token, err := d.token(ctx)
	if err != nil {
		return err
	}
	if !d.announced.Swap(true) {
		// The one secret that is logged: whoever reads this log owns the machine anyway, and it is void once used.
		d.Log.Info("the forum is not installed: open /install and enter this token", zap.String("token", token))
	}
	return nil
}

// token is the same on every server of the site, because the load balancer may send each step to another one. It belongs
// to this database and is worthless once the forum is installed.
func (d *Door) token(ctx context.Context) (string, error) {
	nonce, err := d.Store.SetupNonce(ctx)
	if err != nil {
		return "", err
	}
	m := hmac.New(sha256.New, d.Key)
	m.Write([]byte(nonce))
	return strings.ToLower(base32.StdEncoding.EncodeToString(m.Sum(nil)[:20])), nil
}

//go:embed templates/install.html
var files embed.FS

var page = template.Must(template.New("install.html").ParseFS(files, "templates/install.html"))

// The steps, as the form field step names them.
const (
	stepLicence = "licence"
	stepCheck   = "check"
	stepInstall = "install"
	stepDone    = "done"
)

// view is what the template gets.
type view struct {
	Door     *Door
	Step     string // that is shown
	Token    string
	Checks   []Check
	Good     bool // all checks
	Problems []forum.Problem
	Form     map[string]string
}

// Number is the number of the step that is shown.
func (v view) Number() int {
	return map[string]int{stepLicence: 1, stepCheck: 2, stepInstall: 3, stepDone: 4}[v.Step]
}

func (d *Door) show(w http.ResponseWriter, code int, v view) {
	v.Door = d
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		d.Log.Error("page not made", zap.Error(err))
		http.Error(w, "Something went wrong.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes()) // a visitor who has gone is nobody's error
}

// open is the first step, or the last when the forum is installed.
func (d *Door) open(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTime)
	defer cancel()
	_, installed, err := d.Store.Title(ctx)
	switch {
	case installed:
		d.show(w, http.StatusOK, view{Step: stepDone})
		return
	case err == nil:
		err = d.Announce(ctx)
	}
	if err != nil {
		// The visitor may begin all the same; the second step says what is wrong.
		d.Log.Debug("the token is not known yet", zap.Error(err))
	}
	d.show(w, http.StatusOK, view{Step: stepLicence})
}

// step takes POST /install step, token and what the step asks for, and shows the next one. Nothing is remembered between
// the steps, so that each can reach another server.
func (d *Door) step(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The form could not be read.", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), installTime)
	defer cancel()
	v := view{Step: stepLicence, Token: strings.TrimSpace(r.PostForm.Get("token"))}
	refuse := func(code int, field, text string) {
		v.Problems = append(v.Problems, forum.Problem{Field: field, Text: text})
		d.show(w, code, v)
	}
	_, installed, err := d.Store.Title(ctx)
	if err == nil && installed {
		http.Redirect(w, r, "/install", http.StatusSeeOther)
		return
	}
	var token string
	if err == nil {
		token, err = d.token(ctx)
	}
	if err != nil {
		d.Log.Warn("the wizard cannot go on", zap.Error(err))
		refuse(http.StatusServiceUnavailable, "database", "it does not answer, or its tables are not there yet; please try again soon")
		return
	}
	if !hmac.Equal([]byte(token), []byte(v.Token)) {
		v.Token = ""
		refuse(http.StatusForbidden, "token", "this is not the token in the log of forum-backend")
		return
	}
	switch r.PostForm.Get("step") {
	case stepLicence:
		if r.PostForm.Get("accept") != "yes" {
			refuse(http.StatusUnprocessableEntity, "accept", "the forum can only be installed under its licence")
			return
		}
		d.showChecks(w, r, v)
	case stepCheck:
		v.Step, v.Form = stepInstall, map[string]string{"title": d.Title}
		d.show(w, http.StatusOK, v)
	case stepInstall:
		d.install(ctx, w, r, v, refuse)
	default:
		refuse(http.StatusBadRequest, "step", "there is no such step")
	}
}

func (d *Door) showChecks(w http.ResponseWriter, r *http.Request, v view) {
	v.Step, v.Good, v.Checks = stepCheck, true, d.checks(r.Context())
	for _, c := range v.Checks {
		v.Good = v.Good && c.Err == nil
	}
	d.show(w, http.StatusOK, v)
}

func (d *Door) install(ctx context.Context, w http.ResponseWriter, r *http.Request, v view, refuse func(int, string, string)) {
	in := forum.Installation{
		Title: strings.TrimSpace(r.PostForm.Get("title")),
		Admin: forum.User{Name: r.PostForm.Get("name"), Email: r.PostForm.Get("email"), Admin: true},
	}
	password := r.PostForm.Get("password")
	v.Step, v.Form = stepInstall, map[string]string{"title": in.Title, "name": in.Admin.Name, "email": in.Admin.Email}
	v.Problems = append(forum.CheckSiteTitle(in.Title), forum.CheckUser(in.Admin.Name, in.Admin.Email, password, forum.MinAdminPassword)...)
	if password != r.PostForm.Get("again") {
		v.Problems = append(v.Problems, forum.Problem{Field: "again", Text: "the two passwords differ"})
	}
	if len(v.Problems) > 0 {
		d.show(w, http.StatusUnprocessableEntity, v)
		return
	}
	err := d.Install(ctx, in, password)
	if err != nil && !errors.Is(err, forum.ErrInstalled) {
		d.Log.Error("not installed", zap.Error(err))
		refuse(http.StatusServiceUnavailable, "database", "the installation could not be kept; please try again soon")
		return
	}
	http.Redirect(w, r, "/install", http.StatusSeeOther)
}

// Install makes the forum with the administrator's password; forum.ErrInstalled when there is one.
func (d *Door) Install(ctx context.Context, in forum.Installation, password string) (err error) {
	if in.Admin.Password, err = d.Passwords.Hash(ctx, password); err != nil {
		return err
	}
	if err := d.Store.Install(ctx, in); err != nil {
		return err
	}
	d.Log.Info("the forum is installed", zap.String("administrator", in.Admin.Name))
	return nil
}
