package ipvsmsg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// captured are requests that a kernel 6.1 took and the attributes that it answered with after ipvsadm 1.31 had told it what
// the tests below expect (on a little-endian machine, as are all that this runs on); one on each line, after its name.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/kernel-6.1")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		name, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		if all[name], err = hex.DecodeString(digits); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return all
}

func TestParse(t *testing.T) {
	t.Parallel()
	messages := captured(t)
	vip, vip6 := netip.MustParseAddrPort("10.10.60.22:80"), netip.MustParseAddrPort("[fd00::22]:443")
	for _, c := range []struct {
		name  string
		parse func([]byte) (any, error)
		want  any
	}{
		{"family", untyped(ParseFamily), uint16(28)},
		{"service-persistent", untyped(ParseService), Service{Family: IPv4, Protocol: 6, VIP: vip, Scheduler: "wlc", Flags: 3, Timeout: 300, PrefixLength: 24}},
		{"service-udp", untyped(ParseService), Service{Family: IPv4, Protocol: 17, VIP: netip.MustParseAddrPort("10.10.60.22:53"), Scheduler: "mh", Flags: 0x1e, PrefixLength: 32}},
		{"service-ipv6", untyped(ParseService), Service{Family: IPv6, Protocol: 6, VIP: vip6, Scheduler: "rr", Flags: 3, Timeout: 60, PrefixLength: 64}},
		{"service-mark", untyped(ParseService), Service{Family: IPv4, Mark: 7, Scheduler: "sh", Flags: 2, PrefixLength: 32}},
		{"destination-masquerade", untyped(ParseDestination), Destination{Address: netip.MustParseAddrPort("192.168.60.78:8080"), Weight: 70000, Upper: 100, Lower: 50}},
		{"destination-traffic", untyped(ParseDestination), Destination{Address: netip.MustParseAddrPort("192.168.60.78:8080"), Weight: 1, Active: 3,
			Statistics: Statistics{Connections: 3, PacketsIn: 9, PacketsOut: 6, BytesIn: 492, BytesOut: 393}}},
		{"destination-direct", untyped(ParseDestination), Destination{Address: netip.MustParseAddrPort("192.168.60.78:53"), Forwarding: Direct, Weight: 1}},
		{"destination-gue", untyped(ParseDestination), Destination{Address: netip.MustParseAddrPort("192.168.60.78:443"), Forwarding: Tunnelled, Weight: 1,
			Tunnel: Tunnel{Kind: GUE, Port: 6080, Flags: Checksum}}},
		{"destination-gre", untyped(ParseDestination), Destination{Address: netip.MustParseAddrPort("192.168.61.78:0"), Forwarding: Tunnelled, Weight: 1, Tunnel: Tunnel{Kind: GRE}}},
		{"destination-ipv6", untyped(ParseDestination), Destination{Address: netip.MustParseAddrPort("[fd00:1::78]:443"), Weight: 1}},
		{"timeouts", untyped(ParseTimeouts), Timeouts{TCP: 7500, TCPFin: 61, UDP: 62}},
		{"daemon-master", untyped(ParseDaemon), Daemon{State: Master, Interface: "inner0", ID: 7, MaxLength: 1200, Group: netip.MustParseAddr("224.0.0.99"), Port: 8850, TTL: 2}},
		{"daemon-backup", untyped(ParseDaemon), Daemon{State: Backup, Interface: "inner1", ID: 7, MaxLength: 1452, Group: netip.MustParseAddr("ff02::99"), Port: 8848, TTL: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			message, ok := messages[c.name]
			if !ok {
				t.Fatal("there is no such message")
			}
			got, err := c.parse(message)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v, %v\nwant %+v\nfrom %x", got, err, c.want, message)
			}
			// What is cut short is never taken for something else that is whole.
			for n := range len(message) {
				if n%4 == 0 && c.name == "timeouts" || c.name == "family" {
					continue // several attributes at the first level: fewer are a message too
				}
				if got, err := c.parse(message[:n]); !errors.Is(err, ErrMalformed) {
					t.Fatalf("the first %d of %d bytes: %+v, %v", n, len(message), got, err)
				}
			}
		})
	}
}

func untyped[T any](parse func([]byte) (T, error)) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return parse(b) }
}

// The requests are those that a kernel has taken.
func TestRequests(t *testing.T) {
	t.Parallel()
	messages := captured(t)
	const family = 28
	vip := netip.MustParseAddrPort("10.10.60.22:80")
	for name, r := range map[string]Request{
		"ask-family":            AskFamily(),
		"ask-services":          AskServices(family),
		"ask-destinations":      AskDestinations(family, Service{Family: IPv4, Protocol: 6, VIP: vip}),
		"ask-destinations-mark": AskDestinations(family, Service{Family: IPv4, Mark: 7}),
		"ask-timeouts":          AskTimeouts(family),
	} {
		if got := r.Encode(7); !bytes.Equal(got, messages[name]) {
			t.Errorf("%s\ngot  %x\nwant %x", name, got, messages[name])
		}
	}
}

