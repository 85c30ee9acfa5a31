package desired

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/logging"
)

// Why a change was not taken.
var (
	// ErrConflict: the stored object has another etag.
	ErrConflict = errors.New("the stored object has another etag")
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("there is no such object")
	// ErrUnavailable: etcd does not answer. A change that was under way may have been stored all the same.
	ErrUnavailable = errors.New("etcd does not answer")
	// ErrHistory: this etcd is not the continuation of the one known before, and nobody has accepted it yet.
	ErrHistory = errors.New("this etcd is not the continuation of the one known before; reconcile with restore_desired writes back what is in force, with accept_new_history it rules as it is")
	// ErrEmptyHistory: this etcd holds nothing, and letting it rule would take away everything that is in force.
	ErrEmptyHistory = errors.New("this etcd holds no object; reconcile with restore_desired writes back what is in force")
	// ErrTooLarge: the object is larger than MaxObject.
	ErrTooLarge = fmt.Errorf("the object is larger than %d bytes", MaxObject)
	// ErrUnknownKind: this service has no such kind.
	ErrUnknownKind = errors.New("this service has no such kind of object")
)

// ReadOnlyError: the desired state comes from a file, which is where it is changed.
type ReadOnlyError struct {
	// Path of the file or folder.
	Path string
}

// Error names the file.
func (e *ReadOnlyError) Error() string {
	return "the desired state comes from " + e.Path + "; change it there"
}

// Config of a store. Exactly one of Etcd and Path is set.
type Config struct {
	// Service whose objects these are. Example: l7-router
	Service string
	// Kinds of objects that the service knows.
	Kinds []Kind
	// Etcd endpoints. Example: https://10.99.0.2:2379
	Etcd []string
	// TLS towards etcd. nil: plain text.
	TLS *tls.Config
	// Path of a YAML file, or of a folder of *.yaml files.
	Path string
	// StateDir is where the last good copy is kept. Empty: nowhere, so that a restart without etcd starts without state.
	StateDir string
	// Log of what happens to the source.
	Log *zap.Logger
}

// source is where snapshots come from.
type source interface {
	run(ctx context.Context) error
	put(ctx context.Context, kind string, m proto.Message, etag string) (revision int64, err error)
	remove(ctx context.Context, kind, name, etag string) (revision int64, err error)
	close() error
}

// Store is the desired state of one service.
type Store struct {
	log     *zap.Logger
	kinds   []Kind
	source  source
	copies  *copies
	changed chan struct{}

	mu        sync.Mutex
	newest    Snapshot      // the newest that rules
	loaded    bool          // there is a newest
	saved     *Snapshot     // the last good copy, until the loop has had it or has something newer in force
	waiting   bool          // for the source; saved is held back meanwhile
	wrong     bool          // the loop has nothing in force and has refused the newest
	copied    Snapshot      // what the last good copy on disk holds
	seen      history       // of everything that has ruled
	available bool          // the source answers
	held      *Snapshot     // of an etcd that must not rule yet
	alarm     string        // why it must not
	moved     chan struct{} // closed at each change of seen and of held
}

// Open reads the last good copy. It does not wait for etcd; Run brings what is newer.
func Open(cfg Config) (*Store, error) {
	if (len(cfg.Etcd) == 0) == (cfg.Path == "") {
		return nil, errors.New("desired state: want either etcd or a file")
	}
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	s := &Store{
		log:     log.Named("desired"),
		kinds:   cfg.Kinds,
		changed: make(chan struct{}, 1),
		moved:   make(chan struct{}),
	}
	origin := commonv1.Origin_ORIGIN_ETCD
	if cfg.Path != "" {
		origin = commonv1.Origin_ORIGIN_FILE
	}
	var err error
	if s.copies, err = openCopies(cfg.StateDir, cfg.Service, origin); err != nil {
		return nil, fmt.Errorf("desired state: %w", err)
	}
	s.restore()
	if cfg.Path != "" {
		s.source = newFiles(s, cfg.Path)
		return s, nil
	}
	if s.source, err = openEtcd(s, cfg); err != nil {
		return nil, fmt.Errorf("desired state: %w", err)
	}
	return s, nil
}

// restore takes the last good copy in, if there is one. One that cannot be used is as good as none: the service must start.
func (s *Store) restore() {
	saved, err := s.copies.load(s.kinds)
	if err != nil {
		s.log.Error("last good copy cannot be used", logging.Path(s.copies.path), zap.Error(err))
	}
	s.seen = saved.history
	if err != nil || saved.Origin == commonv1.Origin_ORIGIN_UNSPECIFIED {
		return
	}
	s.newest, s.loaded, s.copied, s.saved, s.waiting = saved, true, saved, &saved, true
	s.log.Info("last good copy found", logging.Revision(saved.Revision), logging.Count(len(saved.Objects)))
}

