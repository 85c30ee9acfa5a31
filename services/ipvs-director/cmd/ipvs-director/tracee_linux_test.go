package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelCall is a system call by which a program changes what the kernel holds: a datagram of netlink that is no question, or a
// write to a file of /proc/sys.
type kernelCall struct {
	// n counts them, from 1 on.
	n int
	// after: the kernel has done it, and the program does not know yet; else the program is about to make it.
	after bool
	what  string
}

func (c kernelCall) String() string {
	if c.after {
		return fmt.Sprintf("after call %d (%s)", c.n, c.what)
	}
	return fmt.Sprintf("before call %d (%s)", c.n, c.what)
}

// tracee is a running program whose threads stop at each of their system calls.
type tracee struct {
	process int
	memory  *os.File
	inside  map[int]bool       // threads that are in a system call
	calls   map[int]kernelCall // by thread: the call that it is in, when it is one that counts
	n       int
	killed  bool
}

// holdAtCalls holds a process at each kernel call, before and after, until the process ends, which it does with SIGKILL when at says so.
// begun is closed when all threads are held. All of it is on one thread: that of the tracer.
func holdAtCalls(process int, begun chan<- struct{}, at func(kernelCall) (kill bool)) (err error) {
	runtime.LockOSThread() // never unlocked: with the thread the tracing ends, whatever happens
	t := &tracee{process: process, inside: map[int]bool{}, calls: map[int]kernelCall{}}
	t.memory, err = os.Open(fmt.Sprintf("/proc/%d/mem", process))
	if err != nil {
		return err
	}
	defer func() { _ = t.memory.Close() }() // only read from
	if err := t.seize(); err != nil {
		return err
	}
	close(begun)
	for {
		var status unix.WaitStatus
		thread, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil // all threads have ended
		case err != nil:
			return fmt.Errorf("wait for the program: %w", err)
		case !status.Stopped():
			continue // this thread has ended
		}
		const systemCall = unix.SIGTRAP | 0x80 // PTRACE_O_TRACESYSGOOD
		signal := status.StopSignal()
		switch {
		case signal == systemCall:
			if call, counts := t.stopped(thread); counts && !t.killed && at(call) {
				t.killed = true
				if err := unix.Kill(process, unix.SIGKILL); err != nil {
					return err
				}
			}
			signal = 0
		case status>>16 != 0: // an event of the tracing itself, as a new thread
			signal = 0
		}
		_ = unix.PtraceSyscall(thread, int(signal)) // a thread that is gone already is killed or has ended
	}
}

// seize holds all threads, also those that are begun meanwhile.
func (t *tracee) seize() error {
	held := map[int]bool{}
	for more := true; more; {
		more = false
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.process))
		if err != nil {
			return err
		}
		for _, entry := range threads {
			thread, err := strconv.Atoi(entry.Name())
			if err != nil {
				return err
			}
			if held[thread] {
				continue
			}
			held[thread], more = true, true
			if _, _, err := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(thread), 0, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE, 0, 0); err != 0 {
				return fmt.Errorf("hold thread %d: %w", thread, err)
			}
			if err := unix.PtraceInterrupt(thread); err != nil {
				return fmt.Errorf("stop thread %d: %w", thread, err)
			}
		}
	}
	return nil
}

// stopped is called when a thread begins or ends a system call, and tells of those that count.
func (t *tracee) stopped(thread int) (kernelCall, bool) {
	if t.inside[thread] {
		delete(t.inside, thread)
		call, counts := t.calls[thread]
		delete(t.calls, thread)
		call.after = true
		return call, counts
	}
	t.inside[thread] = true
	what := t.changes(thread)
	if what == "" {
		return kernelCall{}, false
	}
	t.n++
	t.calls[thread] = kernelCall{n: t.n, what: what}
	return t.calls[thread], true
}

// The places of registers in struct user (struct user_regs_struct of arch/x86/include/asm/user_64.h), in words: the number of a system
// call, and its first and second argument. User Mode Linux hands them out one by one only.
const systemCallNumber, firstArgument, secondArgument = 15, 14, 13

func register(thread int, place uintptr) uint64 {
	b := make([]byte, 8)
	if _, err := unix.PtracePeekUser(thread, place*8, b); err != nil {
		return math.MaxUint64 // the thread is gone; no system call has this number
	}
	return binary.NativeEndian.Uint64(b)
}

// changes says what the system call that a thread begins changes; "": nothing that counts.
func (t *tracee) changes(thread int) string {
	number, buffer := register(thread, systemCallNumber), register(thread, secondArgument)
	switch number {
	case unix.SYS_WRITE, unix.SYS_SENDTO:
	case unix.SYS_SENDMSG: // struct msghdr of include/linux/socket.h, struct iovec of include/uapi/linux/uio.h
		const vectors = 16
		buffer = t.word(t.word(buffer + vectors))
	default:
		return ""
	}
	// A descriptor that another thread has closed is none that counts.
	file, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", t.process, register(thread, firstArgument)))
	if number == unix.SYS_WRITE && strings.HasPrefix(file, "/proc/sys/") {
		return "write " + file
	}
	inode, isSocket := strings.CutPrefix(file, "socket:[")
	if !isSocket {
		return ""
	}
	return t.changesByNetlink(strings.TrimSuffix(inode, "]"), buffer)
}

// changesByNetlink says what a datagram to a socket of netlink changes.
func (t *tracee) changesByNetlink(inode string, datagram uint64) string {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", t.process))
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(table), "\n") {
		columns := strings.Fields(line) // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		const protocol, inodeColumn = 1, 9
		if len(columns) <= inodeColumn || columns[inodeColumn] != inode {
			continue
		}
		head := make([]byte, unix.SizeofNlMsghdr+4)
		if _, err := t.memory.ReadAt(head, int64(datagram)); err != nil {
			return ""
		}
		return changing(columns[protocol], binary.NativeEndian.Uint16(head[4:]), head[unix.SizeofNlMsghdr])
	}
	return ""
}

// changing says what a message of netlink changes, by protocol, type and, for generic netlink, command.
func changing(protocol string, kind uint16, command byte) string {
	switch protocol {
	case strconv.Itoa(unix.NETLINK_ROUTE):
		if kind&3 != 2 { // the third of each four asks: RTM_GET... of include/uapi/linux/rtnetlink.h
			return fmt.Sprintf("rtnetlink message %d", kind)
		}
	case strconv.Itoa(unix.NETLINK_NETFILTER):
		const batch, connections, forget = 0x10, 1, 2 // NFNL_MSG_BATCH_BEGIN; NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
		if kind == batch {
			return "nf_tables transaction"
		}
		if kind == connections<<8|forget {
			return "forget a connection"
		}
	case strconv.Itoa(unix.NETLINK_GENERIC):
		const controller = 0x10 // GENL_ID_CTRL, which is only asked
		// IPVS_CMD_GET_... of include/uapi/linux/ip_vs.h: service, destination, daemon, configuration, information.
		if asks := map[byte]bool{4: true, 8: true, 11: true, 13: true, 15: true}; kind != controller && !asks[command] {
			return fmt.Sprintf("IPVS command %d", command)
		}
	}
	return ""
}

// word reads one of the program's memory; 0: it cannot be read.
func (t *tracee) word(at uint64) uint64 {
	b := make([]byte, 8)
	if _, err := t.memory.ReadAt(b, int64(at)); err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(b)
}