// What is ordered reads as what the kernel then answers.
func TestOrdersReadBack(t *testing.T) {
	t.Parallel()
	of := Service{Family: IPv6, Protocol: 6, VIP: netip.MustParseAddrPort("[fd00::22]:443")}
	for _, d := range []Destination{
		{Address: netip.MustParseAddrPort("192.168.60.78:443"), Forwarding: Tunnelled, Weight: 1, Tunnel: Tunnel{Kind: GUE, Port: 6080, Flags: Checksum | RemoteChecksum}},
		{Address: netip.MustParseAddrPort("[fd00:1::78]:8443"), Weight: 70000, Upper: 100, Lower: 50},
	} {
		r := ChangeDestination(28, NewDestination, of, d)
		if got, err := ParseDestination(r.Attributes); err != nil || got != d {
			t.Errorf("got %+v, %v; want %+v", got, err, d)
		}
		// The service is named by what it is found by.
		if !bytes.HasPrefix(r.Attributes, of.identity()) {
			t.Errorf("%x does not begin with the service %x", r.Attributes, of.identity())
		}
	}
	for _, d := range []Daemon{
		{State: Master, Interface: "inner0", ID: 7, MaxLength: 1200, Group: netip.MustParseAddr("224.0.0.99"), Port: 8850, TTL: 2},
		{State: Backup, Interface: "inner1", ID: 7, Group: netip.MustParseAddr("ff02::99")},
		{State: Backup, Interface: "eth0"},
	} {
		if got, err := ParseDaemon(ChangeDaemon(28, NewDaemon, d).Attributes); err != nil || got != d {
			t.Errorf("got %+v, %v; want %+v", got, err, d)
		}
	}
	want := Timeouts{TCP: 900, TCPFin: 120, UDP: 300}
	if got, err := ParseTimeouts(SetTimeouts(28, want).Attributes); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// message makes one of the kernel's, as it would stand in a datagram.
func message(kind, flags uint16, sequence uint32, body ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerLen+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = append(b, 0, 0, 0, 0)
	b = append(b, body...)
	return append(b, make([]byte, aligned(len(body))-len(body))...)
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	entry := func(flags uint16, sequence uint32, n byte) []byte {
		return message(28, flags, sequence, 4, 1, 0, 0, n, n, n, n)
	}
	number := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	done := message(typeDone, flagMulti, 7, 0, 0, 0, 0)
	for _, c := range []struct {
		name      string
		datagrams [][]byte
		messages  int
		complete  bool
		err       error
	}{
		{"a listing in two datagrams", [][]byte{append(entry(flagMulti, 7, 1), entry(flagMulti, 7, 2)...), append(entry(flagMulti, 7, 3), done...)}, 3, true, nil},
		{"an empty listing", [][]byte{done}, 0, true, nil},
		{"not at its end", [][]byte{entry(flagMulti, 7, 1)}, 1, false, nil},
		{"one, and its acknowledgement", [][]byte{entry(0, 7, 1), message(typeError, 0, 7, 0, 0, 0, 0)}, 1, true, nil},
		{"refused", [][]byte{message(typeError, 0, 7, number(-17)...)}, 0, false, Refused(17)},
		{"refused in the middle of a listing", [][]byte{entry(flagMulti, 7, 1), message(typeDone, flagMulti, 7, number(-12)...)}, 1, false, Refused(12)},
		{"a late answer to an earlier request", [][]byte{append(entry(flagMulti, 6, 9), message(typeError, 0, 6, number(-1)...)...), done}, 0, true, nil},
		{"interrupted at an entry", [][]byte{entry(flagMulti|flagInterrupted, 7, 1), entry(flagMulti, 7, 2), done}, 2, false, ErrInterrupted},
		{"interrupted at the end", [][]byte{entry(flagMulti, 7, 1), message(typeDone, flagMulti|flagInterrupted, 7, 0, 0, 0, 0)}, 1, false, ErrInterrupted},
		{"lost in the kernel", [][]byte{entry(flagMulti, 7, 1), message(typeOverrun, 0, 7)}, 1, false, ErrInterrupted},
		{"half a header", [][]byte{done[:8]}, 0, false, ErrMalformed},
		{"shorter than it says", [][]byte{done[:17]}, 0, false, ErrMalformed},
		{"without its generic header", [][]byte{message(28, 0, 7, 1, 2)}, 0, false, ErrMalformed},
		{"an error without a number", [][]byte{message(typeError, 0, 7)}, 0, false, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answer := Answer{Sequence: 7}
			var complete bool
			var err error
			for i, d := range c.datagrams {
				if complete, err = answer.Take(d); (complete || err != nil) && i < len(c.datagrams)-1 {
					t.Fatalf("ended with datagram %d of %d: %v", i+1, len(c.datagrams), err)
				}
			}
			if complete != c.complete || !errors.Is(err, c.err) || len(answer.Messages) != c.messages {
				t.Errorf("complete %t, %v, %d messages; want %t, %v, %d", complete, err, len(answer.Messages), c.complete, c.err, c.messages)
			}
		})
	}
}

