package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twotier/twotier/services/file-sync/internal/access"
	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// Folder is the target folder. One goroutine at a time uses it, but for Unowned.
type Folder interface {
	Scanner
	Changer
	// Check returns an error when the folder's path leads elsewhere by now.
	Check() error
	// Unowned is how often an owner could not be set.
	Unowned() uint64
	// Close lets go of the folder.
	Close() error
}

// Scanner reads the target folder.
type Scanner interface {
	// Scan lists the folder and removes what was left half-written.
	Scan(ctx context.Context) (tree.Snapshot, error)
	// Rules are what counts as a difference.
	Rules() tree.Rules
}

// Changer changes the target folder, and nothing outside it.
type Changer interface {
	// Remove removes a path with all beneath it.
	Remove(path string) error
	// Dir makes a directory; with final it also gets mode, owner and time.
	Dir(e tree.Entry, final bool) error
	// Symlink makes a symlink.
	Symlink(e tree.Entry) error
	// Meta sets mode, owner and time; tree.ErrStale when the content is another.
	Meta(e tree.Entry) error
	// Create begins a file.
	Create(e tree.Entry) (Incoming, error)
}

// Incoming is a file that is being received. It has no final name before Commit.
type Incoming interface {
	io.Writer
	// Commit gives the file its final name if its content has this SHA-256.
	Commit(sum [32]byte) error
	// Abort throws it away.
	Abort() error
}

// TargetConfig is what a target needs.
type TargetConfig struct {
	Pair    spec.Pair
	TLS     *tls.Config // nil only for a loopback address
	Open    func(path string) (Folder, error)
	Brake   tree.Brake
	Changed func() // called when the state changes; must not block
}

// Caps of a target.
const (
	maxPeers   = 8         // connections at a time that have not shown yet who they are
	maxMembers = 2 << 20   // members of one list
	maxList    = 512 << 20 // bytes of paths in one list
)

// Target takes one folder's state from its source.
type Target struct {
	cfg      TargetConfig
	allow    access.List
	listener net.Listener
	board    board
	turn     chan struct{} // holds one token; who has it has the folder
	folder   Folder        // of who has the turn

	mu       sync.Mutex // guards what follows
	greeting []net.Conn // those that have not shown yet who they are, oldest first
	leave    context.CancelFunc
	live     *intake
	held     int // deletes that wait for a person; 0: none
	released int // deletes that a person has agreed to
}

// NewTarget makes the target side of a pair and listens, so that the source finds it from now on.
func NewTarget(ctx context.Context, cfg TargetConfig) (*Target, error) {
	if err := mayGoWithoutTLS(cfg.Pair.Address, cfg.TLS); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Pair.Address.String())
	if err != nil {
		return nil, fmt.Errorf("listen for the source: %w", err)
	}
	t := &Target{cfg: cfg, allow: access.New(cfg.Pair.Allow), listener: l, board: board{changed: cfg.Changed}, turn: make(chan struct{}, 1)}
	if len(cfg.Pair.Allow) == 0 {
		t.allow = access.Loopback()
	}
	t.board.state = plan.State{Side: plan.Side{Role: plan.Target, Pair: cfg.Pair}}
	return t, nil
}

// State is how the target stands. Any goroutine may call it.
func (t *Target) State() plan.State { return t.board.read() }

// Release agrees to the deletes that are held, and to no more than those.
func (t *Target) Release() {
	t.mu.Lock()
	live := t.live
	t.released, t.held = max(t.released, t.held), 0
	t.mu.Unlock()
	if live != nil {
		live.wake()
	}
}

// Run serves the source until ctx ends.
func (t *Target) Run(ctx context.Context) error {
	t.turn <- struct{}{}
	if err := t.open(ctx); err != nil {
		t.fail(err) // tried again with each connection
	}
	stop := context.AfterFunc(ctx, func() { _ = t.listener.Close() }) // ends Accept
	defer stop()
	defer t.listener.Close() //nolint:errcheck // so that the address is free when Run returns
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		<-t.turn
		if t.folder != nil {
			_ = t.folder.Close() // a handle without data
		}
	}()
	for {
		raw, err := t.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = raw.Close() // came too late
			}
			return ctx.Err()
		}
		if err != nil {
			t.fail(fmt.Errorf("accept: %w", err)) // out of descriptors, most likely
			if err := sleep(ctx, minBackoff); err != nil {
				return err
			}
			continue
		}
		peer, err := netip.ParseAddrPort(raw.RemoteAddr().String())
		if err != nil || !t.allow.Allows(peer.Addr()) {
			t.refused(raw, errors.New("its address is not in target.allow"))
			continue
		}
		t.admit(raw)
		wg.Go(func() { t.serve(ctx, raw) })
	}
}

