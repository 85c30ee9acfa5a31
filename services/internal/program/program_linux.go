// Package program answers: how is a program of somebody else run without giving it more than it needs?
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// scriptPath is the environment of a script.
	scriptPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// scriptSays is how much of what a script prints is kept for the reason, in bytes.
	scriptSays = 200
)

// ErrNotRun means that the program did not even begin.
var ErrNotRun = errors.New("not run")

// Run runs a program once, as that user, and returns nil when it ends with 0. There is no shell, and of the environment
// only a PATH. Neither the file nor a folder above it may be writable for others than root and the user. At the end of
// ctx it is killed with all that it has started.
func Run(ctx context.Context, argv []string, username string) error {
	if len(argv) == 0 {
		return fmt.Errorf("%w: no program", ErrNotRun)
	}
	who, err := credential(username)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRun, err)
	}
	file, err := openTrusted(argv[0], who.Uid)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRun, err)
	}
	defer func() { _ = file.Close() }() // only read from
	// What has been looked at is run, whatever stands at its path by now. An interpreter opens it again by this name.
	command := &exec.Cmd{
		Path: "/proc/self/fd/3", Args: argv, Env: []string{scriptPath}, Dir: "/", ExtraFiles: []*os.File{file},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if int(who.Uid) != os.Getuid() || int(who.Gid) != os.Getgid() {
		command.SysProcAttr.Credential = who
	}
	out := &says{}
	command.Stdout, command.Stderr = out, out
	command.WaitDelay = scriptEnd
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// A real-time priority is not for what is started, nor for whoever buries it: the kernel waits there, without
		// sleeping, for others who look at it in /proc. The thread ends with the goroutine.
		runtime.LockOSThread()
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
		_ = unix.SchedSetAttr(0, &attr, 0) // downwards is always allowed
		err := command.Start()
		started <- err
		if err == nil {
			ended <- command.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("%w: %s as %s: %w", ErrNotRun, argv[0], username, err)
	}
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = unix.Kill(-command.Process.Pid, unix.SIGKILL) // gone is as good
		<-ended
		return fmt.Errorf("%s has not ended in time", argv[0])
	}
	_ = unix.Kill(-command.Process.Pid, unix.SIGKILL)     // what it has left running
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // which is of one that has ended with 0, and left its output open
		return fmt.Errorf("%s: %w%s", argv[0], err, out.tail())
	}
	return nil
}

// scriptEnd is how long the output of a program that has ended is waited for, because its children may hold it open.
const scriptEnd = 100 * time.Millisecond

// says keeps the beginning of what a program prints.
type says struct{ buffer bytes.Buffer }

func (s *says) Write(b []byte) (int, error) {
	s.buffer.Write(b[:min(len(b), scriptSays-s.buffer.Len())])
	return len(b), nil
}

func (s *says) tail() string {
	text := strings.TrimSpace(strings.ToValidUTF8(s.buffer.String(), "?"))
	if text == "" {
		return ""
	}
	return ": " + text
}

// credential looks the user up.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// openTrusted opens a program that nobody but root and its user can have changed: neither the file nor a folder above it.
func openTrusted(path string, uid uint32) (*os.File, error) {
	for folder := filepath.Dir(path); ; folder = filepath.Dir(folder) {
		var s unix.Stat_t
		if err := unix.Lstat(folder, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", folder, err)
		}
		if s.Mode&unix.S_IFMT == unix.S_IFLNK {
			// As /bin is of /usr/bin; who may change the link is checked with the folder above it.
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				return nil, err
			}
			return openTrusted(real, uid)
		}
		if err := trusted(folder, s, uid); err != nil {
			return nil, err
		}
		if folder == "/" {
			break
		}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if s.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(fmt.Errorf("%s is no ordinary file", path), file.Close())
	}
	if err := trusted(path, s, uid); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func trusted(path string, s unix.Stat_t, uid uint32) error {
	switch {
	case s.Uid != 0 && s.Uid != uid:
		return fmt.Errorf("%s belongs to user %d, not to root or the user of the script", path, s.Uid)
	case s.Mode&0o022 != 0:
		return fmt.Errorf("%s can be written by its group or by others (mode %#o)", path, s.Mode&0o7777)
	}
	return nil
}
