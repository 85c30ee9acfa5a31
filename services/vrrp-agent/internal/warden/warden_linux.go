package warden

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// Priorities of SCHED_RR: the agent's is enough to go before everything ordinary, and the warden goes before the agent.
const (
	agentPriority  = 2
	wardenPriority = 3
)

// longestRun is how long a thread may run at real-time priority without ever waiting for anything, in microseconds of
// processor time (RLIMIT_RTTIME). All that these processes do takes milliseconds; the kernel ends one that does not stop.
const longestRun = 2_000_000

// lastThreads is how long a dead process lies before it is buried. Its threads are gone from its list by then, but the last
// may still be on their way out of /proc, at real-time priority and in microseconds; whoever buries must not be in their way.
const lastThreads = 20 * time.Millisecond

// settled is how many looks Realtime and Ordinary take at most until they find no thread that another one has just started.
const settled = 100

// Config of a warden.
type Config struct {
	// Cards of this node.
	Cards Cards
	// Log gets what the warden does in the agent's place.
	Log *zap.Logger
}

// Wanted tells whether this process is to be a warden: unless it is the agent already, or a command that ends at once.
func Wanted() bool {
	return os.Getenv(variable) == "" && !(len(os.Args) > 1 && os.Args[1] == "health")
}

// Run starts this program again as the agent, with the same arguments, and watches over it. It hands on SIGTERM, SIGINT,
// SIGHUP and SIGQUIT and returns with the agent's end: its exit code, or 128 and the number of the signal that it died of.
func Run(cfg Config) (code int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open the line to the agent: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(pair[0])) }()
	theirs := os.NewFile(uintptr(pair[1]), "agent")
	self, err := os.Executable()
	if err != nil {
		return 0, errors.Join(err, theirs.Close())
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	// In a group of its own: a terminal's interrupt would come to it twice, and the second one kills.
	agent, err := os.StartProcess(self, os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), variable+"="+strconv.Itoa(agentFD)),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err := errors.Join(err, theirs.Close()); err != nil {
		return 0, fmt.Errorf("start the agent: %w", err)
	}
	Realtime(wardenPriority)

	watched, ended := make(chan error, 1), make(chan struct{})
	go func() { watched <- cfg.follow(pair[0]) }()
	go func() {
		for {
			select {
			case s := <-signals:
				_ = agent.Signal(s) // gone is as good
			case <-ended:
				return
			}
		}
	}()
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		// The kernel waits, without sleeping, in the one who buries a process for whoever takes the last of it out of /proc:
		// a thread of the agent on its way out, or a reader of /proc. Before those the warden must not go.
		runtime.LockOSThread() // and never let go: the thread ends with the goroutine
		mine := ordinary()
		_ = unix.SchedSetAttr(0, &mine, 0) // downwards is always allowed
		code, err = reap(agent.Pid)
	}()
	<-reaped
	close(ended)
	err = errors.Join(err, <-watched)
	Ordinary()
	return code, err
}

// agentFD is the first file descriptor behind the standard ones.
const agentFD = 3

// reap waits for the agent. As the first process of a container it inherits others' children, and buries them.
func reap(agent int) (int, error) {
	for {
		if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil); err == nil {
			<-time.After(lastThreads)
		} // what else it says, the next one says too
		var s syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &s, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the agent: %w", err)
		case pid == agent && s.Signaled():
			return 128 + int(s.Signal()), nil
		case pid == agent && s.Exited():
			return s.ExitStatus(), nil
		}
	}
}

// follow takes in what the agent says until it is gone. What has been said is read before anybody is judged: the warden
// may have been held up itself.
func (cfg Config) follow(fd int) error {
	runtime.LockOSThread() // and never let go: the thread ends with the goroutine
	w := newWatch(cfg.Cards, cfg.Log)
	defer w.end()
	var b [recordLength]byte
	for {
		wait := -1
		if next, any := w.next(); any {
			wait = int(max(0, next-machineTime()+time.Millisecond-1) / time.Millisecond)
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, wait); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for word from the agent: %w", err)
		}
		for {
			n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT)
			if err == unix.EAGAIN || err == unix.EINTR {
				break
			}
			if err != nil && err != unix.ECONNRESET {
				return fmt.Errorf("hear the agent: %w", err)
			}
			if n <= 0 { // the other end is closed
				return nil
			}
			if r, ok := read(b[:n]); ok {
				w.take(r)
			}
		}
		w.judge(machineTime())
	}
}

// Realtime puts all threads of this process under SCHED_RR, those too that will be started, and tells whether that was
// allowed: with CAP_SYS_NICE or a limit RLIMIT_RTPRIO. All threads, because what keeps an advert waiting is as often the
// garbage collector's thread as the advert's own; in turns, because one thread of the runtime may wait for another
// without sleeping. The kernel kills a process of which a thread runs for longestRun without a pause.
func Realtime(priority uint32) bool {
	limit := unix.Rlimit{Cur: longestRun, Max: longestRun}
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &limit); err != nil && !errors.Is(err, unix.EPERM) { // EPERM: it is lower already
		return false
	}
	return schedule(unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: priority})
}

// AgentRealtime is Realtime for the agent's process.
func AgentRealtime() bool { return Realtime(agentPriority) }

// Ordinary takes the real-time priority from all threads of this process. Call it before the process ends: a thread that
// ends takes itself out of /proc, and waits there for others without sleeping.
func Ordinary() { _ = schedule(ordinary()) } // downwards is always allowed

func ordinary() unix.SchedAttr {
	return unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
}

// schedule gives all threads of this process the same place, and looks again until none has been added meanwhile.
func schedule(attr unix.SchedAttr) bool {
	known := map[int]bool{}
	for range settled {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return false
		}
		added := false
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return false
			}
			if known[tid] {
				continue
			}
			known[tid], added = true, true
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return false
			}
		}
		if !added {
			return true
		}
	}
	return true
}