// admit lets a peer begin to greet. When too many do, the one that began first goes: those that say nothing must not keep
// the source out, which needs a moment only.
func (t *Target) admit(raw net.Conn) {
	t.mu.Lock()
	t.greeting = append(t.greeting, raw)
	var oldest net.Conn
	if len(t.greeting) > maxPeers {
		oldest = t.greeting[0]
		t.greeting = slices.Delete(t.greeting, 0, 1)
	}
	t.mu.Unlock()
	if oldest != nil {
		t.refused(oldest, errors.New("too many connections"))
	}
}

// greeted ends a greeting; false when admit has ended it.
func (t *Target) greeted(raw net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.greeting, raw)
	if i < 0 {
		return false
	}
	t.greeting = slices.Delete(t.greeting, i, i+1)
	return true
}

func (t *Target) fail(err error) {
	t.board.update(func(st *plan.State) { st.InSync, st.Error = false, err.Error() })
}

// refused shuts the door. The state says so without giving up what it says of the pair itself.
func (t *Target) refused(raw net.Conn, why error) {
	_ = raw.Close()
	peer, _, _ := net.SplitHostPort(raw.RemoteAddr().String()) // without the port, so that repeats look the same
	t.board.update(func(st *plan.State) {
		st.Refused++
		if !st.Connected && !st.Held {
			st.Error = fmt.Sprintf("refused %s: %v", peer, why)
		}
	})
}

// serve serves one connection.
func (t *Target) serve(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // unblocks what reads and writes
	defer stop()
	c, err := t.greet(ctx, raw)
	if !t.greeted(raw) {
		return // and refused
	}
	if err != nil {
		t.refused(raw, err)
		return
	}
	defer raw.Close() //nolint:errcheck // what was acknowledged is done

	// The newest connection is the one that lives: the source makes one at a time.
	t.mu.Lock()
	if t.leave != nil {
		t.leave()
	}
	t.leave = cancel
	t.mu.Unlock()
	select {
	case <-t.turn:
	case <-ctx.Done():
		return
	}
	defer func() { t.turn <- struct{}{} }()
	err = t.session(ctx, c)
	t.board.update(func(st *plan.State) {
		st.Connected, st.InSync = false, false
		if !st.Held {
			st.Error = err.Error()
		}
	})
}

// greet finds out who is there. Everything until here is under one short deadline.
func (t *Target) greet(ctx context.Context, raw net.Conn) (*conn, error) {
	if err := raw.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return nil, err
	}
	p := t.cfg.Pair
	secure, err := asServer(ctx, raw, t.cfg.TLS, p.Source.Node)
	if err != nil {
		return nil, err
	}
	c := newConn(secure)
	m, err := c.read(greetTimeout)
	if err != nil {
		return nil, err
	}
	h, ok := m.(hello)
	switch {
	case !ok:
		err = fmt.Errorf("%w: kind %d instead of a greeting", errMalformed, m.kind())
	case h.version != Version:
		err = fmt.Errorf("it speaks version %d, this is version %d", h.version, Version)
	case h.pair != p.Name || h.node != p.Source.Node:
		err = fmt.Errorf("it wants pair %.64q from node %.64q, this is pair %q from node %q", h.pair, h.node, p.Name, p.Source.Node)
	}
	if err != nil {
		return nil, errors.Join(err, c.send(refuse{text(err)}))
	}
	return c, nil
}

// open opens the folder, or opens it anew when its path leads elsewhere by now, and clears it of what an earlier run
// left half-written.
func (t *Target) open(ctx context.Context) error {
	if t.folder != nil {
		if t.folder.Check() == nil {
			return nil
		}
		_ = t.folder.Close() // a handle without data
		t.folder = nil
	}
	f, err := t.cfg.Open(t.cfg.Pair.Target.Path)
	if err != nil {
		return err
	}
	if _, err := f.Scan(ctx); err != nil {
		return errors.Join(err, f.Close())
	}
	t.folder = f
	return nil
}

// session serves a source that is who it says.
func (t *Target) session(ctx context.Context, c *conn) error {
	if err := t.open(ctx); err != nil {
		return errors.Join(err, c.send(refuse{text(err)}))
	}
	in := &intake{t: t, c: c, folder: t.folder, kick: make(chan struct{}, 1)}
	t.mu.Lock()
	t.live = in
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.live = nil
		t.mu.Unlock()
	}()
	if err := c.send(welcome{}); err != nil {
		return err
	}
	t.board.update(func(st *plan.State) { st.Connected, st.Error = true, "" })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return guarded(ctx, in.run) })
	g.Go(func() error { return in.beat(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		return c.net.Close() // unblocks run
	})
	return g.Wait()
}