// Of requests that are sent together, each is judged by itself, and the last one ends it.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	no := func(sequence uint32, n int32) []byte {
		return message(typeError, 0, sequence, binary.NativeEndian.AppendUint32(nil, uint32(n))...)
	}
	for _, c := range []struct {
		name      string
		datagrams [][]byte
		refused   []error // of the requests 7, 8 and 9
		complete  bool
		err       error
	}{
		{"all done", [][]byte{no(9, 0)}, []error{nil, nil, nil}, true, nil},
		{"one refused", [][]byte{no(8, -17), no(9, 0)}, []error{nil, Refused(17), nil}, true, nil},
		{"the first and the last refused, in one datagram", [][]byte{append(no(7, -3), no(9, -2)...)}, []error{Refused(3), nil, Refused(2)}, true, nil},
		{"not at its end", [][]byte{no(7, -3)}, []error{Refused(3), nil, nil}, false, nil},
		{"late answers to others", [][]byte{no(6, -1), no(10, -1), message(28, 0, 9, 1, 1, 0, 0), no(9, 0)}, []error{nil, nil, nil}, true, nil},
		{"without a number", [][]byte{message(typeError, 0, 8)}, []error{nil, nil, nil}, false, ErrMalformed},
		{"half a header", [][]byte{no(8, -17)[:9]}, []error{nil, nil, nil}, false, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := Verdicts{First: 7, Refused: make([]error, 3)}
			var complete bool
			var err error
			for i, d := range c.datagrams {
				if complete, err = v.Take(d); (complete || err != nil) && i < len(c.datagrams)-1 {
					t.Fatalf("ended with datagram %d of %d: %v", i+1, len(c.datagrams), err)
				}
			}
			if complete != c.complete || !errors.Is(err, c.err) || !slices.Equal(v.Refused, c.refused) {
				t.Errorf("complete %t, %v, refused %v; want %t, %v, %v", complete, err, v.Refused, c.complete, c.err, c.refused)
			}
		})
	}
}

// Whatever comes is refused or read, and what has been read as a real server, a daemon or timeouts can be ordered as such.
func FuzzMessages(f *testing.F) {
	for _, b := range captured(f) {
		f.Add(b)
	}
	f.Add(message(typeError, 0, 7, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := Verdicts{First: 7, Refused: make([]error, 2)}
		_, _ = v.Take(b)
		answer := Answer{Sequence: 7}
		_, _ = answer.Take(b) // must not go out of bounds
		for _, m := range append(answer.Messages, b) {
			_, _ = ParseFamily(m)
			if s, err := ParseService(m); err == nil {
				if s.Mark == 0 && !s.VIP.IsValid() || s.PrefixLength < 0 || s.PrefixLength > 128 {
					t.Errorf("service %+v", s)
				}
				_ = AskDestinations(28, s).Encode(7)
			}
			if d, err := ParseDestination(m); err == nil {
				want := Destination{Address: d.Address, Forwarding: d.Forwarding, Weight: d.Weight, Upper: d.Upper, Lower: d.Lower, Tunnel: d.Tunnel}
				if got, err := ParseDestination(ChangeDestination(28, SetDestination, Service{Family: IPv4, Mark: 7}, d).Attributes); err != nil || got != want {
					t.Errorf("%+v reads back as %+v, %v", want, got, err)
				}
			}
			if d, err := ParseDaemon(m); err == nil {
				if got, err := ParseDaemon(ChangeDaemon(28, NewDaemon, d).Attributes); err != nil || got != d {
					t.Errorf("%+v reads back as %+v, %v", d, got, err)
				}
			}
			if want, err := ParseTimeouts(m); err == nil {
				if got, err := ParseTimeouts(SetTimeouts(28, want).Attributes); err != nil || got != want {
					t.Errorf("%+v reads back as %+v, %v", want, got, err)
				}
			}
		}
	})
}
