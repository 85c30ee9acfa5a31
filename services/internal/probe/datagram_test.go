package probe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/twotier/twotier/services/internal/testreq"
)

// answering is a UDP server; answer nil: it says nothing.
func answering(t *testing.T, answer func(request []byte) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			if a := answer(buf[:n]); a != nil {
				_, _ = conn.WriteTo(a, from) // the probe notices
			}
		}
	}()
	return conn.LocalAddr().String()
}

// nobody is a UDP address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// judge compares the end of a probe with a part of the error; empty: good.
func judge(t *testing.T, p Prober, bad string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := p.Probe(ctx)
	if (err == nil) != (bad == "") || err != nil && !strings.Contains(err.Error(), bad) {
		t.Errorf("%+v: got %v, want an error with %q", p, err, bad)
	}
}

func TestUDP(t *testing.T) {
	t.Parallel()
	echo := answering(t, func(b []byte) []byte { return append([]byte("you said "), b...) })
	mute := answering(t, func([]byte) []byte { return nil })
	judge(t, UDP{Address: echo, Payload: []byte("hi")}, "")
	judge(t, UDP{Address: echo, Payload: []byte("hi"), Expect: []byte("you said hi")}, "")
	judge(t, UDP{Address: echo, Payload: []byte("hi"), Expect: []byte("hi")}, `begins with "you said hi"`)
	judge(t, UDP{Address: mute, Payload: []byte("hi")}, "")
	judge(t, UDP{Address: mute, Payload: []byte("hi"), Expect: []byte("hi")}, "timeout")
	judge(t, UDP{Address: nobody(t), Payload: []byte("hi")}, "refused")
}

func TestDNS(t *testing.T) {
	t.Parallel()
	server := func(change func(*dnsmessage.Message)) string {
		return answering(t, func(b []byte) []byte {
			var m dnsmessage.Message
			if err := m.Unpack(b); err != nil {
				return nil
			}
			m.Response = true
			change(&m)
			packed, err := m.Pack()
			if err != nil {
				return nil
			}
			return packed
		})
	}
	good := server(func(m *dnsmessage.Message) {
		if m.Questions[0].Name.String() != "www.9527du.com." || m.Questions[0].Type != dnsmessage.TypeA {
			m.RCode = dnsmessage.RCodeNameError
		}
	})
	judge(t, DNS{Address: good, Name: "www.9527du.com", Type: dnsmessage.TypeA}, "")
	judge(t, DNS{Address: good, Name: "www.9527du.com.", Type: dnsmessage.TypeA}, "")
	judge(t, DNS{Address: good, Name: "www.9527du.com"}, "SOA www.9527du.com.: NameError")
	judge(t, DNS{Address: server(func(m *dnsmessage.Message) { m.ID++ })}, "another question")
	judge(t, DNS{Address: server(func(m *dnsmessage.Message) { m.Response = false })}, "another question")
	judge(t, DNS{Address: answering(t, func([]byte) []byte { return []byte("x") })}, "not DNS")
	judge(t, DNS{Address: nobody(t)}, "refused")
	judge(t, DNS{Address: good, Name: strings.Repeat("a", 300)}, "name")
}

func TestKernelICMP(t *testing.T) {
	if os.Geteuid() != 0 {
		testreq.Missing(t, "root: a raw socket for ICMP needs it")
	}
	judge(t, ICMP{Address: netip.MustParseAddr("127.0.0.1")}, "")
	judge(t, ICMP{Address: netip.IPv6Loopback()}, "")
}