// intake is one connection, seen from the target.
type intake struct {
	t      *Target
	c      *conn
	folder Folder
	kick   chan struct{} // has a token when a person has released what was held

	list     tree.Snapshot
	listSize int
	settled  bool            // the last comparison has ended well
	touched  map[string]bool // directories that the comparison changes something in
	finals   []tree.Entry    // those, to be given their modes and times at the end
	failed   error           // the first failure of the comparison
	file     *incoming
}

// incoming is the file whose content is arriving.
type incoming struct {
	seq   uint64
	entry tree.Entry
	left  int64
	to    Incoming
	err   error // why it is only read over
}

func (in *intake) wake() {
	select {
	case in.kick <- struct{}{}:
	default:
	}
}

// beat lets the source hear from us, also while a long comparison goes on, and tells it when a person has released what
// was held.
func (in *intake) beat(ctx context.Context) error {
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	for {
		var m message = pong{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-in.kick:
			m = released{}
		case <-tick.C:
		}
		if err := in.c.send(m); err != nil {
			return err
		}
	}
}

func (in *intake) run(ctx context.Context) error {
	defer func() {
		if in.file != nil && in.file.to != nil {
			_ = in.file.to.Abort() // what stays is removed at the next start
		}
	}()
	for {
		m, err := in.c.read(ioTimeout)
		if err != nil {
			return fmt.Errorf("hear from %s: %w", in.t.cfg.Pair.Source.Node, noEOF(err))
		}
		if err := in.take(ctx, m); err != nil {
			return err
		}
		if !in.c.buffered() {
			if err := in.c.flush(); err != nil {
				return err
			}
		}
	}
}

func (in *intake) take(ctx context.Context, m message) error {
	if _, ok := m.(ping); !ok {
		in.unsettle()
	}
	if in.file != nil {
		switch m := m.(type) {
		case content:
			return in.content(m)
		case fileEnd:
			return in.end(m)
		case ping:
			return nil
		}
		return fmt.Errorf("%w: kind %d inside a file", errMalformed, m.kind())
	}
	switch m := m.(type) {
	case entries:
		return in.listing(m.members)
	case listed:
		return in.compare(ctx, m.watched)
	case put:
		return in.put(m)
	case fileBegin:
		in.begin(m)
		return nil
	case finish:
		return in.finish(m)
	case ping:
		in.t.board.update(func(st *plan.State) {
			st.Waiting = m.waiting
			if m.waiting == 0 && in.settled {
				st.InSync, st.Error = true, ""
			}
		})
		return nil
	}
	return fmt.Errorf("%w: kind %d from a source", errMalformed, m.kind())
}

func (in *intake) unsettle() {
	in.t.board.update(func(st *plan.State) { st.InSync = false })
}

func (in *intake) listing(members []tree.Entry) error {
	in.settled = false
	for _, e := range members {
		in.listSize += len(e.Path) + len(e.Target)
		if e.Type == tree.None {
			return fmt.Errorf("%w: the list has a member that is not there", errMalformed)
		}
	}
	if len(in.list)+len(members) > maxMembers || in.listSize > maxList {
		return fmt.Errorf("the source folder has more than %d members, or %d bytes of paths", maxMembers, maxList)
	}
	in.list = append(in.list, members...)
	return nil
}

// compare compares the source's list with the own folder, deletes what is too much, makes directories and symlinks, and
// asks for the files that it lacks. What is to be deleted follows from the own list only: a source cannot name it.
func (in *intake) compare(ctx context.Context, watched bool) error {
	want := in.list
	in.list, in.listSize, in.settled, in.failed, in.touched = nil, 0, false, nil, make(map[string]bool)
	if len(want) == 0 || want[0].Path != tree.Root || !want.Sorted() {
		return fmt.Errorf("%w: the list is not in order", errMalformed)
	}
	if err := in.folder.Check(); err != nil {
		return err
	}
	have, err := in.folder.Scan(ctx)
	if err != nil {
		return err
	}
	d := tree.Compare(want, have, in.folder.Rules())
	if in.t.holds(d.Deletes, len(have)-1, watched) {
		return in.c.send(held{uint64(d.Deletes), uint64(len(have) - 1)})
	}
	for _, path := range d.Delete {
		if err := in.folder.Remove(path); err != nil {
			in.keep(err)
		}
		in.touched[tree.Parent(path)] = true
	}
	for _, e := range d.Make {
		in.touched[tree.Parent(e.Path)] = true
		if e.Type == tree.Dir {
			in.touched[e.Path] = true
			err = in.folder.Dir(e, false)
		} else {
			err = in.folder.Symlink(e)
		}
		in.keep(err)
	}
	files := d.Content
	for _, e := range d.Meta {
		if e.Type == tree.Dir {
			in.touched[e.Path] = true
			continue // at Finish
		}
		err := in.folder.Meta(e)
		if errors.Is(err, tree.ErrStale) {
			// Only its mode or owner was to change, but the time too, or it changed since it was listed.
			files = append(files, e)
			err = nil
		}
		in.keep(err)
	}
	for _, e := range files {
		in.touched[tree.Parent(e.Path)] = true
	}
	if err := in.ask(files); err != nil {
		return err
	}
	in.finals = slices.DeleteFunc(want, func(e tree.Entry) bool { return e.Type != tree.Dir || !in.touched[e.Path] })
	in.t.board.update(func(st *plan.State) { st.Deletes += uint64(d.Deletes) })
	return in.c.send(compared{uint64(d.Deletes)})
}