// SourceWait is how long after the start the loop waits for the source before it gets the last good copy instead: what
// the copy holds may have been moved or deleted meanwhile, and must not come back even for a moment.
const SourceWait = 2 * time.Second

// Run follows the source until ctx ends, which is no error. Call it once.
func (s *Store) Run(ctx context.Context) error {
	late := time.AfterFunc(SourceWait, s.stopWaiting)
	defer late.Stop()
	return errors.Join(s.source.run(ctx), s.source.close())
}

// Changed gets a kick when there is a newer snapshot, or when what Describe tells has changed. Kicks are coalesced.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// stopWaiting lets the loop have the last good copy if the source has not answered.
func (s *Store) stopWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting && s.newest.Origin == commonv1.Origin_ORIGIN_LAST_GOOD {
		s.log.Warn("the source has not answered yet; last good copy is in force", logging.Revision(s.newest.Revision))
		s.kick()
	}
	s.waiting = false
}

// Snapshot is the newest snapshot, for the loop; false before there is any. Without an answer of the source within
// SourceWait, or with one that is held off, it is the last good copy. When the loop has refused the newest and has
// nothing else in force, which it tells through Describe, it gets the last good copy once and then the newest again.
func (s *Store) Snapshot() (Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.wrong && s.saved != nil:
		saved := *s.saved
		s.saved = nil
		s.kick()
		return saved, true
	case s.waiting && s.newest.Origin == commonv1.Origin_ORIGIN_LAST_GOOD:
		return Snapshot{}, false
	}
	return s.newest, s.loaded
}

// Newest is the newest snapshot, for everyone but the loop; false before there is any.
func (s *Store) Newest() (Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest, s.loaded
}

// Kind finds a kind by its name.
func (s *Store) Kind(name string) (Kind, bool) {
	i := slices.IndexFunc(s.kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return s.kinds[i], true
}

// ReadOnly is the reason why nothing can be stored; nil when something can.
func (s *Store) ReadOnly() error {
	if files, ok := s.source.(*files); ok {
		return &ReadOnlyError{Path: files.path}
	}
	return nil
}

// Accept says that a snapshot is valid and in force. It becomes the last good copy. Only the loop calls it.
func (s *Store) Accept(snapshot Snapshot) error {
	s.mu.Lock()
	same := snapshot.Origin == commonv1.Origin_ORIGIN_LAST_GOOD || s.copied.Origin == snapshot.Origin &&
		s.copied.Revision == snapshot.Revision && s.copied.history.cluster == snapshot.history.cluster
	s.mu.Unlock()
	if same {
		return nil
	}
	if err := s.copies.save(snapshot); err != nil {
		return fmt.Errorf("keep the last good copy: %w", err)
	}
	s.mu.Lock()
	s.copied, s.saved = snapshot, nil
	s.mu.Unlock()
	return nil
}

// Describe tells which desired state is in force, for the status. inForce is the revision of the snapshot in force, 0 for
// none; violations are why the newest one is not. With violations and nothing in force, Snapshot answers the last good
// copy next, if there is one.
func (s *Store) Describe(inForce int64, violations []*commonv1.Violation) *commonv1.DesiredState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if inForce == 0 && len(violations) > 0 && s.saved != nil && s.newest.Origin != commonv1.Origin_ORIGIN_LAST_GOOD {
		s.wrong = true
		s.kick()
	}
	d := &commonv1.DesiredState{
		Revision:        inForce,
		SeenRevision:    s.newest.Revision,
		SourceAvailable: s.available,
		Violations:      violations,
		HistoryAlarm:    s.alarm,
	}
	switch {
	case inForce == 0:
	case inForce == s.newest.Revision || s.newest.Origin == commonv1.Origin_ORIGIN_LAST_GOOD:
		d.Origin = s.newest.Origin
	case s.copied.Origin == commonv1.Origin_ORIGIN_LAST_GOOD && inForce == s.copied.Revision:
		d.Origin = commonv1.Origin_ORIGIN_LAST_GOOD
	default:
		d.Origin = s.newest.Origin
	}
	return d
}

// Limits of a change.
const (
	// WriteTimeout is how long etcd may take to store or delete an object.
	WriteTimeout = 5 * time.Second
	// echoTimeout is how long a change may take to come back through the watch before Put and Delete return anyway.
	echoTimeout = 2 * time.Second
)

// Put stores an object. With an etag, only if the stored one still has it; "0" means that none is stored. The change
// comes back as a new snapshot, as a rule before Put returns. The caller has validated it.
func (s *Store) Put(ctx context.Context, kind string, m proto.Message, etag string) (newEtag string, err error) {
	if _, ok := s.Kind(kind); !ok {
		return "", ErrUnknownKind
	}
	if err := s.writable(); err != nil {
		return "", err
	}
	revision, err := s.source.put(ctx, kind, m, etag)
	if err != nil {
		return "", fmt.Errorf("store %s: %w", key(kind, NameOf(m)), err)
	}
	s.awaitEcho(ctx, revision)
	return decimal(revision), nil
}

