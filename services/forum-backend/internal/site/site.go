// Package site answers: what is this server running at present? It opens the database, the files, the keys and the
// listener that a plan asks for, puts the pages together from them, and replaces one without disturbing the others.
package site

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/install"
	"github.com/twotier/twotier/services/forum-backend/internal/media"
	"github.com/twotier/twotier/services/forum-backend/internal/plan"
	"github.com/twotier/twotier/services/forum-backend/internal/relay"
	"github.com/twotier/twotier/services/forum-backend/internal/session"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
	"github.com/twotier/twotier/services/forum-backend/internal/store"
	"github.com/twotier/twotier/services/forum-backend/internal/web"
	"github.com/twotier/twotier/services/internal/logging"
)

// Limits of the HTTP server. Uploads and downloads get longer, from the handlers.
const (
	ReadHeaderTimeout = 10 * time.Second
	ReadTimeout       = 30 * time.Second
	WriteTimeout      = 30 * time.Second
	IdleTimeout       = 75 * time.Second // longer than a router keeps an idle connection
	MaxHeaderBytes    = 32 << 10
	StopTimeout       = 5 * time.Second // for requests under way when serving stops
)

// Limits of the passes.
const (
	lookTime    = 3 * time.Second // to see how the database is
	migrateTime = 2 * time.Minute // includes waiting for the server that migrates first
	maxSecret   = 64 << 10        // bytes of a password or key file
)

// Config is what a site starts from.
type Config struct {
	Node string
	Log  *zap.Logger
	// Listening is told when the pages begin and cease to be served.
	Listening func(bool)
}

// Site is what runs. Observe, Apply and Run's end belong to the reconcile loop; Facts may be called from anywhere.
type Site struct {
	cfg       Config
	log       *zap.Logger
	passwords *session.Passwords
	handler   atomic.Pointer[http.Handler] // what the listener serves

	mu     sync.Mutex // for Facts: held to read or replace the fields below, never across anything that takes time
	used   plan.Have  // without what is looked up each time
	keys   *session.Keys
	db     *store.DB
	folder *media.Folder
	files  *relay.Files
	door   *install.Door

	serving *serving
}

// serving is one listener.
type serving struct {
	server *http.Server
	ended  chan struct{} // closed when it no longer accepts
}

// New makes a site that serves nothing.
func New(cfg Config) *Site {
	return &Site{cfg: cfg, log: cfg.Log.Named("site"), passwords: session.NewPasswords()}
}

// Observe looks at what runs, and at the files and the database that want names. A database that does not answer is not
// an error: it is what Have says.
func (s *Site) Observe(ctx context.Context, want spec.Want) (plan.Have, error) {
	if s.serving != nil {
		select {
		case <-s.serving.ended: // by itself
			s.stop()
		default:
		}
	}
	have := s.used
	have.LatestSchema = store.LatestSchema()
	if want.Site == nil {
		return have, nil
	}
	var err error
	if have.OnDisk, err = secretsOf(want.Site); err != nil {
		return plan.Have{}, err
	}
	if s.db == nil {
		return have, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if have.Schema, err = s.db.Schema(ctx); err == nil {
		_, have.Installed, err = s.db.Title(ctx)
	}
	if err != nil {
		s.log.Debug("database not seen", zap.Error(err))
		have.Schema, have.Installed = 0, false
	}
	return have, nil
}

func secretsOf(want *spec.Site) (plan.Secrets, error) {
	password, err := secret(want.Database.PasswordFile)
	if err != nil {
		return plan.Secrets{}, err
	}
	key, err := content(want.KeyFile)
	return plan.Secrets{Database: fingerprint(password), Key: fingerprint(key)}, err
}

// secret reads a password without the line break at its end. No name, no password.
func secret(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	b, err := content(name)
	return bytes.TrimRight(b, "\r\n"), err
}

// content reads a small file as it is: the bytes of a key may be any, a line break too.
func content(name string) ([]byte, error) {
	i, err := os.Stat(name)
	if err == nil && i.Size() > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	return b, nil
}

func fingerprint(secret []byte) plan.Fingerprint {
	sum := sha256.Sum256(secret)
	return plan.Fingerprint(hex.EncodeToString(sum[:16]))
}

// Apply does one change. It can be done again.
func (s *Site) Apply(ctx context.Context, c plan.Change) error {
	var err error
	switch want := c.Site; c.Kind {
	case plan.StopServing:
		s.stop()
		if want == nil {
			s.closeAll()
		}
		return nil
	case plan.UseKey:
		err = s.useKey(want)
	case plan.UseDatabase:
		err = s.useDatabase(want)
	case plan.UseSettings:
		s.set(func(h *plan.Have) { h.Title, h.MaxUploadBytes = want.Title, want.MaxUploadBytes })
	case plan.Serve:
		err = s.serve(ctx, want)
	case plan.UseFiles:
		err = s.useFiles(want)
	case plan.EnsureTables:
		return s.ensureTables(ctx, want)
	case plan.Install:
		return s.install(ctx, want.Unattended)
	default:
		return fmt.Errorf("unknown change %d", c.Kind)
	}
	if err == nil {
		s.assemble(c.Site)
	}
	return err
}

func (s *Site) set(change func(*plan.Have)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.used)
}

