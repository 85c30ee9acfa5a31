package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// Reader reads the source folder.
type Reader interface {
	// Scan lists the whole folder, forgets the changes that waited, and counts what is not copied.
	Scan(ctx context.Context) (members tree.Snapshot, skipped int, err error)
	// Lstat tells what is at path now.
	Lstat(path string) (tree.Entry, error)
	// Read opens a regular file with what it is now.
	Read(path string) (*os.File, tree.Entry, error)
	// Check returns an error when the folder is not there any more.
	Check() error
}

// Changes are the paths of the source folder whose copy may be old.
type Changes interface {
	// Changed has a token when there may be something to take.
	Changed() <-chan struct{}
	// Take removes and returns at most n paths that are due, the time at which the next one is, and whether the whole
	// folder has to be compared instead.
	Take(n int) (due []tree.Candidate, next time.Time, compare bool)
	// Retry takes a path back, to be taken again after the pause.
	Retry(c tree.Candidate, pause time.Duration)
	// Waiting is how many paths wait.
	Waiting() int
}

// Watched is a source folder under watch.
type Watched interface {
	Reader
	Changes
	// Run follows the changes until ctx ends or the folder is lost.
	Run(ctx context.Context) error
	// Close ends the watch, after Run.
	Close() error
}

// SourceConfig is what a source needs.
type SourceConfig struct {
	Pair    spec.Pair
	TLS     *tls.Config // nil only for a loopback address
	Open    func(path string) (Watched, error)
	Changed func() // called when the state changes; must not block
}

// Pauses of a source.
const (
	minBackoff   = 100 * time.Millisecond // after the first failure
	maxBackoff   = 5 * time.Second        // after many
	coalesce     = 2 * time.Millisecond   // changes that come so close together go together
	compareEvery = time.Second            // least pause between comparisons that lost events ask for
)

// Source carries one source folder over to its target.
type Source struct {
	cfg   SourceConfig
	board board
}

// NewSource makes the source side of a pair.
func NewSource(cfg SourceConfig) (*Source, error) {
	if err := mayGoWithoutTLS(cfg.Pair.Address, cfg.TLS); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, board: board{changed: cfg.Changed}}
	s.board.state = plan.State{Side: plan.Side{Role: plan.Source, Pair: cfg.Pair}}
	return s, nil
}

// State is how the source stands. Any goroutine may call it.
func (s *Source) State() plan.State { return s.board.read() }

// Release does nothing: what is held is held by the target.
func (s *Source) Release() {}

// Run opens the folder, connects and carries over, again and again, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var pause backoff
	for {
		err := s.watch(ctx, &pause)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.fail(err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

func (s *Source) fail(err error) {
	s.board.update(func(st *plan.State) {
		st.Connected, st.InSync, st.Error = false, false, err.Error()
	})
}

// watch serves one life of the watch: as long as the folder is the same directory and no event can have been missed
// without a trace.
func (s *Source) watch(ctx context.Context, pause *backoff) error {
	w, err := s.cfg.Open(s.cfg.Pair.Source.Path)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error {
		watched := false
		for {
			err := s.connect(ctx, w, &watched, pause)
			if lost := w.Check(); lost != nil {
				return lost
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.fail(err)
			if err := pause.wait(ctx); err != nil {
				return err
			}
		}
	})
	return errors.Join(g.Wait(), w.Close())
}

// connect serves one connection.
func (s *Source) connect(ctx context.Context, w Watched, watched *bool, pause *backoff) error {
	c, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to %s at %s: %w", s.cfg.Pair.Target.Node, s.cfg.Pair.Address, err)
	}
	ses := newSession(s, newConn(c), w, watched, pause)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // unblocks what reads and writes
	defer stop()
	defer c.Close() //nolint:errcheck // what matters was acknowledged or is sent again
	if err := ses.greet(); err != nil {
		return err
	}
	s.board.update(func(st *plan.State) { st.Connected, st.Error = true, "" })
	return ses.run(ctx)
}

func (s *Source) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", s.cfg.Pair.Address.String())
	if err != nil {
		return nil, err
	}
	c, err := asClient(ctx, raw, s.cfg.TLS, s.cfg.Pair.Target.Node)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// backoff is a pause that doubles.
type backoff struct{ last time.Duration }

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) wait(ctx context.Context) error {
	b.last = min(max(2*b.last, minBackoff), maxBackoff)
	return sleep(ctx, b.last)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
