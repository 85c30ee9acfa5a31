// Package web answers: what does a visitor see? Pages made on the server, which need no script.
package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"html/template"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// newestThreads is how many threads of all boards the front page shows.
const newestThreads = 15

// Users are the people, in the database.
type Users interface {
	CreateUser(context.Context, forum.User) (forum.ID, error)
	UserByName(ctx context.Context, name string) (forum.User, error)
	User(context.Context, forum.ID) (forum.User, error)
	RevokeSessions(context.Context, forum.ID) error
}

// Boards are the boards and the title above them, in the database.
type Boards interface {
	Title(context.Context) (title string, installed bool, err error)
	Boards(context.Context) ([]forum.Board, error)
	Board(context.Context, forum.ID) (forum.Board, error)
	CreateBoard(ctx context.Context, name, description string) (forum.ID, error)
}

// Threads are the threads and posts, in the database.
type Threads interface {
	Threads(ctx context.Context, board forum.ID, page forum.Page) ([]forum.Thread, error)
	NewestThreads(ctx context.Context, n int) ([]forum.Thread, error)
	Thread(context.Context, forum.ID) (forum.Thread, error)
	Posts(ctx context.Context, thread forum.ID, page forum.Page) ([]forum.Post, error)
	Attachment(context.Context, forum.ID) (forum.Attachment, error)
	CreateThread(ctx context.Context, board, author forum.ID, title, body string, files []forum.Attachment) (forum.ID, error)
	CreateReply(ctx context.Context, thread, author forum.ID, body string, files []forum.Attachment) (number int, err error)
}

// Store is the database.
type Store interface {
	Users
	Boards
	Threads
}

// Files are the attachments, wherever they are.
type Files interface {
	Save(ctx context.Context, from io.Reader, limit int64) (forum.File, error)
	Remove(ctx context.Context, path string) error
	// Open answers a file whose bytes are verified, and where it was read (local or origin).
	Open(context.Context, forum.File) (file io.ReadCloser, source string, err error)
}

// Sessions are the cookies.
type Sessions interface {
	// Login is the cookie that logs a user in, Logout the one that logs a browser out.
	Login(u forum.User, now time.Time) *http.Cookie
	Logout() *http.Cookie
	// Reader answers whose session a request has, and the user's epoch when it was issued; false when it has none.
	Reader(r *http.Request, now time.Time) (user forum.ID, epoch uint32, ok bool)
}

// Passwords hashes and checks passwords.
type Passwords interface {
	Hash(ctx context.Context, password string) (string, error)
	Check(ctx context.Context, password, hash string) (bool, error)
}

// Config is what the pages are made of.
type Config struct {
	Node           string // shown at the foot of every page
	Title          string // unless the installation has set one
	MaxUploadBytes int64  // of one file
	Store          Store
	Files          Files
	Sessions       Sessions
	Passwords      Passwords
	Log            *zap.Logger
}

// Site serves the pages.
type Site struct {
	Config
	mux   *http.ServeMux
	title atomic.Pointer[string] // the last one seen, for pages made without the database
}

// New makes the pages.
func New(c Config) *Site {
	s := &Site{Config: c, mux: http.NewServeMux()}
	s.Log = c.Log.Named("web")
	s.title.Store(&c.Title)
	for pattern, h := range map[string]func(*visit) error{
		"GET /{$}":             s.home,
		"GET /boards/{id}":     s.board,
		"POST /boards":         s.createBoard,
		"GET /boards/{id}/new": s.newThread,
		"GET /threads/{id}":    s.thread,
		"GET /register":        s.registerForm,
		"POST /register":       s.register,
		"GET /login":           s.loginForm,
		"POST /login":          s.login,
		"POST /logout":         s.logout,
		"GET /me":              s.me,
		"/":                    func(*visit) error { return forum.ErrNotFound },
	} {
		s.mux.Handle(pattern, s.page(pageTime, h))
	}
	for pattern, h := range map[string]func(*visit) error{
		"POST /boards/{id}/threads":        s.createThread,
		"POST /threads/{id}/replies":       s.createReply,
		"GET /attachments/{id}/{filename}": s.attachment,
	} {
		s.mux.Handle(pattern, s.page(transferTime, h))
	}
	s.mux.HandleFunc("GET /static/{name}", static)
	// What HAProxy's httpchk asks for by default.
	s.mux.HandleFunc("OPTIONS /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
	})
	return s
}

func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// visit is one request for a page.
type visit struct {
	w      http.ResponseWriter
	r      *http.Request
	now    time.Time
	viewer *forum.User // nil: not logged in
}

// errNotInstalled sends the visitor to the wizard.
var errNotInstalled = errors.New("the forum is not installed")