// keep remembers the first failure of a comparison; it goes on with what can be done.
func (in *intake) keep(err error) {
	if err != nil && in.failed == nil {
		in.failed = err
	}
}

// ask names the files whose content is needed.
func (in *intake) ask(files []tree.Entry) error {
	for len(files) > 0 {
		var paths []string
		for bytes := 0; len(paths) < len(files) && bytes < batchBytes; {
			path := files[len(paths)].Path
			paths = append(paths, path)
			bytes += len(path) + 2
		}
		files = files[len(paths):]
		if err := in.c.write(need{paths}); err != nil {
			return err
		}
	}
	return nil
}

// holds applies the brake and remembers what it holds.
func (t *Target) holds(deletes, total int, watched bool) bool {
	t.mu.Lock()
	stop := t.cfg.Brake.Holds(deletes, total, watched, t.released)
	t.held, t.released = 0, 0
	if stop {
		t.held = deletes
	}
	t.mu.Unlock()
	t.board.update(func(st *plan.State) {
		was := st.Held
		st.Held = stop
		switch {
		case stop:
			st.Error = heldText(t.cfg.Pair.Target.Node, uint64(deletes), uint64(total))
		case was:
			st.Error = ""
		}
	})
	return stop
}

// finish gives the directories their modes and times, members before parents, now that nothing changes in them.
func (in *intake) finish(m finish) error {
	for _, e := range slices.Backward(in.finals) {
		in.keep(in.folder.Dir(e, true))
	}
	in.finals = nil
	in.settled = in.failed == nil
	return in.answer(m.seq, in.failed)
}

func (in *intake) put(m put) error {
	var err error
	switch m.entry.Type {
	case tree.None:
		if err = in.folder.Remove(m.entry.Path); err == nil {
			in.t.board.update(func(st *plan.State) { st.Deletes++ })
		}
	case tree.Dir:
		err = in.folder.Dir(m.entry, m.final)
	case tree.Symlink:
		err = in.folder.Symlink(m.entry)
	case tree.File:
		err = in.folder.Meta(m.entry)
	}
	return in.answer(m.seq, err)
}

func (in *intake) begin(m fileBegin) {
	in.file = &incoming{seq: m.seq, entry: m.entry, left: m.entry.Size}
	to, err := in.folder.Create(m.entry)
	if err != nil {
		in.file.err = err
		return
	}
	in.file.to = to
}

func (in *intake) content(m content) error {
	f := in.file
	if f.left -= int64(len(m.bytes)); f.left < 0 {
		return fmt.Errorf("%w: more content than announced", errMalformed)
	}
	if f.err != nil {
		return nil
	}
	if _, f.err = f.to.Write(m.bytes); f.err != nil {
		f.err = errors.Join(f.err, f.to.Abort())
		f.to = nil
	}
	return nil
}

func (in *intake) end(m fileEnd) error {
	f := in.file
	in.file = nil
	switch {
	case f.err != nil:
	case !m.good:
		f.err = f.to.Abort()
	default:
		if f.err = f.to.Commit(m.sum); f.err == nil {
			in.t.board.update(func(st *plan.State) {
				st.Files++
				st.Bytes += uint64(f.entry.Size)
			})
		}
	}
	return in.answer(f.seq, f.err)
}

// answer acknowledges a path and shows what went wrong.
func (in *intake) answer(seq uint64, err error) error {
	a := ack{seq: seq}
	switch {
	case errors.Is(err, tree.ErrStale):
		a.result = resultStale
	case err != nil:
		a.result, a.text = resultError, text(err)
	}
	in.t.board.update(func(st *plan.State) {
		st.Unowned = in.folder.Unowned()
		if a.result == resultError {
			st.Error = a.text
		}
	})
	return in.c.write(a)
}

// text is an error as it goes over the wire.
func text(err error) string {
	s := err.Error()
	return s[:min(len(s), maxText)]
}
