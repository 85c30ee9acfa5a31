package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// Adverts of keepalived 2.2.7 as they were on the wire, IP header included: version 2 with the password 1111, version 3
// at 50 cs.
const (
	golden   = "45c0002800010000ff70dde8c0a83c01e0000012 213569010101156fc0a83c4e3131313100000000"
	goldenV3 = "45c0002000010000ff70ddf0c0a83c01e0000012 3135690100328b67c0a83c4e"
	// The same with the checksum over the message alone: 3135 + 6901 + 0032 + c0a8 + 3c4e = 975f, carry included.
	goldenMessage = "45c0002000010000ff70ddf0c0a83c01e0000012 31356901003268a0c0a83c4e"
)

func goldenBytes(t testing.TB) []byte { return unhex(t, golden) }

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
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
	return Expect{Version: V2, VirtualRouterID: 53, Interval: time.Second, Authentication: SimplePassword([]byte("1111")),
		Self: netip.MustParseAddr("192.168.60.2")}
}

func goldenFormat() Format {
	return Format{Version: V2, Authentication: SimplePassword([]byte("1111"))}
}

func goldenAdvertisementV3() Advertisement {
	a := goldenAdvertisement()
	a.Interval = 50 * Centisecond
	return a
}

func goldenExpectV3() Expect {
	return Expect{Version: V3, VirtualRouterID: 53, Self: netip.MustParseAddr("192.168.60.2")}
}

func TestAppendEqualsKeepalived(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("192.168.60.1")
	tests := []struct {
		name   string
		advert Advertisement
		format Format
		want   string
	}{
		{"version 2", goldenAdvertisement(), goldenFormat(), golden},
		{"version 3", goldenAdvertisementV3(), Format{Version: V3, Source: source}, goldenV3},
		{"version 3, sum of the message", goldenAdvertisementV3(), Format{Version: V3, Checksum: ChecksumMessage, Source: source},
			goldenMessage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			want := unhex(t, tt.want)[20:]
			if got := tt.advert.Append(nil, tt.format); !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
			// Appended behind other bytes the message is the same.
			if got := tt.advert.Append([]byte{1, 2, 3}, tt.format); !bytes.Equal(got[3:], want) {
				t.Errorf("behind a prefix: got %x, want %x", got[3:], want)
			}
		})
	}
}

func TestReceiveGolden(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("192.168.60.1")
	tests := []struct {
		name   string
		packet string
		expect Expect
		want   Received
	}{
		{"version 2", golden, goldenExpect(), Received{Advertisement: goldenAdvertisement(), From: source, Checksum: ChecksumMessage}},
		{"version 3", goldenV3, goldenExpectV3(), Received{Advertisement: goldenAdvertisementV3(), From: source, Checksum: ChecksumPseudoHeader}},
		{"version 3, sum of the message", goldenMessage, goldenExpectV3(), Received{Advertisement: goldenAdvertisementV3(), From: source, Checksum: ChecksumMessage}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.expect.Receive(unhex(t, tt.packet), nil)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v %v, want %+v", got, err, tt.want)
			}
		})
	}
}

func TestIntervalsV3(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("192.168.60.1")
	for interval, want := range map[time.Duration]string{10 * time.Millisecond: "0001", 40950 * time.Millisecond: "0fff"} {
		a := goldenAdvertisementV3()
		a.Interval = interval
		b := a.Append(unhex(t, goldenV3)[:20], Format{Version: V3, Source: source})
		if got := hex.EncodeToString(b[24:26]); got != want {
			t.Errorf("%v: got %s, want %s", interval, got, want)
		}
		if got, err := goldenExpectV3().Receive(b, nil); err != nil || got.Interval != interval {
			t.Errorf("%v: got %v %v", interval, got.Interval, err)
		}
	}
}