func (s *Site) useKey(want *spec.Site) error {
	b, err := content(want.KeyFile)
	if err != nil {
		return err
	}
	keys, err := session.NewKeys(b, want.Lifetime)
	if err != nil {
		return fmt.Errorf("%s: %w", want.KeyFile, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = keys
	s.used.KeyFile, s.used.Lifetime, s.used.Used.Key = want.KeyFile, want.Lifetime, fingerprint(b)
	if s.folder != nil { // servers prove who they are with the same key
		s.connect(want)
	}
	return nil
}

func (s *Site) useDatabase(want *spec.Site) error {
	password, err := secret(want.Database.PasswordFile)
	if err != nil {
		return err
	}
	db, err := store.Open(store.Config{
		Network: want.Database.Network, Address: want.Database.Address, Name: want.Database.Name,
		User: want.Database.User, Password: string(password),
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	old := s.db
	s.db = db
	s.used.Database, s.used.Used.Database = want.Database, fingerprint(password)
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

func (s *Site) useFiles(want *spec.Site) error {
	folder, err := media.Open(want.Self.FilesPath, want.IsOrigin())
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.folder = folder
	s.connect(want)
	s.used.FilesPath, s.used.Origin, s.used.IsOrigin = want.Self.FilesPath, want.Origin, want.IsOrigin()
	return nil
}

// connect makes the way to the files anew. The caller holds mu.
func (s *Site) connect(want *spec.Site) {
	if s.files != nil {
		s.files.Close()
	}
	origin := want.Origin.Address
	if want.IsOrigin() {
		origin = ""
	}
	s.files = relay.New(s.folder, s.keys.Relay(), origin)
}

// assemble puts the pages together from what there is. Requests under way keep the pages that they have begun with.
func (s *Site) assemble(want *spec.Site) {
	if s.keys == nil || s.db == nil {
		return
	}
	uploads := "kept on this server"
	if !want.IsOrigin() {
		uploads = fmt.Sprintf("passed on to %s at %s", want.Origin.Node, want.Origin.Address)
	}
	door := install.New(install.Config{
		Node: s.cfg.Node, Title: want.Title, FilesPath: want.Self.FilesPath, Uploads: uploads, LatestSchema: store.LatestSchema(),
		Database: fmt.Sprintf("%s at %s as %s", want.Database.Name, want.Database.Address, want.Database.User),
		Store:    s.db, FilesReady: filesReady(s.folder), Passwords: s.passwords, Key: s.keys.Setup(), Log: s.cfg.Log,
	})
	mux := http.NewServeMux()
	for _, p := range install.Patterns() {
		mux.Handle(p, door)
	}
	if want.IsOrigin() && s.folder != nil {
		h := relay.NewHandler(s.folder, s.keys.Relay(), want.MaxUploadBytes, s.cfg.Log)
		mux.Handle(relay.Prefix, h)
		mux.Handle(relay.Prefix+"/", h)
	}
	mux.Handle("/", web.New(web.Config{
		Node: s.cfg.Node, Title: want.Title, MaxUploadBytes: want.MaxUploadBytes,
		Store: s.db, Files: attachments{s.files}, Sessions: cookies{s.keys}, Passwords: s.passwords, Log: s.cfg.Log,
	}))
	guarded := web.Guard(s.cfg.Node, s.cfg.Log, mux)
	s.handler.Store(&guarded)
	s.mu.Lock()
	s.door = door
	s.mu.Unlock()
}

func (s *Site) serve(ctx context.Context, want *spec.Site) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", want.Self.Address)
	if err != nil {
		return err
	}
	s.assemble(want)
	errorLog, err := zap.NewStdLogAt(s.log, zap.DebugLevel) // what visitors do wrong is not our error
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	now := &serving{ended: make(chan struct{}), server: &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: ReadHeaderTimeout, ReadTimeout: ReadTimeout, WriteTimeout: WriteTimeout, IdleTimeout: IdleTimeout,
		MaxHeaderBytes: MaxHeaderBytes, ErrorLog: errorLog,
	}}
	go func() { // ends when stop closes the server, which then waits for ended
		defer close(now.ended)
		if err := now.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serving ended", zap.Error(err))
		}
	}()
	s.serving = now
	s.set(func(h *plan.Have) { h.Serving = want.Self.Address })
	s.cfg.Listening(true)
	s.log.Info("serving", logging.Address(listener.Addr().String()))
	return nil
}

// stop ends serving; requests under way get StopTimeout.
func (s *Site) stop() {
	if s.serving == nil {
		return
	}
	s.cfg.Listening(false)
	ctx, cancel := context.WithTimeout(context.Background(), StopTimeout)
	defer cancel()
	if err := s.serving.server.Shutdown(ctx); err != nil {
		_ = s.serving.server.Close() // those that did not end in time
	}
	<-s.serving.ended
	s.serving = nil
	s.set(func(h *plan.Have) { h.Serving = "" })
	s.log.Info("not serving")
}

func (s *Site) closeAll() {
	s.mu.Lock()
	db, files := s.db, s.files
	s.db, s.folder, s.files, s.keys, s.door, s.used = nil, nil, nil, nil, nil, plan.Have{}
	s.mu.Unlock()
	if files != nil {
		files.Close()
	}
	if db != nil {
		db.Close()
	}
}

// Close ends everything. Call it after the last pass.
func (s *Site) Close() {
	s.stop()
	s.closeAll()
}

func (s *Site) ensureTables(ctx context.Context, want *spec.Site) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTime)
	defer cancel()
	if err := s.db.Migrate(ctx); err != nil {
		return err
	}
	if want.Unattended != nil {
		return nil
	}
	return s.door.Announce(ctx)
}

