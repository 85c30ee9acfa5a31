package proxyproto

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

const v2 = "\r\n\r\n\x00\r\nQUIT\n"

// sent are headers as Debian's HAProxy 2.6 has sent them.
var sent = []struct {
	name  string // the options of the server
	bytes string
	want  Header
}{
	{"send-proxy", "PROXY TCP4 127.0.0.1 127.0.0.1 59564 33275\r\n", Header{at("127.0.0.1:59564"), at("127.0.0.1:33275")}},
	{"send-proxy", "PROXY TCP6 ::1 ::1 53902 50291\r\n", Header{at("[::1]:53902"), at("[::1]:50291")}},
	{"send-proxy-v2", v2 + "!\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\xb1\xc6\xc9\xd7", Header{at("127.0.0.1:45510"), at("127.0.0.1:51671")}},
	{"send-proxy-v2", v2 + "!!\x00$" + strings.Repeat("\x00", 15) + "\x01" + strings.Repeat("\x00", 15) + "\x01\x92\xf8\xa5%", Header{at("[::1]:37624"), at("[::1]:42277")}},
	{"send-proxy-v2 proxy-v2-options crc32c,unique-id", v2 + "!\x11\x00\x16\x7f\x00\x00\x01\x7f\x00\x00\x01\x87H\x9c\xf7\x03\x00\x04Z^\x93\xa5\x05\x00\x00", Header{at("127.0.0.1:34632"), at("127.0.0.1:40183")}},
}

func TestParse(t *testing.T) {
	t.Parallel()
	four, six := "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x00\x0a", strings.Repeat("\x20", 32)+"\x00\x09\x00\x0a"
	good := []struct {
		bytes string
		want  Header
	}{
		{"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", Header{at("255.255.255.255:65535"), at("0.0.0.0:0")}},
		{"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
			Header{at("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"), at("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")}},
		{"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", Header{at("1.2.3.4:1"), at("[::1]:2")}},
		{"PROXY UNKNOWN\r\n", Header{}},
		{"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", Header{}},
		{v2 + "\x21\x11\x00\x0c" + four, Header{at("1.2.3.4:9"), at("5.6.7.8:10")}},
		{v2 + "\x21\x21\x00\x24" + six, Header{at("[2020:2020:2020:2020:2020:2020:2020:2020]:9"), at("[2020:2020:2020:2020:2020:2020:2020:2020]:10")}},
		{v2 + "\x21\x11\x00\x14" + four + "\x04\x00\x05noop!", Header{at("1.2.3.4:9"), at("5.6.7.8:10")}},
		{v2 + "\x20\x00\x00\x00", Header{}},                            // LOCAL
		{v2 + "\x20\x11\x00\x0c" + four, Header{}},                     // LOCAL with addresses
		{v2 + "\x20\x00\x00\x05local", Header{}},                       // LOCAL with anything
		{v2 + "\x21\x00\x00\x00", Header{}},                            // unspecified family
		{v2 + "\x21\x12\x00\x0c" + four, Header{}},                     // UDP
		{v2 + "\x21\x31\x00\xd8" + strings.Repeat("a", 216), Header{}}, // UNIX
	}
	for _, g := range sent {
		good = append(good, struct {
			bytes string
			want  Header
		}{g.bytes, g.want})
	}
	for _, test := range good {
		for split := range len(test.bytes) {
			if h, n, err := Parse([]byte(test.bytes[:split])); n != 0 || err != nil || h.Known() {
				t.Errorf("%q: %v %d %v, want more", test.bytes[:split], h, n, err)
			}
		}
		for _, behind := range []string{"", "G", "\r\nGET / HTTP/1.1\r\n\r\n"} {
			if h, n, err := Parse([]byte(test.bytes + behind)); h != test.want || n != len(test.bytes) || err != nil {
				t.Errorf("%q: %v %d %v, want %v %d", test.bytes+behind, h, n, err, test.want, len(test.bytes))
			}
		}
	}
	for _, bad := range []string{
		"G", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY\r\n", "PROXY \r\n", "PROXYTCP4",
		"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
		"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
		"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.04 1 2\r\n", "PROXY TCP4 ::1 ::1 1 2\r\n",
		"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY UNKNOWNS\r\n", "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
		"PROXY UNKNOWN " + strings.Repeat("x", MaxV1), "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\x00\r\n",
		"\r\n\r\n\x00\r\nQUIt", v2 + "\x11\x11", v2 + "\x22\x11", v2 + "\x31\x11", v2 + "\x21\x13", v2 + "\x21\x41",
		v2 + "\x21\x11\x00\x0b", v2 + "\x21\x21\x00\x23", v2 + "\x21\x11\xff\xff",
		v2 + "\x21\x11\x00\x0e" + four + "\x04\x00", v2 + "\x21\x11\x00\x0f" + four + "\x04\x00\x01", // an extension that is cut
		v2 + "!\x11\x00\x13\x7f\x00\x00\x01\x7f\x00\x00\x01\x87H\x9c\xf7\x03\x00\x04Z^\x93\xa6", // a wrong checksum
	} {
		if h, n, err := Parse([]byte(bad)); !errors.Is(err, ErrMalformed) || n != 0 || h.Known() {
			t.Errorf("%q: %v %d %v, want an error", bad, h, n, err)
		}
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	for _, g := range sent[:4] {
		got := string(AppendV1(nil, g.want))
		if strings.HasPrefix(g.bytes, v2) {
			got = string(AppendV2(nil, g.want))
		}
		if got != g.bytes {
			t.Errorf("%v: %q, want what HAProxy sends: %q", g.want, got, g.bytes)
		}
	}
	mixed := Header{at("1.2.3.4:5"), at("[::1]:6")}
	if got := string(AppendV1(nil, mixed)); got != "PROXY UNKNOWN\r\n" {
		t.Errorf("two families: %q", got)
	}
	for _, h := range []Header{mixed, {at("[fe80::1%2]:5"), at("[fe80::2%2]:6")}, {}} {
		got, n, err := Parse(AppendV2(nil, h))
		h.Source, h.Destination = unzoned(h.Source), unzoned(h.Destination)
		if err != nil || n == 0 || got != h {
			t.Errorf("%v: %v %v", h, got, err)
		}
	}
}

func unzoned(a netip.AddrPort) netip.AddrPort {
	if !a.IsValid() {
		return a
	}
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}

// FuzzParse: what is decided does not change with more bytes, and what is read can be written and read again.
func FuzzParse(f *testing.F) {
	for _, g := range sent {
		f.Add([]byte(g.bytes))
	}
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2 + "\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		if n < 0 || n > len(b) || n > MaxHeader || err != nil && n != 0 {
			t.Fatalf("%q: %d %v", b, n, err)
		}
		for i := range b {
			early, m, wrong := Parse(b[:i])
			switch {
			case m != 0 && (m != n || early != h), wrong != nil && err == nil, m == 0 && wrong == nil && n > 0 && i >= n:
				t.Fatalf("%q: %v %d %v, but of the first %d bytes %v %d %v", b, h, n, err, i, early, m, wrong)
			}
		}
		if n == 0 || !h.Known() {
			return
		}
		for _, again := range [][]byte{AppendV1(nil, h), AppendV2(nil, h)} {
			back, m, err := Parse(again)
			mixed := h.Source.Addr().Is4() != h.Destination.Addr().Is4()
			if err != nil || m != len(again) || back != h && !mixed {
				t.Fatalf("%v became %q and then %v %v", h, again, back, err)
			}
		}
	})
}
