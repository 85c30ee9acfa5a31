package netdev

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// Permitted names the capabilities without which nothing works and that this process does not have. It asks the kernel for
// what they are needed for, and not for a list of them: they count in the user namespace that the network belongs to.
func Permitted() error {
	var missing []string
	// The kernel looks at the permission first and for the card afterwards (rtnetlink_rcv_msg in net/core/rtnetlink.c); there
	// is none of that number.
	nothing := netip.AddrFrom4([4]byte{192, 0, 2, 1}) // RFC 5737
	if err := netlink.AddrDel(card(math.MaxInt32), single(nothing)); errors.Is(err, unix.EPERM) {
		missing = append(missing, "CAP_NET_ADMIN (addresses, routes)")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, packet.Protocol)
	switch {
	case errors.Is(err, unix.EPERM):
		missing = append(missing, "CAP_NET_RAW (adverts, gratuitous ARP)")
	case err == nil:
		_ = unix.Close(fd) // nothing hangs on it
	}
	if len(missing) > 0 {
		return fmt.Errorf("this process lacks %s, and can hold no address without; run it as root with these capabilities", strings.Join(missing, " and "))
	}
	return nil
}
