package route

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Who the client is: peers that are trusted or not, by what they say in either field.
func TestClient(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	type want map[string]string // by peer: the client
	const v4, v6, alien, alien6 = "10.0.0.1", "2001:db8::1", "192.0.2.9", "2002::9"
	all := func(client string) want { return want{v4: client, v6: client, alien: alien, alien6: alien6} }
	self := want{v4: v4, v6: v6, alien: alien, alien6: alien6}
	tests := []struct {
		name          string
		xff, standard []string // the values that name the same in either field; nil: no such form
		want          want
	}{
		{"nothing", []string{}, []string{}, self},
		{"empty", []string{""}, []string{""}, self},
		{"IPv4", []string{"1.2.3.4"}, []string{"for=1.2.3.4"}, all("1.2.3.4")},
		{"IPv4 with port", []string{"1.2.3.4:5678"}, []string{`for="1.2.3.4:5678"`}, all("1.2.3.4")},
		{"IPv6", []string{"2400::1"}, []string{`for="[2400::1]"`}, all("2400::1")},
		{"IPv6 in brackets", []string{"[2400::1]"}, nil, all("2400::1")},
		{"IPv6 with port", []string{"[2400::1]:80"}, []string{`For="[2400::1]:80"`}, all("2400::1")},
		{"IPv4 in IPv6", []string{"::ffff:1.2.3.4"}, []string{`for="[::ffff:1.2.3.4]"`}, all("1.2.3.4")},
		{"a trusted IPv4 in IPv6", []string{"9.9.9.9, ::ffff:10.1.1.1"}, []string{`for=9.9.9.9, for="[::ffff:10.1.1.1]"`}, all("9.9.9.9")},
		{"the right-most that is not trusted", []string{"6.6.6.6, 1.2.3.4, 10.1.1.1"}, []string{"for=6.6.6.6, for=1.2.3.4;proto=https,for=10.1.1.1"}, all("1.2.3.4")},
		{"trusted of both families", []string{"1.2.3.4, 2001:db8::2, 10.1.1.1"}, []string{`for=1.2.3.4, for="[2001:db8::2]", for=10.1.1.1`}, all("1.2.3.4")},
		{"several fields", []string{"6.6.6.6", "1.2.3.4", "10.1.1.1,10.1.1.2"}, []string{"for=6.6.6.6", "for=1.2.3.4", "for=10.1.1.1, for=10.1.1.2"}, all("1.2.3.4")},
		{"all trusted", []string{"10.2.2.2, 10.1.1.1"}, []string{"for=10.2.2.2, for=10.1.1.1"}, all("10.2.2.2")},
		{"empty members", []string{" , 1.2.3.4,, "}, []string{"for=1.2.3.4, ,"}, all("1.2.3.4")},
		{"unknown", []string{"6.6.6.6, unknown"}, []string{"for=6.6.6.6, for=unknown"}, self},
		{"unknown behind a hop", []string{"6.6.6.6, unknown, 10.1.1.1"}, []string{"for=6.6.6.6, for=unknown, for=10.1.1.1"}, all("10.1.1.1")},
		{"obfuscated", []string{"6.6.6.6, _hidden"}, []string{"for=6.6.6.6, for=_hidden"}, self},
		{"obfuscated port", nil, []string{`for="1.2.3.4:_http"`}, all("1.2.3.4")},
		{"garbage", []string{"6.6.6.6, 1.2.3"}, []string{"for=6.6.6.6, for=1.2.3"}, self},
		{"more garbage", []string{"6.6.6.6, <script>"}, []string{"for=6.6.6.6, for=<script>"}, self},
		{"leading zeros", []string{"6.6.6.6, 1.2.3.04"}, []string{"for=6.6.6.6, for=1.2.3.04"}, self},
		{"too large", []string{"6.6.6.6, 1.2.3.256"}, []string{"for=6.6.6.6, for=1.2.3.256"}, self},
		{"bad port", []string{"6.6.6.6, 1.2.3.4:x"}, []string{`for=6.6.6.6, for="1.2.3.4:x"`}, self},
		{"no port", []string{"6.6.6.6, 1.2.3.4:"}, []string{`for=6.6.6.6, for="1.2.3.4:"`}, self},
		{"open bracket", []string{"6.6.6.6, [2400::1"}, []string{`for=6.6.6.6, for="[2400::1"`}, self},
		{"IPv4 in brackets", []string{"6.6.6.6, [1.2.3.4]"}, []string{`for=6.6.6.6, for="[1.2.3.4]"`}, self},
		{"zone", []string{"6.6.6.6, fe80::1%eth0"}, []string{`for=6.6.6.6, for="[fe80::1%eth0]"`}, self},
		{"bare IPv6", nil, []string{`for=6.6.6.6, for="2400::1"`}, self},
		{"no parameter for", nil, []string{"for=6.6.6.6, proto=https"}, self},
		{"two parameters for", nil, []string{"for=6.6.6.6;for=7.7.7.7"}, self},
		{"not the first parameter", nil, []string{`by="_x;for=6.6.6.6";host="a, b" ; for=1.2.3.4`}, all("1.2.3.4")},
		{"an open quote of the client", nil, []string{`for="6.6.6.6, for=1.2.3.4`}, self},
		{"a client that quotes its hop", nil, []string{`for=6.6.6.6, x=", for=1.2.3.4`}, self},
		{"escapes", nil, []string{`for=6.6.6.6, for="1.2.3.\4"`}, self},
		{"behind a quote", nil, []string{`for="1.2.3.4"x`}, self},
	}
	for _, test := range tests {
		for peer, client := range test.want {
			for _, from := range []spec.ClientFrom{spec.FromXForwardedFor, spec.FromForwarded} {
				values, name, other := test.xff, "X-Forwarded-For: ", "Forwarded: for=7.7.7.7"
				if from == spec.FromForwarded {
					values, name, other = test.standard, "Forwarded: ", "X-Forwarded-For: 7.7.7.7"
				}
				if values == nil {
					continue
				}
				head := "GET / HTTP/1.1\nHost: x\n" + other
				for _, value := range values {
					head += "\n" + name + value
				}
				r := ask(t, head)
				r.Reset(r.head, peer, &spec.Forwarded{Trusted: trusted, From: from})
				if got := r.Client().String(); got != client || r.Trusted() != strings.Contains("10.0.0.1 2001:db8::1", peer) {
					t.Errorf("%s, peer %s, %s%q: got %s, want %s", test.name, peer, name, values, got, client)
				}
			}
		}
	}

	r := ask(t, "GET / HTTP/1.1\nHost: x\nX-Forwarded-For: 1.2.3.4"+strings.Repeat(", 10.1.1.1", maxHops))
	r.Reset(r.head, v4, &spec.Forwarded{Trusted: trusted})
	if got := r.Client().String(); got != "10.1.1.1" {
		t.Errorf("beyond %d hops nobody is asked: got %s", maxHops, got)
	}
	r.Reset(r.head, "unknown", &spec.Forwarded{Trusted: trusted})
	if r.Client().IsValid() || r.Trusted() {
		t.Errorf("a peer without an address: %v", r.Client())
	}
}

