package transfer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// Limits of a session, source side.
const (
	window       = 1024 // paths sent and not yet acknowledged
	portion      = 1024 // paths looked at together
	patience     = 3    // tries after which a file that never stops changing is sent as it is
	retryPause   = 100 * time.Millisecond
	retryLongest = 10 * time.Second
	// compareAgain is the pause after a comparison in which the target could not do everything.
	compareAgain = 10 * time.Second
)

// session is one connection, seen from the source. One goroutine sends, another takes the answers and never waits for
// the first: otherwise both sides could wait for each other.
type session struct {
	src     *Source
	c       *conn
	w       Watched
	watched *bool    // the watch has had no gap since the last acknowledged comparison
	pause   *backoff // begins anew when a comparison has succeeded
	seq     uint64
	rested  bool // the target knows that nothing waits
	clean   bool // the last comparison left nothing undone
	swapped bool // a directory has taken the place of another, whose members the target may still have

	answered chan struct{} // has a token when an answer has come

	mu        sync.Mutex // guards what follows
	flight    map[uint64]sent
	announced int // files in the list that the target may still ask for
	needs     []string
	compared  bool
	held      bool
	finished  result
}

// sent is something that waits for its acknowledgement.
type sent struct {
	candidate tree.Candidate
	file      bool
	gone      bool
	finish    bool
	bytes     uint64
}

func newSession(src *Source, c *conn, w Watched, watched *bool, pause *backoff) *session {
	return &session{src: src, c: c, w: w, watched: watched, pause: pause, answered: make(chan struct{}, 1), flight: make(map[uint64]sent)}
}

// greet says who we are.
func (s *session) greet() error {
	p := s.src.cfg.Pair
	if err := s.c.send(hello{version: Version, pair: p.Name, node: p.Source.Node}); err != nil {
		return fmt.Errorf("greet %s: %w", p.Target.Node, err)
	}
	m, err := s.c.read(ioTimeout)
	if err != nil {
		return fmt.Errorf("greet %s: %w", p.Target.Node, err)
	}
	switch m := m.(type) {
	case welcome:
		return nil
	case refuse:
		return fmt.Errorf("%s refuses: %s", p.Target.Node, m.why)
	}
	return fmt.Errorf("greet %s: %w: kind %d", p.Target.Node, errMalformed, m.kind())
}

// run carries over until the connection ends.
func (s *session) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return guarded(ctx, s.listen) })
	g.Go(func() error { return s.beat(ctx) })
	g.Go(func() error { return guarded(ctx, s.carryOver) })
	g.Go(func() error {
		<-ctx.Done()
		return s.c.net.Close() // unblocks the others
	})
	return g.Wait()
}

// guarded makes a panic the error of its connection: what one peer sends must not end the other pairs.
func guarded(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	return run(ctx)
}

// carryOver compares and follows in turn.
func (s *session) carryOver(ctx context.Context) error {
	for {
		if err := s.compare(ctx); err != nil {
			return err
		}
		if err := s.follow(ctx); err != nil {
			return err
		}
	}
}

// beat lets the target hear from us.
func (s *session) beat(ctx context.Context) error {
	for {
		if err := sleep(ctx, beatInterval); err != nil {
			return err
		}
		if err := s.c.send(ping{s.waiting()}); err != nil {
			return err
		}
	}
}

// waiting is how many changes the target has not acknowledged.
func (s *session) waiting() uint64 {
	s.mu.Lock()
	n := len(s.flight) + len(s.needs)
	s.mu.Unlock()
	n += s.w.Waiting()
	s.src.board.update(func(st *plan.State) { st.Waiting = uint64(n) })
	return uint64(n)
}