// page finds out who visits, makes the page within a time, and answers with another one when that cannot be done.
func (s *Site) page(budget time.Duration, h func(*visit) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), budget)
		defer cancel()
		r = r.WithContext(ctx)
		v := &visit{w: w, r: r, now: time.Now()}
		err := s.prepare(v)
		if err == nil {
			err = h(v)
		}
		switch {
		case err == nil:
		case errors.Is(err, errNotInstalled):
			http.Redirect(w, r, "/install", http.StatusSeeOther)
		case errors.Is(err, forum.ErrNotFound):
			s.message(v, http.StatusNotFound, "Not found", "There is nothing at this address.")
		case errors.Is(err, forum.ErrTampered):
			s.Log.Error("attachment is not what was uploaded", zap.Error(err))
			s.message(v, http.StatusBadGateway, "The file is damaged", "What is stored is not what was uploaded, so it is not shown.")
		case errors.Is(err, forum.ErrUploadsAway):
			v.w.Header().Set("Retry-After", "5")
			s.message(v, http.StatusServiceUnavailable, "The file cannot be read now", "The server that keeps files does not answer at the moment. Please try again soon.")
		case errors.Is(err, forum.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
			s.Log.Debug("page without database", zap.Error(err))
			v.w.Header().Set("Retry-After", "5")
			v.viewer = nil
			s.message(v, http.StatusServiceUnavailable, "The forum takes a short break", "The database does not answer at the moment. Nothing is lost; please try again soon.")
		case errors.Is(err, context.Canceled):
			// The visitor has gone.
		default:
			s.Log.Error("page not made", zap.String("path", r.URL.Path), zap.Error(err))
			s.message(v, http.StatusInternalServerError, "Something went wrong", "The fault is ours and has been noted.")
		}
	})
}

// How long a request may take.
const (
	pageTime     = 10 * time.Second
	transferTime = 10 * time.Minute // with files
)

// prepare finds out whether there is a forum, and who visits it.
func (s *Site) prepare(v *visit) error {
	ctx, cancel := context.WithTimeout(v.r.Context(), pageTime)
	defer cancel()
	title, installed, err := s.Store.Title(ctx)
	if err != nil {
		return err
	}
	if !installed {
		return errNotInstalled
	}
	if title == "" {
		title = s.Title
	}
	s.title.Store(&title)
	id, epoch, ok := s.Sessions.Reader(v.r, v.now)
	if !ok {
		return nil
	}
	u, err := s.Store.User(ctx, id)
	if errors.Is(err, forum.ErrNotFound) || err == nil && u.Epoch != epoch {
		return nil // gone, or logged out everywhere
	}
	if err != nil {
		return err
	}
	v.viewer = &u
	return nil
}

// id is the id in the path.
func (v *visit) id() (forum.ID, error) {
	n, err := strconv.ParseUint(v.r.PathValue("id"), 10, 63)
	if err != nil {
		return 0, forum.ErrNotFound
	}
	return forum.ID(n), nil
}

// page is the page of a list that the address asks for. Not Request.FormValue, which takes in the body of a GET too:
// 32 MiB of it into memory and the rest onto the disk.
func (v *visit) page() int { return forum.ParsePage(v.r.URL.Query().Get("page")) }

// toLogin sends a visitor who has to log in first to do so, and back.
func (v *visit) toLogin(back string) error {
	http.Redirect(v.w, v.r, "/login?next="+template.URLQueryEscaper(back), http.StatusSeeOther)
	return nil
}

// to sends the visitor on. The target is a path, so it stays behind the load balancer whatever that is called.
func (v *visit) to(target string) error {
	http.Redirect(v.w, v.r, target, http.StatusSeeOther)
	return nil
}

//go:embed templates/*.html
var templateFiles embed.FS

// templates holds one template for each page, each with the layout around it.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	names, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err)
	}
	funcs := template.FuncMap{
		"when":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
		"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"size":   Size,
		"styles": func() string { return stylesPath },
	}
	all := map[string]*template.Template{}
	for _, n := range names {
		all[strings.TrimSuffix(n.Name(), ".html")] = template.Must(template.New("layout.html").Funcs(funcs).
			ParseFS(templateFiles, "templates/layout.html", "templates/parts.html", "templates/"+n.Name()))
	}
	return all
}

// Size is a number of bytes for a person.
func Size(n int64) string {
	switch {
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + " bytes"
	case n < 1<<20:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB"
}

// view is what a template gets.
type view struct {
	Heading   string // of the page
	SiteTitle string
	Viewer    *forum.User
	Node      string
	Problems  []forum.Problem
	Form      map[string]string // what was filled in, to be shown again
	Uploads   uploads
	Content   any
}

// uploads is what a form says about files.
type uploads struct {
	MaxFiles int
	MaxBytes int64
}

// Problem is what is wrong with a field; empty when nothing is.
func (v view) Problem(field string) string {
	for _, p := range v.Problems {
		if p.Field == field {
			return p.Text
		}
	}
	return ""
}

func (s *Site) render(v *visit, code int, name string, p view) error {
	p.SiteTitle, p.Viewer, p.Node = *s.title.Load(), v.viewer, s.Node
	p.Uploads = uploads{forum.MaxFiles, s.MaxUploadBytes}
	var b bytes.Buffer
	if err := templates[name].Execute(&b, p); err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	v.w.WriteHeader(code)
	_, _ = v.w.Write(b.Bytes()) // a visitor who has gone is nobody's error
	return nil
}

// message is a page with a heading and a sentence.
func (s *Site) message(v *visit, code int, heading, text string) {
	if err := s.render(v, code, "message", view{Heading: heading, Content: text}); err != nil {
		s.Log.Error("page not made", zap.Error(err))
		http.Error(v.w, heading, code)
	}
}

//go:embed static
var staticFiles embed.FS

// stylesPath is where the style sheet is.
const stylesPath = "/static/style.css"

func static(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	http.ServeFileFS(w, r, staticFiles, path.Join("static", r.PathValue("name")))
}
