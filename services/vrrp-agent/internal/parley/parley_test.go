package parley

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var whole = Message{
	Kind: Offer, Instance: "VI_1", Node: "haproxy", VirtualRouterID: 53, Owner: true, Deaf: true, Priority: 105,
	Number: 1 << 63, Echo: 7,
	Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.22"), netip.MustParseAddr("2001:db8::22")},
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	key := NewKey("VI_1", []byte("2222"))
	for _, want := range []Message{whole, {Kind: Question}, {Kind: Refused, Ready: true}} {
		b := want.Append([]byte("before"), key)[len("before"):]
		got, err := Parse(b, key)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v %v, want %+v", got, err, want)
		}
		if about, err := About(b); about != want.Instance || err != nil {
			t.Errorf("about %q %v", about, err)
		}
		for _, other := range []Key{NewKey("VI_1", nil), NewKey("VI_2", []byte("2222"))} {
			if _, err := Parse(b, other); !errors.Is(err, ErrCode) {
				t.Errorf("another key: got %v", err)
			}
		}
		for at := range b { // no bit is without meaning
			b[at] ^= 4
			if got, err := Parse(b, key); err == nil {
				t.Errorf("byte %d changed: got %+v", at, got)
			}
			b[at] ^= 4
		}
		for n := range b {
			if _, err := Parse(b[:n], key); err == nil {
				t.Errorf("cut to %d bytes: accepted", n)
			}
		}
	}
}

func TestTooMuchIsCutOff(t *testing.T) {
	t.Parallel()
	m := Message{Kind: Answer, Instance: strings.Repeat("i", 100), Node: strings.Repeat("n", 100)}
	for range 40 {
		m.Addresses = append(m.Addresses, netip.MustParseAddr("2001:db8::1"))
	}
	b := m.Append(nil, Key{})
	got, err := Parse(b, Key{})
	if err != nil || len(got.Addresses) != MaxAddresses || len(got.Instance) != 63 || len(got.Node) != 63 || len(b) != MaxLength {
		t.Errorf("got %+v %v, %d bytes", got, err, len(b))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(whole.Append(nil, Key{}))
	f.Add(Message{Kind: Question}.Append(nil, Key{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, end, err := decode(b)
		if err != nil {
			return
		}
		// What is understood says the same when it is said again. Reserved bits are not.
		if again, _, err := decode(m.Append(nil, Key{})); err != nil || !reflect.DeepEqual(again, m) || end != len(b)-codeLength {
			t.Errorf("%x: got %+v %v, want %+v", b, again, err, m)
		}
	})
}
