package exchange

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

func TestForwarded(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}
	stranger, hop := Client{Address: "192.0.2.9", Port: 80}, Client{Address: "10.10.60.1", Port: 8080}
	hop6, secure := Client{Address: "2001:db8::1", Port: 80}, Client{Address: "192.0.2.9", Port: 443, TLS: true}
	const all = "\nX-Forwarded-For: 1.1.1.1\nForwarded: for=2.2.2.2\nX-Forwarded-Proto: https\nX-Forwarded-Host: y\nX-Forwarded-Port: 443\nX-Other: 1"
	everything := spec.Forwarded{Proto: true, Host: true, Port: true, Standard: true}
	with := func(f spec.Forwarded, change func(*spec.Forwarded)) spec.Forwarded {
		f.Trusted = trusted
		change(&f)
		return f
	}
	none := func(*spec.Forwarded) {}
	tests := []struct {
		name     string
		f        spec.Forwarded
		c        Client
		in, want string
	}{
		{"default", spec.Forwarded{}, hop, all, "\nX-Other: 1\nX-Forwarded-For: 10.10.60.1"},
		{"a stranger is dropped", with(spec.Forwarded{}, none), stranger, all, "\nX-Other: 1\nX-Forwarded-For: 192.0.2.9"},
		{"a hop goes on, but for what it is not trusted with", with(spec.Forwarded{}, none), hop, all,
			"\nX-Other: 1\nX-Forwarded-Proto: https\nX-Forwarded-Host: y\nX-Forwarded-Port: 443\nX-Forwarded-For: 1.1.1.1, 10.10.60.1"},
		{"a list goes on", with(spec.Forwarded{}, none), hop6, "\nX-Forwarded-For: 6.6.6.6\nX-Forwarded-For: 1.1.1.1, _x", "\nX-Forwarded-For: 6.6.6.6, 1.1.1.1, _x, 2001:db8::1"},
		{"everything, of a stranger", with(everything, none), stranger, all,
			"\nX-Other: 1\nX-Forwarded-For: 192.0.2.9\nX-Forwarded-Proto: http\nX-Forwarded-Host: x:8\nX-Forwarded-Port: 80\nForwarded: for=192.0.2.9;host=\"x:8\";proto=http"},
		{"everything, over TLS", with(everything, none), secure, "",
			"\nX-Forwarded-For: 192.0.2.9\nX-Forwarded-Proto: https\nX-Forwarded-Host: x:8\nX-Forwarded-Port: 443\nForwarded: for=192.0.2.9;host=\"x:8\";proto=https"},
		{"the scheme is told over TLS", spec.Forwarded{}, secure, "\nX-Forwarded-Proto: http", "\nX-Forwarded-For: 192.0.2.9\nX-Forwarded-Proto: https"},
		{"everything, of a hop", with(everything, none), hop, all,
			"\nX-Other: 1\nX-Forwarded-Proto: https\nX-Forwarded-Host: y\nX-Forwarded-Port: 443\nX-Forwarded-For: 1.1.1.1, 10.10.60.1\nForwarded: for=1.1.1.1, for=10.10.60.1;host=\"x:8\";proto=http"},
		{"everything, of a silent hop", with(everything, none), hop6, "",
			"\nX-Forwarded-For: 2001:db8::1\nX-Forwarded-Proto: http\nX-Forwarded-Host: x:8\nX-Forwarded-Port: 80\nForwarded: for=\"[2001:db8::1]\";host=\"x:8\";proto=http"},
		{"trusted with Forwarded", with(everything, func(f *spec.Forwarded) { f.From = spec.FromForwarded }), hop, "\nX-Forwarded-For: 1.1.1.1\nForwarded: for=\"[2400::2]\"",
			"\nX-Forwarded-For: 2400::2, 10.10.60.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: x:8\nX-Forwarded-Port: 8080\nForwarded: for=\"[2400::2]\", for=10.10.60.1;host=\"x:8\";proto=http"},
		{"trusted with Forwarded, which is not sent", with(spec.Forwarded{}, func(f *spec.Forwarded) { f.From, f.For = spec.FromForwarded, spec.ForwardedOff }), hop,
			"\nX-Forwarded-For: 1.1.1.1\nForwarded: for=2.2.2.2", "\nForwarded: for=2.2.2.2"},
		{"from X-Forwarded-For to Forwarded", with(spec.Forwarded{}, func(f *spec.Forwarded) { f.Standard = true; f.For = spec.ForwardedOff }), hop,
			"\nX-Forwarded-For: 2400::1", "\nX-Forwarded-For: 2400::1\nForwarded: for=\"[2400::1]\", for=10.10.60.1;host=\"x:8\";proto=http"},
		{"replace, of a hop", with(spec.Forwarded{}, func(f *spec.Forwarded) { f.For = spec.ForwardedReplace }), hop, "\nX-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.10.1.1", "\nX-Forwarded-For: 1.1.1.1"},
		{"replace, of a stranger", with(spec.Forwarded{}, func(f *spec.Forwarded) { f.For = spec.ForwardedReplace }), stranger, "\nX-Forwarded-For: 6.6.6.6", "\nX-Forwarded-For: 192.0.2.9"},
		{"off, of a stranger", with(spec.Forwarded{}, func(f *spec.Forwarded) { f.For = spec.ForwardedOff }), stranger, all, "\nX-Other: 1"},
		{"Connection takes a hop's away", with(spec.Forwarded{}, none), hop, "\nConnection: X-Forwarded-For\nX-Forwarded-For: 1.1.1.1", "\nX-Forwarded-For: 10.10.60.1"},
	}
	for _, test := range tests {
		f := frontend(t, spec.Cookie{})
		f.Spec.Forwarded = test.f
		var r Request
		r.Begin(f, parse(t, http1.Request, "GET / HTTP/1.1\nHost: x:8"+test.in), &test.c)
		if want := crlf("GET / HTTP/1.1\nHost: x:8" + test.want); string(r.Head) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, r.Head, want)
		}
	}

	f := frontend(t, spec.Cookie{})
	f.Spec.Forwarded = spec.Forwarded{Trusted: trusted}
	f.Spec.Rules = []spec.Rule{
		edit(spec.Edit{Request: spec.Fields{Set: []spec.Header{{Name: "X-Forwarded-Proto", Value: "https"}}}}),
		{Condition: spec.Condition{Sources: []netip.Prefix{netip.MustParsePrefix("1.1.1.1/32")}}, Deny: &spec.Deny{Status: 403}},
	}
	var r Request
	r.Begin(f, parse(t, http1.Request, "GET / HTTP/1.1\nHost: x\nX-Forwarded-Proto: http"), &hop)
	if got := strings.Count(string(r.Head), "X-Forwarded-Proto: "); got != 1 || !strings.Contains(string(r.Head), "X-Forwarded-Proto: https\r\n") {
		t.Errorf("an edit of a hop's field: got\n%s", r.Head)
	}
	for c, want := range map[*Client]bool{&hop: true, &stranger: false} {
		r.Begin(f, parse(t, http1.Request, "GET / HTTP/1.1\nHost: x\nX-Forwarded-For: 1.1.1.1"), c)
		if got := r.Answer != nil; got != want {
			t.Errorf("a source behind %s: denied %t, want %t", c.Address, got, want)
		}
	}
}