func (s *Site) install(ctx context.Context, u *spec.Unattended) error {
	password, err := secret(u.AdminPasswordFile)
	if err != nil {
		return err
	}
	if ps := forum.CheckUser(u.AdminName, u.AdminEmail, string(password), forum.MinAdminPassword); ps != nil {
		return fmt.Errorf("install: %s: %s", ps[0].Field, ps[0].Text)
	}
	// No title: the one in the desired state stays in force.
	err = s.door.Install(ctx, forum.Installation{Admin: forum.User{Name: u.AdminName, Email: u.AdminEmail, Admin: true}}, string(password))
	if errors.Is(err, forum.ErrInstalled) {
		return nil // by the other server
	}
	return err
}

// Facts asks the database and the upload origin how they are.
func (s *Site) Facts(ctx context.Context) plan.Facts {
	s.mu.Lock()
	db, files, facts := s.db, s.files, plan.Facts{IsOrigin: s.used.IsOrigin}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if files != nil {
		facts.UploadsAvailable = files.Available(ctx) == nil
	}
	if db == nil {
		return facts
	}
	var err error
	if facts.DatabaseVersion, err = db.Version(ctx); err != nil {
		return facts
	}
	facts.DatabaseAvailable = true
	if _, facts.Installed, err = db.Title(ctx); err == nil && facts.Installed {
		facts.Counts, err = db.Counts(ctx)
	}
	if err != nil {
		s.log.Debug("facts not complete", zap.Error(err))
	}
	return facts
}