func TestReceiveChecks(t *testing.T) {
	t.Parallel()
	// set changes a byte; with sum the VRRP checksum is made right again, so that only the check meant can fail.
	set := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	sum := func(b []byte) []byte {
		b[26], b[27] = 0, 0
		c := checksum(0, b[20:])
		b[26], b[27] = byte(c>>8), byte(c)
		return b
	}
	v3 := func(e *Expect) { *e = goldenExpectV3() }
	packetV3 := func() []byte { return unhex(t, goldenV3) }
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
		{"version 3: golden", func([]byte) []byte { return packetV3() }, v3, nil},
		{"version 3: version 2", nil, v3, DropVersion},
		{"version 3: type 2", func([]byte) []byte { return sum(set(packetV3(), 20, 0x32)) }, v3, DropType},
		{"version 3: cut", func([]byte) []byte { return set(packetV3()[:27], 3, 27) }, v3, DropLength},
		{"version 3: one address too few claimed", func([]byte) []byte { return sum(set(packetV3(), 23, 0)) }, v3, DropLength},
		{"version 3: trailer", func([]byte) []byte { return sum(set(append(packetV3(), 0, 0), 3, 34)) }, v3, DropLength},
		{"version 3: checksum", func([]byte) []byte { return set(packetV3(), 22, 106) }, v3, DropChecksum},
		{"version 3: checksum of another sender", func([]byte) []byte { return set(packetV3(), 15, 3) }, v3, DropChecksum},
		{"other router of another version", func([]byte) []byte { return sum(set(packetV3(), 21, 56)) }, nil, DropOtherRouter},
		{"version 3: other router", func([]byte) []byte { return sum(set(packetV3(), 21, 56)) }, v3, DropOtherRouter},
		{"version 3: other interval", func([]byte) []byte { return sum(set(packetV3(), 25, 100)) }, v3, nil},
		{"version 3: reserved bits", func([]byte) []byte { return sum(set(packetV3(), 24, 0xf0)) }, v3, nil},
		{"version 3: no interval", func([]byte) []byte { return sum(set(set(packetV3(), 24, 0xf0), 25, 0)) }, v3, DropInterval},
		{"version 3: own address", func([]byte) []byte { return packetV3() },
			func(e *Expect) { *e = goldenExpectV3(); e.Self = netip.MustParseAddr("192.168.60.1") }, DropOwn},
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
			if _, err := e.Receive(b, nil); !errors.Is(err, tt.want) {
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
	for _, text := range []string{golden, goldenV3, goldenMessage, goldenV6, "", golden[:57]} {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range []Expect{goldenExpect(), goldenExpectV3(), goldenExpectV6()} {
			r, err := e.Receive(b, nil)
			if err != nil {
				var d Drop
				if !errors.As(err, &d) {
					t.Fatalf("error %v is no Drop", err)
				}
				continue
			}
			header := int(b[0]&0x0f) * 4
			if e.Self.Is6() {
				header = HeaderV6
			}
			payload := bytes.Clone(b[header:])
			if e.Version == V3 {
				payload[4] &= intervalBits >> 8 // the reserved bits are not looked at
			}
			format := Format{Version: e.Version, Authentication: e.Authentication, Checksum: r.Checksum, Source: r.From}
			if got := r.Append(nil, format); !bytes.Equal(got, payload) && !equalButChecksum(got, payload) {
				t.Errorf("accepted %x, made %x", payload, got)
			}
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
	a, b := goldenAdvertisement(), make([]byte, 0, 64)
	for _, f := range []Format{goldenFormat(), {Version: V3, Source: netip.MustParseAddr("192.168.60.1")}, {Version: V3, Source: goldenSourceV6}} {
		if f.Source.Is6() {
			a = goldenAdvertisementV6()
		}
		if n := testing.AllocsPerRun(100, func() { b = a.Append(b[:0], f) }); n != 0 {
			t.Errorf("version %d: %v allocations per advert", f.Version, n)
		}
	}
}

// TestUnicast: an advert by unicast is for whom it is sent to, with the checksum of either destination.
func TestUnicast(t *testing.T) {
	t.Parallel()
	from, to := netip.MustParseAddr("192.168.60.1"), netip.MustParseAddr("192.168.60.2")
	a := Advertisement{VirtualRouterID: 53, Priority: 105, Interval: 500 * time.Millisecond, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")}}
	for _, destination := range []netip.Addr{to, {}} {
		payload := a.Append(nil, Format{Version: V3, Source: from, Destination: destination})
		header := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, TTL, Protocol, 0, 0}
		datagram := slices.Concat(header, from.AsSlice(), to.AsSlice(), payload)
		e := Expect{Version: V3, VirtualRouterID: 53, Self: to}
		if got, err := e.Receive(datagram, nil); err != nil || got.Priority != 105 || got.Checksum != ChecksumPseudoHeader {
			t.Errorf("checksum for %v: got %+v %v", destination, got, err)
		}
		for peer, want := range map[netip.Addr]error{from: nil, netip.MustParseAddr("192.168.60.9"): DropPeer} {
			e.Peers = []netip.Addr{peer}
			if _, err := e.Receive(datagram, nil); err != want {
				t.Errorf("peer %v: %v", peer, err)
			}
		}
		multicast := append([]byte(nil), datagram...)
		copy(multicast[16:], group4.AsSlice())
		multicast[26], multicast[27] = 0, 0
		binary.BigEndian.PutUint16(multicast[26:], checksum(pseudoHeader(from, group4, Protocol, len(payload)), multicast[20:]))
		e.Peers = []netip.Addr{from}
		if _, err := e.Receive(multicast, nil); err != DropPeer {
			t.Errorf("multicast where unicast is wanted: %v", err)
		}
		e.Peers = nil
		if _, err := e.Receive(multicast, nil); err != nil {
			t.Errorf("multicast: %v", err)
		}
		e.Self = netip.MustParseAddr("192.168.60.3")
		if _, err := e.Receive(datagram, nil); err != DropDestination {
			t.Errorf("somebody else's: %v", err)
		}
	}
}

// Trailers that were calculated by hand with another implementation of HMAC; the adverts are the golden ones of the other
// tests, with the key 00 01 .. 1f of the identifier 7, at 0x66000000 and a half.
var signed = map[Version]string{
	V2: "21356901000178d1c0a83c4e0000000000000000" + "010700006600000080000000" + "189b2f2b4e03f54706aa090aa3d69b6c",
	V3: "3135690100328b67c0a83c4e" + "010700006600000080000000" + "1b74339f49dd1581541a176ed613c12d",
}

func testRing(active uint8, ids ...uint8) *Ring {
	var keys []Key
	for _, id := range ids {
		secret := make([]byte, 32)
		for n := range secret {
			secret[n] = byte(n) + (id - 7)
		}
		keys = append(keys, Key{ID: id, Secret: secret})
	}
	return NewRing(active, keys)
}

func TestSignature(t *testing.T) {
	from, now := netip.MustParseAddr("192.168.60.1"), time.Unix(0x66000000, 500_000_000)
	for version, want := range signed {
		ring := testRing(7, 7)
		f := Format{Version: version, Source: from, Ring: ring}
		a := Advertisement{VirtualRouterID: 53, Priority: 105, Interval: time.Second, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")}}
		if version == V3 {
			a.Interval = 500 * time.Millisecond
		}
		payload := a.Append(nil, f)
		ring.Sign(payload, f, now)
		if got := hex.EncodeToString(payload); got != want {
			t.Fatalf("version %d: got\n%s, want\n%s", version, got, want)
		}
		e := Expect{Version: version, VirtualRouterID: 53, Interval: a.Interval, Ring: testRing(8, 7, 8), Signed: true}
		receive := func(payload []byte) (Received, error) {
			header := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, TTL, Protocol, 0, 0}
			return e.Receive(slices.Concat(header, from.AsSlice(), []byte{224, 0, 0, 18}, payload), nil)
		}
		got, err := receive(payload)
		if err != nil || !got.Signed || got.Sequence != SequenceOf(now) {
			t.Fatalf("version %d: got %+v %v", version, got, err)
		}
		for at := range payload { // nothing in it can be changed, the sum aside, which is nobody's secret
			payload[at] ^= 1
			if _, err := receive(payload); err == nil {
				t.Errorf("version %d: byte %d changed: accepted", version, at)
			}
			payload[at] ^= 1
		}
		unsigned := payload[:len(payload)-trailerLength]
		if _, err := receive(unsigned); err != DropSignature {
			t.Errorf("without a trailer: %v", err)
		}
		e.Signed = false
		if got, err := receive(unsigned); err != nil || got.Signed {
			t.Errorf("without a trailer, which is allowed: %+v %v", got, err)
		}
		e.Ring = testRing(8, 8)
		if _, err := receive(payload); err != DropSignature {
			t.Errorf("unknown key: %v", err)
		}
		e.Ring = nil
		if _, err := receive(payload); err != DropLength {
			t.Errorf("without keys: %v", err)
		}
		if n := testing.AllocsPerRun(100, func() { ring.Sign(payload, f, now) }); n != 0 {
			t.Errorf("%v allocations for a trailer", n)
		}
	}
}

func TestSequence(t *testing.T) {
	t.Parallel()
	ring, now := testRing(7, 7), time.Unix(0x66000000, 500_000_000)
	f := Format{Version: V3, Source: netip.MustParseAddr("192.168.60.1"), Ring: ring}
	advert := Advertisement{VirtualRouterID: 53, Priority: 1, Interval: time.Second}.Append(nil, f)
	at := func(now time.Time) Sequence {
		ring.Sign(advert, f, now)
		s, _ := ring.verify(f.Source, advert)
		return s
	}
	first := at(now)
	for n, later := range []time.Time{now, now, now.Add(-time.Hour), now.Add(time.Millisecond)} {
		next := at(later)
		if !next.after(first) || n < 3 && next != first+1 {
			t.Errorf("%x after %x", next, first)
		}
		first = next
	}

	var p Replay
	a, b := netip.MustParseAddr("192.168.60.1"), netip.MustParseAddr("192.168.60.2")
	s, window := SequenceOf(now), 5*time.Second
	for n, step := range []struct {
		from netip.Addr
		s    Sequence
		want bool
	}{
		{a, s, true}, {a, s, false}, {b, s, true}, {a, s + 1, true}, {a, s, false}, {a, SequenceOf(now.Add(5 * time.Second)), true},
		{a, SequenceOf(now.Add(6 * time.Second)), false}, {b, SequenceOf(now.Add(-6 * time.Second)), false},
		{a, s + 2, false}, {b, s + 2, true},
	} {
		if got := p.Take(step.from, step.s, now, window); got != step.want {
			t.Errorf("step %d: got %v", n, got)
		}
	}
	if wrap := Sequence(1); !wrap.after(Sequence(1<<64 - 1)) {
		t.Error("the sequence does not wrap")
	}
	for n := range 3 * replayMost {
		p.Take(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), s+Sequence(n), now, window)
	}
	if len(p.last) != replayMost || p.Take(netip.AddrFrom4([4]byte{10, 0, 0, 3*replayMost - 1}), s, now, window) {
		t.Errorf("%d senders are remembered", len(p.last))
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	mac, vip := MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("192.168.60.78")
	frame := GratuitousARP(mac, vip)
	if a, m, ok := Claim(frame); a != vip || m != mac || !ok {
		t.Errorf("got %v %v %v", a, m, ok)
	}
	for n := range frame {
		if _, _, ok := Claim(frame[:n]); ok {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	if _, _, ok := Claim(GratuitousARP(mac, netip.IPv4Unspecified())); ok {
		t.Error("a probe is taken for a claim")
	}
	frame[13] = 0
	if _, _, ok := Claim(frame); ok {
		t.Error("another protocol is taken for ARP")
	}
}
