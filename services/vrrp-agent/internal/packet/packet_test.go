package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// golden is an advert of keepalived 2.2.7 as it was on the wire, IP header included.
const golden = "45c000280001 0000ff70dde8c0a83c01e0000012 213569010101156fc0a83c4e3131313100000000"

func goldenBytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(golden, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenAdvertisement() Advertisement {
	return Advertisement{
		VirtualRouterID: 53, Priority: 105, Interval: time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
	}
}

func goldenExpect() Expect {
	return Expect{VirtualRouterID: 53, Interval: time.Second, Authentication: SimplePassword([]byte("1111")),
		Self: netip.MustParseAddr("192.168.60.2")}
}

func TestAppendEqualsKeepalived(t *testing.T) {
	t.Parallel()
	want := goldenBytes(t)[20:]
	got := goldenAdvertisement().Append(nil, SimplePassword([]byte("1111")))
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	// Appended behind other bytes the message is the same.
	if got := goldenAdvertisement().Append([]byte{1, 2, 3}, SimplePassword([]byte("1111"))); !bytes.Equal(got[3:], want) {
		t.Errorf("behind a prefix: got %x, want %x", got[3:], want)
	}
}

func TestReceiveGolden(t *testing.T) {
	t.Parallel()
	got, source, err := goldenExpect().Receive(goldenBytes(t))
	if err != nil {
		t.Fatal(err)
	}
	if want := goldenAdvertisement(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if want := netip.MustParseAddr("192.168.60.1"); source != want {
		t.Errorf("source %v, want %v", source, want)
	}
}

func TestReceiveChecks(t *testing.T) {
	t.Parallel()
	// set changes a byte; with sum the VRRP checksum is made right again, so that only the check meant can fail.
	set := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	sum := func(b []byte) []byte {
		b[26], b[27] = 0, 0
		c := checksum(b[20:])
		b[26], b[27] = byte(c>>8), byte(c)
		return b
	}
	tests := []struct {
		name   string
		change func([]byte) []byte
		expect func(*Expect)
		want   error
	}{
		{name: "golden"},
		{"empty", func(b []byte) []byte { return nil }, nil, DropHeader},
		{"header only", func(b []byte) []byte { return b[:20] }, nil, DropHeader},
		{"ip version 6", func(b []byte) []byte { return set(b, 0, 0x65) }, nil, DropHeader},
		{"header longer than packet", func(b []byte) []byte { return set(b, 0, 0x4f) }, nil, DropHeader},
		{"header too short", func(b []byte) []byte { return set(b, 0, 0x44) }, nil, DropHeader},
		{"truncated", func(b []byte) []byte { return b[:39] }, nil, DropHeader},
		{"other protocol", func(b []byte) []byte { return set(b, 9, 17) }, nil, DropHeader},
		{"unicast", func(b []byte) []byte { return set(b, 19, 19) }, nil, DropDestination},
		{"ttl 254", func(b []byte) []byte { return set(b, 8, 254) }, nil, DropTTL},
		{"version 3", func(b []byte) []byte { return sum(set(b, 20, 0x31)) }, nil, DropVersion},
		{"type 2", func(b []byte) []byte { return sum(set(b, 20, 0x22)) }, nil, DropType},
		{"one address too many claimed", func(b []byte) []byte { return sum(set(b, 23, 2)) }, nil, DropLength},
		{"one address too few claimed", func(b []byte) []byte { return sum(set(b, 23, 0)) }, nil, DropLength},
		{"no authentication data", func(b []byte) []byte { b = b[:32]; return sum(set(b, 3, 32)) }, nil, DropLength},
		{"trailer", func(b []byte) []byte { return sum(set(append(b, 0, 0), 3, 42)) }, nil, DropLength},
		{"checksum", func(b []byte) []byte { return set(b, 22, 106) }, nil, DropChecksum},
		{"other router", func(b []byte) []byte { return sum(set(b, 21, 56)) }, nil, DropOtherRouter},
		{"other password", func(b []byte) []byte { return sum(set(b, 32, '2')) }, nil, DropAuthentication},
		{"longer password", func(b []byte) []byte { return sum(set(b, 36, '1')) }, nil, DropAuthentication},
		{"no authentication", func(b []byte) []byte { return sum(set(b, 24, 0)) }, nil, DropAuthentication},
		{"authentication header", func(b []byte) []byte { return sum(set(b, 24, 2)) }, nil, DropAuthentication},
		{"password where none is wanted", nil, func(e *Expect) { e.Authentication = Authentication{} }, DropAuthentication},
		{"data ignored without authentication", func(b []byte) []byte { return sum(set(b, 24, 0)) },
			func(e *Expect) { e.Authentication = Authentication{} }, nil},
		{"interval 2 s", func(b []byte) []byte { return sum(set(b, 25, 2)) }, nil, DropInterval},
		{"own address", nil, func(e *Expect) { e.Self = netip.MustParseAddr("192.168.60.1") }, DropOwn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, e := goldenBytes(t), goldenExpect()
			if tt.change != nil {
				b = tt.change(b)
			}
			if tt.expect != nil {
				tt.expect(&e)
			}
			if _, _, err := e.Receive(b); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v, input %x", err, tt.want, b)
			}
		})
	}
}

func TestSimplePasswordTakesEightBytes(t *testing.T) {
	t.Parallel()
	if SimplePassword([]byte("12345678")) != SimplePassword([]byte("123456789")) {
		t.Error("the ninth byte counts")
	}
	if (SimplePassword(nil) == Authentication{}) {
		t.Error("an empty password equals no authentication")
	}
}

func TestGratuitousARP(t *testing.T) {
	t.Parallel()
	got := hex.EncodeToString(GratuitousARP(MAC{2, 0x42, 0xc0, 0xa8, 0x3c, 0x16}, netip.MustParseAddr("192.168.60.78")))
	want := "ffffffffffff" + "0242c0a83c16" + "0806" + "0001" + "0800" + "0604" + "0001" +
		"0242c0a83c16" + "c0a83c4e" + "ffffffffffff" + "c0a83c4e"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzReceive looks for packets that panic, and for accepted ones that do not come out of Append again.
func FuzzReceive(f *testing.F) {
	f.Add(goldenBytes(f))
	f.Add([]byte{})
	f.Add(goldenBytes(f)[:28])
	f.Fuzz(func(t *testing.T, b []byte) {
		e := goldenExpect()
		a, _, err := e.Receive(b)
		if err != nil {
			var d Drop
			if !errors.As(err, &d) {
				t.Fatalf("error %v is no Drop", err)
			}
			return
		}
		payload := b[int(b[0]&0x0f)*4:]
		if got := a.Append(nil, e.Authentication); !bytes.Equal(got, payload) && !equalButChecksum(got, payload) {
			t.Errorf("accepted %x, made %x", payload, got)
		}
	})
}

// equalButChecksum allows for the two forms of zero in ones' complement: 0x0000 and 0xffff verify alike.
func equalButChecksum(a, b []byte) bool {
	a, b = bytes.Clone(a), bytes.Clone(b)
	a[checksumAt], a[checksumAt+1], b[checksumAt], b[checksumAt+1] = 0, 0, 0, 0
	return bytes.Equal(a, b)
}

func TestSteadySendDoesNotAllocate(t *testing.T) {
	a, auth, b := goldenAdvertisement(), SimplePassword([]byte("1111")), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { b = a.Append(b[:0], auth) }); n != 0 {
		t.Errorf("%v allocations per advert", n)
	}
}