// listen takes the target's answers.
func (s *session) listen(ctx context.Context) error {
	for {
		m, err := s.c.read(ioTimeout)
		if err != nil {
			return fmt.Errorf("hear from %s: %w", s.src.cfg.Pair.Target.Node, noEOF(err))
		}
		if err := s.take(m); err != nil {
			return err
		}
		select {
		case s.answered <- struct{}{}:
		default:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (s *session) take(m message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m := m.(type) {
	case ack:
		return s.acknowledged(m)
	case need:
		if len(m.paths) > s.announced {
			return fmt.Errorf("%w: more files asked for than there are", errMalformed)
		}
		s.announced -= len(m.paths)
		s.needs = append(s.needs, m.paths...)
	case compared:
		s.compared = true
		s.src.board.update(func(st *plan.State) { st.Deletes += m.deletes })
	case held:
		s.held = true
		s.src.board.update(func(st *plan.State) {
			st.Held = true
			st.Error = heldText(s.src.cfg.Pair.Target.Node, m.deletes, m.total)
		})
	case released:
		s.held = false
	case pong:
	default:
		return fmt.Errorf("%w: kind %d from a target", errMalformed, m.kind())
	}
	return nil
}

// heldText says why nothing is carried over and what a person can do.
func heldText(node string, deletes, total uint64) string {
	return fmt.Sprintf("held: the comparison would delete %d of %d members of the target, and nobody was seen deleting them; "+
		"if that is wanted, call Reconcile on %s", deletes, total, node)
}

// acknowledged is called with mu held; Retry and the board do not wait for anything.
func (s *session) acknowledged(m ack) error {
	f, ok := s.flight[m.seq]
	if !ok {
		return fmt.Errorf("%w: acknowledgement of nothing", errMalformed)
	}
	delete(s.flight, m.seq)
	if f.finish {
		s.finished = m.result
	}
	c := f.candidate
	switch m.result {
	case resultDone:
		s.src.board.update(func(st *plan.State) {
			switch {
			case f.file:
				st.Files++
				st.Bytes += f.bytes
			case f.gone:
				st.Deletes++
			}
		})
	case resultStale:
		c.Content = true
		s.w.Retry(c, 0)
	case resultError:
		s.src.board.update(func(st *plan.State) { st.Error, st.InSync = "target: "+m.text, false })
		if !f.finish {
			s.again(c)
		}
	}
	return nil
}

// again has a path sent once more after a pause, with the directories above it: one of them may be what was missing.
func (s *session) again(c tree.Candidate) {
	pause := min(retryPause<<min(c.Tries, 10), retryLongest)
	c.Tries++
	s.w.Retry(c, pause)
	for dir := tree.Parent(c.Path); dir != tree.Root; dir = tree.Parent(dir) {
		s.w.Retry(tree.Candidate{Path: dir}, pause)
	}
}

// await waits until done, which is called with mu held. What is buffered is sent first.
func (s *session) await(ctx context.Context, done func() bool) error {
	if err := s.c.flush(); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		ok := done()
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-s.answered:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compare makes the target equal to the list of the folder.
func (s *session) compare(ctx context.Context) error {
	s.src.board.update(func(st *plan.State) { st.InSync = false })
	s.rested, s.clean, s.swapped = false, false, false
	for {
		if err := s.list(ctx); err != nil {
			return err
		}
		wait := false
		if err := s.await(ctx, func() bool { wait = s.held; return s.held || s.compared || len(s.needs) > 0 }); err != nil {
			return err
		}
		if !wait {
			break
		}
		if err := s.await(ctx, func() bool { return !s.held }); err != nil {
			return err
		}
	}
	s.src.board.update(func(st *plan.State) { st.Held, st.Error = false, "" })
	for {
		var needs []string
		last := false
		err := s.await(ctx, func() bool {
			n := min(len(s.needs), portion)
			needs, s.needs = s.needs[:n:n], s.needs[n:]
			last = s.compared && len(s.needs) == 0
			return n > 0 || last
		})
		if err != nil {
			return err
		}
		candidates := make([]tree.Candidate, len(needs))
		for i, path := range needs {
			candidates[i] = tree.Candidate{Path: path, Content: true}
		}
		if err := s.carry(ctx, candidates, false); err != nil {
			return err
		}
		if last {
			break
		}
	}
	if err := s.await(ctx, func() bool { return len(s.flight) == 0 }); err != nil {
		return err
	}
	s.seq++
	s.depart(s.seq, sent{finish: true})
	if err := s.c.write(finish{s.seq}); err != nil {
		return err
	}
	if err := s.await(ctx, func() bool { return len(s.flight) == 0 }); err != nil {
		return err
	}
	s.pause.reset()
	// What the target could not do must not keep the changes from flowing; the next comparison tries it again.
	if s.clean = s.finished == resultDone; s.clean {
		*s.watched = true
	}
	return nil
}

// list sends the list of the folder.
func (s *session) list(ctx context.Context) error {
	members, skipped, err := s.w.Scan(ctx)
	if err != nil {
		return err
	}
	s.src.board.update(func(st *plan.State) { st.Skipped = uint64(skipped) })
	files := 0
	for i := range members {
		members[i].Mode &= tree.ModeMask
		if members[i].Type == tree.File {
			files++
		}
	}
	s.mu.Lock()
	s.announced, s.needs, s.compared, s.held = files, nil, false, false
	s.mu.Unlock()
	for len(members) > 0 {
		n, bytes := 0, 0
		for n < len(members) && bytes < batchBytes {
			bytes += len(members[n].Path) + len(members[n].Target) + 40 // the rest of an entry is shorter
			n++
		}
		if err := s.c.write(entries{members[:n]}); err != nil {
			return err
		}
		members = members[n:]
	}
	return s.c.write(listed{*s.watched})
}

// follow sends changes until the whole folder has to be compared again.
func (s *session) follow(ctx context.Context) error {
	compared := time.Now()
	pause := s.src.cfg.Pair.Verify
	if !s.clean {
		pause = min(pause, compareAgain)
	}
	verify := time.NewTimer(pause)
	defer verify.Stop()
	wake := time.NewTimer(s.src.cfg.Pair.Verify)
	defer wake.Stop()
	for {
		due, next, compare := s.w.Take(portion)
		if compare {
			return sleep(ctx, time.Until(compared.Add(compareEvery)))
		}
		if len(due) > 0 {
			if err := s.changed(ctx, due); err != nil {
				return err
			}
			// Not before the new content is sent: the comparison may take it for equal, by size and time.
			if s.swapped && len(due) < portion {
				return sleep(ctx, time.Until(compared.Add(compareEvery)))
			}
			select {
			case <-verify.C: // also when changes never cease
				return nil
			default:
				continue
			}
		}
		if err := s.rest(); err != nil {
			return err
		}
		if next.IsZero() {
			wake.Stop()
		} else {
			wake.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-verify.C:
			return nil
		case <-wake.C:
		case <-s.answered:
		case <-s.w.Changed():
			if err := sleep(ctx, coalesce); err != nil {
				return err
			}
		}
	}
}

// changed sends a portion of changes.
func (s *session) changed(ctx context.Context, due []tree.Candidate) error {
	// A folder that has vanished has no members to report as deleted.
	if err := s.w.Check(); err != nil {
		return err
	}
	s.rested = false
	s.src.board.update(func(st *plan.State) { st.InSync = false })
	if err := s.carry(ctx, due, true); err != nil {
		return err
	}
	return s.c.flush()
}

// rest tells the target, once, that nothing waits.
func (s *session) rest() error {
	if s.rested || s.waiting() > 0 {
		return nil
	}
	s.rested = true
	if s.clean {
		s.src.board.update(func(st *plan.State) { st.InSync, st.Error = true, "" })
	}
	return s.c.send(ping{})
}

// carry sends the present state of each path: what is there first, parents before members; then what is gone; then, with
// finals, the directories in which something happened, because it changed their times.
func (s *session) carry(ctx context.Context, due []tree.Candidate, finals bool) error {
	slices.SortFunc(due, func(a, b tree.Candidate) int { return cmp.Compare(a.Path, b.Path) })
	var gone []tree.Candidate
	lost := make(map[string]bool)
	touched := make(map[string]bool)
	for _, c := range due {
		e, err := s.w.Lstat(c.Path)
		if err != nil {
			s.trouble(c, err)
			continue
		}
		touched[tree.Parent(c.Path)] = true
		switch {
		case e.Type == tree.None:
			if !within(lost, c.Path) {
				gone = append(gone, c)
			}
			lost[c.Path] = true
			continue
		case e.Type == tree.File && c.Content:
			err = s.file(ctx, c)
		case e.Type == tree.Dir:
			touched[c.Path] = true
			s.swapped = s.swapped || c.Left
			err = s.put(ctx, c, e, false)
		default:
			err = s.put(ctx, c, e, false)
		}
		if err != nil {
			return err
		}
	}
	for _, c := range gone {
		if err := s.put(ctx, c, tree.Gone(c.Path), false); err != nil {
			return err
		}
	}
	if !finals {
		return nil
	}
	dirs := make([]string, 0, len(touched))
	for path := range touched {
		dirs = append(dirs, path)
	}
	slices.Sort(dirs)
	slices.Reverse(dirs)
	for _, path := range dirs {
		c := tree.Candidate{Path: path}
		e, err := s.w.Lstat(path)
		if err != nil {
			s.trouble(c, err)
			continue
		}
		if e.Type != tree.Dir {
			continue // its own event is on the way
		}
		if err := s.put(ctx, c, e, true); err != nil {
			return err
		}
	}
	return nil
}

// within reports whether a directory above path is in the set.
func within(set map[string]bool, path string) bool {
	for dir := tree.Parent(path); dir != tree.Root; dir = tree.Parent(dir) {
		if set[dir] {
			return true
		}
	}
	return false
}

// trouble reports a path that the source cannot read, and has it tried again.
func (s *session) trouble(c tree.Candidate, err error) {
	s.src.board.update(func(st *plan.State) { st.Error, st.InSync = "source: "+err.Error(), false })
	s.again(c)
}

// depart notes something that waits for its acknowledgement.
func (s *session) depart(seq uint64, f sent) {
	s.mu.Lock()
	s.flight[seq] = f
	s.mu.Unlock()
}

// room waits until less than a window is on its way.
func (s *session) room(ctx context.Context) error {
	s.mu.Lock()
	full := len(s.flight) >= window
	s.mu.Unlock()
	if !full {
		return nil
	}
	return s.await(ctx, func() bool { return len(s.flight) < window/2 })
}

// put sends a state without content.
func (s *session) put(ctx context.Context, c tree.Candidate, e tree.Entry, final bool) error {
	if err := s.room(ctx); err != nil {
		return err
	}
	e.Mode &= tree.ModeMask
	s.seq++
	s.depart(s.seq, sent{candidate: c, gone: e.Type == tree.None})
	return s.c.write(put{s.seq, e, final})
}

// file sends a file as it is now. When it changes meanwhile, the target keeps what it has and the file is sent
// again; a file that never stops changing is sent as far as it went when it was opened.
func (s *session) file(ctx context.Context, c tree.Candidate) error {
	if err := s.room(ctx); err != nil {
		return err
	}
	f, e, err := s.w.Read(c.Path)
	if err != nil {
		if now, look := s.w.Lstat(c.Path); look == nil && now.Type != tree.File {
			s.again(c) // it has become something else
		} else {
			s.trouble(c, err)
		}
		return nil
	}
	defer f.Close() //nolint:errcheck // read only
	e.Mode &= tree.ModeMask
	s.seq++
	s.depart(s.seq, sent{candidate: c, file: true, bytes: uint64(e.Size)})
	if err := s.c.write(fileBegin{s.seq, e}); err != nil {
		return err
	}
	sum := sha256.New()
	buf := make([]byte, min(chunk, max(e.Size, 1)))
	var whole bool
	for left := e.Size; ; {
		if left == 0 {
			whole = true
			break
		}
		n, err := f.Read(buf[:min(int64(len(buf)), left)])
		if n > 0 {
			left -= int64(n)
			sum.Write(buf[:n])
			if err := s.c.write(content{buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break // shorter than it was
		}
		if err != nil {
			s.trouble(c, err)
			break
		}
	}
	changed := true
	if now, err := f.Stat(); err == nil && whole {
		changed = now.Size() != e.Size || now.ModTime().UnixNano() != e.Mtime
	}
	if changed {
		s.again(c)
	}
	good := whole && (!changed || c.Tries >= patience)
	if !good {
		s.depart(s.seq, sent{candidate: c})
	}
	return s.c.write(fileEnd{good: good, sum: [32]byte(sum.Sum(nil))})
}
