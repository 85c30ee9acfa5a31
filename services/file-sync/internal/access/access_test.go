package access

import (
	"net/netip"
	"testing"
)

func TestParsePrefix(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"172.16.0.99/32": "172.16.0.99/32", "172.16.0.99": "172.16.0.99/32", "172.16.0.0/16": "172.16.0.0/16",
		"2001:db8::/32": "2001:db8::/32", "::1": "::1/128", "0.0.0.0/0": "0.0.0.0/0",
		"172.16.0.99/16": "", "server2": "", "": "", "172.16.0.0/33": "", "::ffff:10.0.0.0/104": "", "fe80::1%eth0": "",
	} {
		got, err := ParsePrefix(in)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("ParsePrefix(%q) = %v, %v; want %q", in, got, err, want)
		}
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	list := New([]netip.Prefix{netip.MustParsePrefix("172.16.0.99/32"), netip.MustParsePrefix("fe80::/10")})
	for name, c := range map[string]struct {
		list List
		addr string
		want bool
	}{
		"named":            {list, "172.16.0.99", true},
		"beside it":        {list, "172.16.0.98", false},
		"IPv4 in IPv6":     {list, "::ffff:172.16.0.99", true},
		"link-local, zone": {list, "fe80::1%eth0", true},
		"another family":   {list, "2001:db8::1", false},
		"empty list":       {List{}, "172.16.0.99", false},
		"loopback":         {Loopback(), "127.0.0.2", true},
		"loopback, IPv6":   {Loopback(), "::1", true},
		"not loopback":     {Loopback(), "10.0.0.1", false},
	} {
		if got := c.list.Allows(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s: Allows(%s) = %v, want %v", name, c.addr, got, c.want)
		}
	}
	if list.Allows(netip.Addr{}) {
		t.Error("an address that is none is let in")
	}
}

func FuzzParsePrefix(f *testing.F) {
	f.Add("172.16.0.99/32")
	f.Add("fe80::1%eth0/64")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if err == nil && (!p.IsValid() || p != p.Masked() || !New([]netip.Prefix{p}).Allows(p.Addr())) {
			t.Errorf("ParsePrefix(%q) = %v", s, p)
		}
	})
}
