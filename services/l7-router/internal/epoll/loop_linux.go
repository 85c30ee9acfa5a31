package epoll

import (
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/accesslog"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/tcp"
)

// turnTime is how long those may go on who could go on for ever, before it is looked whether anybody else has something. Many
// large responses at once would hold small ones up for seconds otherwise.
const turnTime = 2 * time.Millisecond

// tidyEvery is how often a loop forgets what it has not needed.
const tidyEvery = 10 * time.Second

// yieldEvery is how often a loop passes through the Go scheduler, which takes a goroutine that has not done so for 10 ms
// (runtime.forcePreemptNS) for one that has to be stopped: it sends its thread a signal, and moves the goroutine to another
// thread whenever it waits in a system call, some hundred times a second.
const yieldEvery = 4 * time.Millisecond

// loop serves a share of the connections. But for post, everything here belongs to the goroutine of run.
type loop struct {
	driver  *Driver
	index   int // among the loops
	log     *zap.Logger
	epoll   int
	wake    int   // an eventfd
	now     int64 // nanoseconds since epoch; read once for each wake-up, because even that is seen
	events  [256]unix.EpollEvent
	socks   []*sock // by descriptor
	gen     int32
	wheel   wheel
	tidying timer
	yielded int64   // when the loop last let the Go scheduler see it
	again   []*conn // those that have had their turn and could go on
	conns   int
	ended   bool

	acceptors []*acceptor
	idle      map[uint64]*shelf // by the server's ID
	maxIdle   int               // for each server

	buffers stack[buffer]
	flights stack[flight]
	pipes   stack[pipe]

	mu      sync.Mutex // guards posts and roused
	posts   []func()
	roused  []*conn // whose turn in a queue has come
	rousing []*conn // the same, taken out
}

var epoch = accesslog.Clock

func openLoop(d *Driver, index int) (*loop, error) {
	l := &loop{driver: d, index: index, log: d.log, idle: map[uint64]*shelf{}, epoll: -1, wake: -1}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(l.wake)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &event); err != nil {
		l.close()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	l.now = int64(time.Since(epoch))
	l.wheel.init(l.now)
	l.tidying.owner = tidier{l}
	l.wheel.set(&l.tidying, l.now+int64(tidyEvery))
	return l, nil
}

func (l *loop) close() {
	for _, fd := range []int{l.epoll, l.wake} {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing waits on it any more
		}
	}
}

type tidier struct{ *loop }

func (t tidier) expired() {
	t.tidy()
	t.driver.lookCarrying()
	t.wheel.set(&t.tidying, t.now+int64(tidyEvery))
}

// post has the loop call do. Any goroutine may call it; after the loop has ended nothing is called any more.
func (l *loop) post(do func()) {
	l.mu.Lock()
	l.posts = append(l.posts, do)
	l.mu.Unlock()
	l.signal()
}

var one = [8]byte{1}

// signal wakes the loop up.
func (l *loop) signal() { _, _ = unix.Write(l.wake, one[:]) } // it fails only when a wake-up is pending already

func (l *loop) runPosts() {
	var count [8]byte
	_, _ = unix.Read(l.wake, count[:]) // only for the next edge
	l.mu.Lock()
	posts := l.posts
	l.posts = nil
	l.mu.Unlock()
	for _, do := range posts {
		do()
	}
	l.runRoused()
}

// later gives c another turn when the others have had theirs.
func (l *loop) later(c *conn) {
	if !c.queued {
		c.queued = true
		l.again = append(l.again, c)
	}
}

// run serves until end has been posted.
func (l *loop) run() error {
	l.runPosts()
	fire := l.fire // one closure for all
	for !l.ended {
		wait := -1
		if len(l.again) > 0 {
			wait = 0
		} else if d := l.wheel.wait(l.now); d >= 0 {
			wait = int((d + time.Millisecond - 1) / time.Millisecond)
		}
		n, err := unix.EpollWait(l.epoll, l.events[:], wait)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("epoll_wait", err)
		}
		l.now = int64(time.Since(epoch))
		if l.now-l.yielded >= int64(yieldEvery) {
			l.yielded = l.now
			runtime.Gosched()
		}
		turns := l.again
		l.again = nil
		for i := range max(n, 0) {
			l.tell(&l.events[i])
		}
		for i, c := range turns {
			if int64(time.Since(epoch))-l.now > int64(turnTime) {
				l.again = append(turns[i:], l.again...) // first look who has waited meanwhile
				break
			}
			c.queued = false
			l.guarded(c)
		}
		l.wheel.advance(l.now, fire)
	}
	return nil
}

// tell tells one event to whom it is for.
func (l *loop) tell(event *unix.EpollEvent) {
	if event.Fd == int32(l.wake) {
		l.runPosts()
		return
	}
	s := l.socks[event.Fd]
	if s == nil || s.gen != event.Pad {
		return // it has been closed since
	}
	s.note(event.Events)
	l.guarded(s.handler)
}

// guarded calls h.
func (l *loop) guarded(h handler) {
	defer l.rescue(h)
	h.ready()
}

// fire calls whoever's time has come.
func (l *loop) fire(e expirer) {
	defer l.rescue(e)
	e.expired()
}

// rescue ends a connection whose handling has panicked: one faulty exchange must not take the others down with it.
func (l *loop) rescue(whose any) {
	cause := recover()
	if cause == nil {
		return
	}
	l.log.Error("connection panicked", zap.Any("panic", cause), zap.StackSkip("stack", 1))
	c, _ := whose.(*conn)
	if u, ok := whose.(*upstream); ok {
		c = u.conn
	}
	if c != nil {
		c.close()
	}
}

// each calls do for every client connection.
func (l *loop) each(do func(*conn)) {
	for _, s := range l.socks {
		if s == nil {
			continue
		}
		if c, ok := s.handler.(*conn); ok {
			do(c)
		}
	}
}

// end closes everything.
func (l *loop) end() {
	l.abandon(nil, true) // whoever waits is cut off, as are those that have been served
	l.each((*conn).abort)
	for _, shelf := range l.idle {
		for len(shelf.idle) > 0 {
			shelf.idle[len(shelf.idle)-1].close()
		}
	}
	for p := l.pipes.pop(); p != nil; p = l.pipes.pop() {
		tcp.Close(p.r, p.w)
	}
	l.ended = true
}
