package nic

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
)

func prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, x := range s {
		p = append(p, netip.MustParsePrefix(x))
	}
	return p
}

func addresses(s ...string) []netip.Addr {
	var a []netip.Addr
	for _, x := range s {
		a = append(a, netip.MustParseAddr(x))
	}
	return a
}

func TestFind(t *testing.T) {
	t.Parallel()
	lo := Card{Index: 1, Name: "lo", Up: true, Addresses: prefixes("127.0.0.1/8")}
	back := Card{Index: 2, Name: "eth0", Up: true, Addresses: prefixes("172.16.0.2/16")}
	dispatch := Card{Index: 3, Name: "eth1", Up: true,
		Addresses: prefixes("192.168.60.78/32", "192.168.60.22/24", "192.168.60.23/24")}
	wide := Card{Index: 4, Name: "eth2", Up: true, Addresses: prefixes("192.168.1.1/16")}
	down := dispatch
	down.Up = false
	port := Port{Index: 3, Name: "eth1", Source: netip.MustParseAddr("192.168.60.22"), Own: netip.MustParseAddr("192.168.60.22")}
	none := netip.Prefix{}
	tests := []struct {
		name    string
		cards   []Card
		virtual []netip.Addr
		network netip.Prefix
		want    Port
		err     string
	}{
		{"by subnet", []Card{lo, back, dispatch}, addresses("192.168.60.78"), none, port, ""},
		{"narrowest subnet", []Card{wide, dispatch}, addresses("192.168.60.78", "192.168.60.55"), none, port, ""},
		{"all must be inside", []Card{wide, dispatch}, addresses("192.168.60.78", "192.168.61.1"), none,
			Port{Index: 4, Name: "eth2", Source: netip.MustParseAddr("192.168.1.1"), Own: netip.MustParseAddr("192.168.1.1")}, ""},
		{"a left-over virtual address is not the card's own", []Card{{Index: 5, Up: true,
			Addresses: prefixes("192.168.60.78/24", "192.168.60.22/24")}}, addresses("192.168.60.78"), none,
			Port{Index: 5, Source: netip.MustParseAddr("192.168.60.22"), Own: netip.MustParseAddr("192.168.60.22")}, ""},
		{"IPv6", []Card{{Index: 2, Name: "eth0", Up: true, Addresses: prefixes("2001:db8::22/48", "fe80::2/64")},
			{Index: 3, Name: "eth1", Up: true, Router: true, Addresses: prefixes("fe80::78/128", "2001:db8:0:60::22/64", "fe80::3/64")}},
			addresses("fe80::78", "2001:db8:0:60::78"), none, Port{Index: 3, Name: "eth1", Source: netip.MustParseAddr("fe80::3"),
				Own: netip.MustParseAddr("2001:db8:0:60::22"), Router: true}, ""},
		{"IPv6 without link-local", []Card{{Index: 3, Name: "eth1", Up: true, Addresses: prefixes("fe80::78/128", "2001:db8:0:60::22/64")}},
			addresses("fe80::78", "2001:db8:0:60::78"), none, Port{}, "network card eth1 with 2001:db8:0:60::22/64 has no link-local address"},
		{"IPv6, link-local alone", []Card{{Index: 3, Name: "eth1", Up: true, Addresses: prefixes("fe80::3/64")}},
			addresses("fe80::78"), none, Port{}, "no network card has an address in a subnet with [fe80::78]"},
		{"none", []Card{lo, back}, addresses("192.168.60.78"), none, Port{},
			"no network card has an address in a subnet with [192.168.60.78]"},
		{"no cards", nil, addresses("192.168.60.78"), none, Port{},
			"no network card has an address in a subnet with [192.168.60.78]"},
		{"by network", []Card{wide, dispatch}, addresses("203.0.113.9", "10.0.0.1"), netip.MustParsePrefix("192.168.60.0/24"), port, ""},
		{"network of no card", []Card{lo, dispatch}, addresses("192.168.60.78"), netip.MustParsePrefix("192.168.61.0/24"), Port{},
			"no network card has an address in 192.168.61.0/24"},
		{"down", []Card{down}, addresses("192.168.60.78"), none, Port{}, "network card eth1 with 192.168.60.22/24: is down"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := View{Cards: tt.cards}.Find(tt.virtual, tt.network)
			if (err == nil && tt.err != "") || (err != nil && err.Error() != tt.err) || got != tt.want {
				t.Errorf("got %+v %v, want %+v %v", got, err, tt.want, tt.err)
			}
		})
	}
	if _, err := (View{Cards: []Card{down}}).Find(addresses("192.168.60.78"), netip.Prefix{}); !errors.Is(err, ErrDown) {
		t.Errorf("got %v, want ErrDown", err)
	}
}

func TestOnAndSingle(t *testing.T) {
	t.Parallel()
	v := View{Cards: []Card{
		{Index: 2, Addresses: prefixes("192.168.60.78/24", "192.168.60.55/32")},
		{Index: 3, Addresses: prefixes("192.168.60.55/32", "10.0.0.1/32")},
	}}
	if !v.On(2, netip.MustParseAddr("192.168.60.55")) || v.On(2, netip.MustParseAddr("192.168.60.78")) ||
		v.On(2, netip.MustParseAddr("10.0.0.1")) || v.On(9, netip.MustParseAddr("10.0.0.1")) {
		t.Errorf("On is wrong for %+v", v)
	}
	if got, want := v.Single(), addresses("10.0.0.1", "192.168.60.55"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	p := Port{Index: 3, Name: "eth1", Source: netip.MustParseAddr("192.168.60.22")}
	q := p
	q.Name = "lan"
	if !p.Same(q) {
		t.Error("a new name makes a new place")
	}
	q.Index = 4
	if p.Same(q) {
		t.Error("a new card makes no new place")
	}
}

func TestToward(t *testing.T) {
	t.Parallel()
	v := View{Cards: []Card{
		{Index: 1, Name: "lo", Up: true, Addresses: prefixes("127.0.0.1/8")},
		{Index: 2, Name: "eth0", Up: true, Addresses: prefixes("192.168.60.22/24", "192.168.60.78/32")},
		{Index: 3, Name: "eth1", Addresses: prefixes("172.16.0.22/16")},
		{Index: 4, Name: "eth2", Up: true, Addresses: prefixes("10.99.0.22/24", "2001:db8:0:99::22/64", "fe80::4/64")},
	}}
	for to, want := range map[string]int{
		"192.168.60.128": 2, "10.99.0.128": 4, "172.16.0.88": 0, "192.168.60.22": 0, "203.0.113.1": 0, "127.0.0.2": 0,
		"2001:db8:0:99::128": 4, "2001:db8:0:60::128": 0, "fe80::128": 0,
	} {
		if got, ok := v.Toward(netip.MustParseAddr(to)); got.Index != want || ok != (want > 0) {
			t.Errorf("%s: got %+v %v, want card %d", to, got, ok, want)
		}
	}
	if got := fmt.Sprint(v.Own()); got != "[192.168.60.22 172.16.0.22 10.99.0.22 2001:db8:0:99::22]" {
		t.Errorf("own addresses %s", got)
	}
}
