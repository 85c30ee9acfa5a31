package media

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// openUnnamed opens a new file without a name for writing, in the file system of a folder (O_TMPFILE of open(2)). It is
// gone when it is closed without having got one. errors.ErrUnsupported: this file system has no such files (NFS and some
// FUSE ones), or there is no /proc, through which link has to go.
func openUnnamed(root *os.Root, folder string) (*os.File, error) {
	if err := unix.Access("/proc/self/fd", unix.X_OK); err != nil {
		return nil, fmt.Errorf("/proc/self/fd: %w: %w", errors.ErrUnsupported, err)
	}
	return root.OpenFile(folder, unix.O_TMPFILE|os.O_WRONLY, fileMode)
}

// link gives a file without a name its first one, in a folder that exists. Nothing may have that name yet.
func link(file *os.File, root *os.Root, name string) error {
	folder, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	// By its name under /proc: AT_EMPTY_PATH of linkat(2) needs CAP_DAC_READ_SEARCH.
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), int(folder.Fd()), path.Base(name), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		err = &os.LinkError{Op: "linkat", Old: file.Name(), New: name, Err: err}
	}
	return errors.Join(err, folder.Close())
}