// Delete removes an object. Etag and errors as in Put, and ErrNotFound.
func (s *Store) Delete(ctx context.Context, kind, name, etag string) error {
	if err := s.writable(); err != nil {
		return err
	}
	revision, err := s.source.remove(ctx, kind, name, etag)
	if err != nil {
		return fmt.Errorf("delete %s: %w", key(kind, name), err)
	}
	s.awaitEcho(ctx, revision)
	return nil
}

// writable refuses to write to an etcd whose history has not been checked: it might be another one.
func (s *Store) writable() error {
	if err := s.ReadOnly(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.alarm != "":
		return ErrHistory
	case !s.available:
		return ErrUnavailable
	}
	return nil
}

// awaitEcho waits for a change to come back, so that who applies two objects, one after the other, has the second one
// checked together with the first.
func (s *Store) awaitEcho(ctx context.Context, revision int64) {
	s.await(ctx, func() bool { return s.seen.revision >= revision })
}

// await waits until something is so, which it asks with mu held; false when that takes too long.
func (s *Store) await(ctx context.Context, so func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, echoTimeout)
	defer cancel()
	for {
		s.mu.Lock()
		reached, moved := so(), s.moved
		s.mu.Unlock()
		if reached {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// AcceptNewHistory lets an etcd rule that was held off. Without a history alarm it does nothing, so that nobody can
// agree in advance to what they have not seen. ErrEmptyHistory: it holds nothing, while something is in force.
func (s *Store) AcceptNewHistory() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.held == nil:
		return nil
	case len(s.held.history.keys) == 0 && len(s.newest.Objects) > 0:
		return ErrEmptyHistory
	}
	s.log.Warn("new history accepted", logging.Reason(s.alarm), logging.Revision(s.held.Revision), logging.Count(len(s.held.Objects)))
	next := *s.held
	s.held, s.alarm = nil, ""
	s.publish(next)
	return nil
}

// RestoreDesired writes the objects in force into an etcd that is held off, where it lacks them, and then lets it rule.
// Several nodes may do so at once. Without a history alarm it does nothing.
func (s *Store) RestoreDesired(ctx context.Context) error {
	s.mu.Lock()
	held, objects := s.held != nil, s.newest.Objects
	s.mu.Unlock()
	if !held {
		return nil
	}
	var last int64
	for _, o := range objects {
		revision, err := s.source.put(ctx, o.Kind, o.Message, "0")
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("restore %s: %w", key(o.Kind, o.Name), err)
		}
		last = max(last, revision)
	}
	if !s.await(ctx, func() bool {
		return s.held == nil || s.held.Revision >= last && len(s.held.history.keys) >= len(objects)
	}) {
		return fmt.Errorf("restore: %w: what was written has not come back", ErrUnavailable)
	}
	return s.AcceptNewHistory()
}

// offerWhole takes in a state that was read as a whole, after which anything may have happened since the last one.
func (s *Store) offerWhole(next Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := s.seen.breaks(next.history)
	if why != "" {
		why += fmt.Sprintf("; it holds %d objects, %d are in force", len(next.history.keys), len(s.newest.Objects))
	}
	if why == "" {
		if s.alarm != "" {
			s.log.Info("the etcd known before is back", logging.Revision(next.Revision))
		}
		s.held, s.alarm = nil, ""
		s.publish(next)
		return
	}
	if s.alarm != why {
		s.log.Error("etcd is not the continuation of the one known before and is held off", logging.Reason(why), logging.Revision(next.Revision))
	}
	s.held, s.alarm, s.waiting = &next, why, false
	s.kick()
}

// offerNext takes in the state after the one offered last, with nothing missed between them.
func (s *Store) offerNext(next Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		s.held = &next
		s.signalMoved()
		return
	}
	s.publish(next)
}

// offerProgress takes in that nothing of ours has changed up to a revision.
func (s *Store) offerProgress(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil && revision > s.seen.revision {
		s.seen.revision = revision
		s.signalMoved()
	}
}

// setAvailable takes in whether the source answers. err is why it does not.
func (s *Store) setAvailable(available bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.available == available {
		return
	}
	s.available = available
	if available {
		s.log.Info("source answers")
	} else {
		s.log.Warn("source does not answer; the last good state stays", zap.Error(err))
	}
	s.kick()
}

// publish makes next the newest. The caller holds mu.
func (s *Store) publish(next Snapshot) {
	s.newest, s.loaded, s.seen = next, true, next.history
	s.signalMoved()
	s.kick()
}

// signalMoved wakes those who wait for a revision. The caller holds mu.
func (s *Store) signalMoved() {
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *Store) kick() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
