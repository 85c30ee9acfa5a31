package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// What keepalived 2.2.7 sent on the wire: an advert at 50 cs, IP header included, and a neighbor advertisement from
// 02:00:00:00:00:22, without its Ethernet header.
const (
	goldenV6 = "6c0acce6002870ff fe80000000000000000000fffe000022 ff020000000000000000000000000012" +
		"31356902 00323abc fe800000000000000000000000000078 20010db8006000000000000000000078"
	goldenNeighbor = "6000000000203aff fe800000000000000000000000000078 ff020000000000000000000000000001" +
		"8800568c 20000000 fe800000000000000000000000000078 0201020000000022"
)

func goldenAdvertisementV6() Advertisement {
	return Advertisement{VirtualRouterID: 53, Priority: 105, Interval: 50 * Centisecond,
		Addresses: []netip.Addr{netip.MustParseAddr("fe80::78"), netip.MustParseAddr("2001:db8:60::78")}}
}

var goldenSourceV6 = netip.MustParseAddr("fe80::ff:fe00:22")

func goldenExpectV6() Expect {
	return Expect{Version: V3, VirtualRouterID: 53, Self: netip.MustParseAddr("fe80::128"), Also: netip.MustParseAddr("2001:db8:60::128")}
}

func TestGoldenV6(t *testing.T) {
	t.Parallel()
	datagram := unhex(t, goldenV6)
	// The other form of checksum is not one of IPv6.
	for _, form := range []Checksum{ChecksumPseudoHeader, ChecksumMessage} {
		format := Format{Version: V3, Source: goldenSourceV6, Checksum: form}
		if got := goldenAdvertisementV6().Append(nil, format); !bytes.Equal(got, datagram[HeaderV6:]) {
			t.Errorf("got  %x\nwant %x", got, datagram[HeaderV6:])
		}
	}
	want := Received{Advertisement: goldenAdvertisementV6(), From: goldenSourceV6}
	if got, err := goldenExpectV6().Receive(datagram, nil); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v %v, want %+v", got, err, want)
	}
	made := make([]byte, HeaderV6)
	PutHeaderV6(made, goldenSourceV6.As16(), group6.As16(), TTL, len(datagram)-HeaderV6)
	clear(datagram[1:4]) // traffic class and flow label are not told
	datagram[0] = ip6VersionTraffic
	if !bytes.Equal(made, datagram[:HeaderV6]) {
		t.Errorf("got  %x\nwant %x", made, datagram[:HeaderV6])
	}
}

