//go:build linux

package netnstest_test

import (
	"net"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/netnstest"
)

// Two machines on a switch: what one says the other hears, and neither is in the namespace of the test.
func TestKernelSwitchBetweenTwoNamespaces(t *testing.T) {
	netnstest.Require(t)
	a, b, lan := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	netnstest.Veth(t, a, "eth0", "192.168.60.22/24", lan, "porta", "")
	netnstest.Veth(t, b, "eth0", "192.168.60.128/24", lan, "portb", "")
	netnstest.Bridge(t, lan, "br0", "porta", "portb")

	var listener net.Listener
	a.Do(t, func() {
		var err error
		if listener, err = net.Listen("tcp4", "192.168.60.22:80"); err != nil {
			t.Fatal(err)
		}
	})
	defer func() { _ = listener.Close() }()
	accepted := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			accepted <- err.Error()
			return
		}
		accepted <- conn.RemoteAddr().String()
		_ = conn.Close()
	}()
	b.Do(t, func() {
		conn, err := net.Dial("tcp4", "192.168.60.22:80")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	})
	if from := <-accepted; !strings.HasPrefix(from, "192.168.60.128:") {
		t.Errorf("the connection came from %s", from)
	}
	if _, err := net.InterfaceByName("br0"); err == nil {
		t.Error("the switch is in the namespace of the test")
	}
	if out := lan.Exec(t, "cat", "/proc/net/dev"); !strings.Contains(out, "portb") {
		t.Errorf("Exec saw\n%s", out)
	}
}
