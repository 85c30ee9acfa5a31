// Package netnsmark answers: is this the network namespace that somebody wrote of in a file?
package netnsmark

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bootID is another one after each start of the kernel (Documentation/admin-guide/sysctl/kernel.rst, random).
const bootID = "/proc/sys/kernel/random/boot_id"

// Own is the mark of the calling thread's network namespace, a line: the boot, and the number that the kernel gives to no
// other namespace in it (SO_NETNS_COOKIE, Linux 5.14). The inode of /proc/self/ns/net would not do: it is given again.
func Own() (string, error) {
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return "", err
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open a socket in the network namespace: %w", err)
	}
	defer unix.Close(socket)
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return "", fmt.Errorf("ask for the number of the network namespace: %w", err)
	}
	return fmt.Sprintf("%s %d\n", strings.TrimSpace(string(boot)), cookie), nil
}