func TestReceiveChecksV6(t *testing.T) {
	t.Parallel()
	// set changes a byte; sum makes the checksum right again, so that only the check meant can fail.
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	sum := func(change func([]byte) []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b = change(b)
			source, destination := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
			b[46], b[47] = 0, 0
			binary.BigEndian.PutUint16(b[46:], checksum(pseudoHeader(source, destination, Protocol, len(b)-HeaderV6), b[HeaderV6:]))
			return b
		}
	}
	to := func(a string) func([]byte) []byte {
		return sum(func(b []byte) []byte { copy(b[24:], netip.MustParseAddr(a).AsSlice()); return b })
	}
	from := func(a string) func([]byte) []byte {
		return sum(func(b []byte) []byte { copy(b[8:], netip.MustParseAddr(a).AsSlice()); return b })
	}
	tests := []struct {
		name   string
		change func([]byte) []byte
		expect func(*Expect)
		want   error
	}{
		{name: "golden"},
		{"IPv4", func([]byte) []byte { return unhex(t, goldenV3) }, nil, DropHeader},
		{"cut header", func(b []byte) []byte { return b[:39] }, nil, DropHeader},
		{"longer than it says", func(b []byte) []byte { return append(b, 0) }, nil, DropHeader},
		{"other protocol", set(6, 58), nil, DropHeader},
		{"IPv4 in IPv6", from("::ffff:192.168.60.1"), nil, DropHeader},
		{"other group", to("ff02::1"), nil, DropDestination},
		{"to somebody else", to("2001:db8:60::129"), nil, DropDestination},
		{"to us", to("2001:db8:60::128"), nil, nil},
		{"to us, link-local", to("fe80::128"), nil, nil},
		{"hop limit", set(7, 254), nil, DropTTL},
		{"version 2", sum(set(40, 0x21)), nil, DropVersion},
		{"type", sum(set(40, 0x32)), nil, DropType},
		{"address less", sum(set(43, 1)), nil, DropLength},
		{"address more", sum(set(43, 3)), nil, DropLength},
		{"four addresses of IPv4", sum(func(b []byte) []byte { b[43] = 8; return b }), nil, DropLength},
		{"checksum", set(47, 0), nil, DropChecksum},
		{"checksum of the message", func(b []byte) []byte {
			b[46], b[47] = 0, 0
			binary.BigEndian.PutUint16(b[46:], checksum(0, b[HeaderV6:]))
			return b
		}, nil, DropChecksum},
		{"other router", sum(set(41, 54)), nil, DropOtherRouter},
		{"no interval", sum(set(45, 0)), nil, DropInterval},
		{"from ourselves", from("fe80::128"), nil, DropOwn},
		{"from our other address", from("2001:db8:60::128"), nil, DropOwn},
		{"by multicast where unicast is wanted", nil, func(e *Expect) { e.Peers = []netip.Addr{goldenSourceV6} }, DropPeer},
		{"no trailer", nil, func(e *Expect) { e.Ring, e.Signed = testRing(1, 1), true }, DropSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, e := unhex(t, goldenV6), goldenExpectV6()
			if tt.change != nil {
				b = tt.change(b)
			}
			if tt.expect != nil {
				tt.expect(&e)
			}
			if _, err := e.Receive(b, nil); err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := goldenExpectV3().Receive(unhex(t, goldenV6), nil); err != DropHeader {
		t.Errorf("for an instance of IPv4: got %v, want %v", err, DropHeader)
	}
}

// TestSignatureV6: the code of a signed advert covers the whole address of its sender.
func TestSignatureV6(t *testing.T) {
	t.Parallel()
	f := Format{Version: V3, Source: goldenSourceV6, Ring: testRing(1, 1)}
	payload := goldenAdvertisementV6().Append(nil, f)
	now := time.Unix(1_800_000_000, 0)
	f.Ring.Sign(payload, f, now)
	receive := func(source netip.Addr) (Received, error) {
		b := append(make([]byte, HeaderV6), payload...)
		PutHeaderV6(b, source.As16(), group6.As16(), TTL, len(payload))
		at := HeaderV6 + checksumAt
		b[at], b[at+1] = 0, 0 // the sum is right for this sender too
		message := b[HeaderV6 : len(b)-trailerLength]
		binary.BigEndian.PutUint16(b[at:], checksum(pseudoHeader(source, group6, Protocol, len(message)), message))
		e := goldenExpectV6()
		e.Ring, e.Signed = testRing(1, 1), true
		return e.Receive(b, nil)
	}
	if got, err := receive(goldenSourceV6); err != nil || !got.Signed || got.Sequence != SequenceOf(now) {
		t.Errorf("got %+v %v", got, err)
	}
	other := goldenSourceV6.As16()
	other[8]++ // beyond what an address of IPv4 has
	if _, err := receive(netip.AddrFrom16(other)); err != DropSignature {
		t.Errorf("of another sender: got %v, want %v", err, DropSignature)
	}
}

func TestNeighborAdvertisement(t *testing.T) {
	t.Parallel()
	mac, address := MAC{2, 0, 0, 0, 0, 0x22}, netip.MustParseAddr("fe80::78")
	got := NeighborAdvertisement(mac, address, false)
	want := slices.Concat(unhex(t, "333300000001 020000000022 86dd"), unhex(t, goldenNeighbor))
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if again := Announcement(mac, address, false); !bytes.Equal(again, got) {
		t.Errorf("announcement %x", again)
	}
	router := NeighborAdvertisement(mac, address, true)
	if router[icmp6At+4] != flagRouter|flagOverride || checksum(pseudoHeader(address, allNodes, icmp6, frameLong-icmp6At), router[icmp6At:]) != 0 {
		t.Errorf("of a router: %x", router)
	}
	for name, tt := range map[string]struct {
		change func([]byte) []byte
		mac    MAC
		ok     bool
	}{
		"as it is":         {func(b []byte) []byte { return b }, mac, true},
		"without option":   {func(b []byte) []byte { return b[:optionAt] }, mac, true},
		"through a router": {func(b []byte) []byte { b[14+ip6HopLimitAt] = 64; return b }, MAC{}, false},
		"a solicitation":   {func(b []byte) []byte { b[icmp6At] = 135; return b }, MAC{}, false},
		"cut":              {func(b []byte) []byte { return b[:optionAt-1] }, MAC{}, false},
		"another's option": {func(b []byte) []byte { b[frameLong-1] = 9; return b }, MAC{2, 0, 0, 0, 0, 9}, true},
	} {
		a, who, ok := Claim(tt.change(bytes.Clone(got)))
		if ok != tt.ok || ok && (who != tt.mac || a != address) {
			t.Errorf("%s: got %v %s %v", name, a, hex.EncodeToString(who[:]), ok)
		}
	}
}
