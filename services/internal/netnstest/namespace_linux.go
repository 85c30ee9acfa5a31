package netnstest

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// makeNamespace makes a namespace on a thread that is thrown away, and returns a handle that keeps it.
func makeNamespace() (*os.File, error) {
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- made{err: fmt.Errorf("unshare: %w", err)}
			return
		}
		file, err := os.Open(threadNamespace())
		result <- made{file: file, err: err}
	}()
	m := <-result
	return m.file, m.err
}

// threadNamespace is the namespace of the calling thread; /proc/self would be that of the process's first thread.
func threadNamespace() string {
	return "/proc/self/task/" + itoa(unix.Gettid()) + "/ns/net"
}

func itoa(n int) string { return strconv.Itoa(n) }