func TestClientAllocatesNothing(t *testing.T) {
	r := ask(t, "GET / HTTP/1.1\nHost: x\nX-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1")
	hops := &spec.Forwarded{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if n := testing.AllocsPerRun(100, func() { r.Reset(r.head, "10.0.0.1", hops); r.Client() }); n != 0 || r.Client().String() != "1.2.3.4" {
		t.Errorf("%v allocations, want none; %v", n, r.Client())
	}
}

// The client of a trusted hop never comes from left of an address that is not trusted.
func FuzzClient(f *testing.F) {
	f.Add("6.6.6.6", false)
	f.Add(`for="[6.6.6.6]:80";by=_x, for=unknown`, true)
	f.Add(`for="6.6.6.6, for=6.6.6.6`, true)
	f.Fuzz(func(t *testing.T, forged string, standard bool) {
		for _, c := range []byte(forged) {
			if c < ' ' || c > '~' {
				return
			}
		}
		hops := &spec.Forwarded{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		name, own := "X-Forwarded-For: ", "1.2.3.4"
		if standard {
			hops.From, name, own = spec.FromForwarded, "Forwarded: ", "for=1.2.3.4"
		}
		for _, how := range []string{", " + own, "\n" + name + own} { // a hop adds to the field, or a field of its own
			r := ask(t, "GET / HTTP/1.1\nHost: x\n"+name+forged+how)
			r.Reset(r.head, "10.0.0.1", hops)
			// An open quote may swallow what the hop has added; then the hop itself is all that is known.
			if got := r.Client().String(); got != "1.2.3.4" && got != "10.0.0.1" {
				t.Errorf("%q: got %s", forged+how, got)
			}
		}
	})
}
