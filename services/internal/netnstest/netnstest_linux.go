package netnstest

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/testreq"
)

// NS is a network namespace that lives as long as its test.
type NS struct {
	file *os.File
}

// Require ends the test unless it may make network namespaces.
func Require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		testreq.Missing(t, "network namespaces: run as root")
	}
	file, err := makeNamespace()
	if err != nil {
		testreq.Missing(t, "network namespaces: "+err.Error())
	}
	_ = file.Close() // with it the namespace goes
}

// New makes a namespace with its loopback up. It goes away with the test and whatever holds sockets in it.
func New(t testing.TB) *NS {
	t.Helper()
	file, err := makeNamespace()
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = file.Close() }) // closing a namespace handle cannot fail in a way that matters
	n := &NS{file: file}
	n.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("set lo up: %v", err)
		}
	})
	return n
}

// Path names the namespace for programs that take one, for as long as the test runs.
func (n *NS) Path() string {
	return "/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(int(n.file.Fd()))
}

// Do runs f inside the namespace, on the caller's goroutine and a thread of its own, so that f may call t.Fatal. What f
// opens stays in the namespace; goroutines that f starts do not run in it.
func (n *NS) Do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open(threadNamespace())
	if err != nil {
		runtime.UnlockOSThread()
		t.Fatalf("open the present namespace: %v", err)
	}
	defer func() { _ = home.Close() }() // only read from
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Fatalf("enter the namespace: %v", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			// The thread stays locked: the runtime ends it with this goroutine, and nothing else lands in the namespace.
			t.Errorf("leave the namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Exec runs a program inside the namespace and returns what it printed; the test fails when the program does.
func (n *NS) Exec(t testing.TB, name string, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	n.Do(t, func() { out, err = exec.CommandContext(t.Context(), name, args...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Veth lays a cable between two namespaces. A prefix is an address with its subnet, "192.168.60.22/24", or empty for an
// end without an address. Both ends are up.
func Veth(t testing.TB, a *NS, nameA, prefixA string, b *NS, nameB, prefixB string) {
	t.Helper()
	a.Do(t, func() {
		link := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: nameA},
			PeerName:      nameB,
			PeerNamespace: netlink.NsFd(int(b.file.Fd())),
		}
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatalf("add veth %s to %s: %v", nameA, nameB, err)
		}
	})
	a.setUp(t, nameA, prefixA)
	b.setUp(t, nameB, prefixB)
}

// Bridge makes a switch called name in ns, up, with the named devices of ns as its ports. The ports must be there
// already: lay the cables first.
func Bridge(t testing.TB, ns *NS, name string, members ...string) {
	t.Helper()
	ns.Do(t, func() {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if err := netlink.LinkAdd(bridge); err != nil {
			t.Fatalf("add bridge %s: %v", name, err)
		}
		for _, member := range members {
			port, err := netlink.LinkByName(member)
			if err == nil {
				err = netlink.LinkSetMaster(port, bridge)
			}
			if err != nil {
				t.Fatalf("make %s a port of %s: %v", member, name, err)
			}
		}
	})
	ns.setUp(t, name, "")
}

func (n *NS) setUp(t testing.TB, name, prefix string) {
	t.Helper()
	if prefix != "" {
		n.Address(t, name, prefix)
	}
	n.Do(t, func() {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			t.Fatalf("set %s up: %v", name, err)
		}
	})
}

// Address gives a device an address with its subnet, which can be used at once.
func (n *NS) Address(t testing.TB, name, prefix string) {
	t.Helper()
	n.Do(t, func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		address, err := netlink.ParseAddr(prefix)
		if err != nil {
			t.Fatalf("address of %s: %v", name, err)
		}
		// Duplicate address detection would keep an IPv6 address unusable for a second.
		if address.IP.To4() == nil {
			address.Flags |= unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			t.Fatalf("add %s to %s: %v", prefix, name, err)
		}
	})
}

// Gateway makes a neighbour the default route of its family.
func (n *NS) Gateway(t testing.TB, address string) {
	t.Helper()
	n.Do(t, func() {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(address)}); err != nil {
			t.Fatalf("default route by %s: %v", address, err)
		}
	})
}

// Set sets a sysctl of the namespace: the path below /proc/sys.
func (n *NS) Set(t testing.TB, key, value string) {
	t.Helper()
	n.Do(t, func() {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}
