package spec

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// TestCheckOf: what a server says itself counts more than what the backend says, for the intervals by their kind.
func TestCheckOf(t *testing.T) {
	t.Parallel()
	plain := Check{Kind: CheckTCP, Interval: 2, Timeout: 9, Rise: 2, Fall: 3}
	full := Check{Kind: CheckTCP, Interval: 2, Fast: 1, Down: 5, Timeout: 9, Rise: 2, Fall: 3, Port: 81, Initial: InitialDown}
	address := netip.MustParseAddr("192.0.2.9")
	tests := []struct {
		name    string
		backend Check
		own     ServerCheck
		want    Check
	}{
		{"nothing", plain, ServerCheck{}, Check{Kind: CheckTCP, Interval: 2, Fast: 2, Down: 2, Timeout: 9, Rise: 2, Fall: 3}},
		{"nothing, with all intervals", full, ServerCheck{}, full},
		{"an interval", plain, ServerCheck{Interval: 7}, Check{Kind: CheckTCP, Interval: 7, Fast: 7, Down: 7, Timeout: 9, Rise: 2, Fall: 3}},
		{"off", full, ServerCheck{Off: true}, Check{}},
		{"no check", Check{}, ServerCheck{}, Check{}},
		{
			"everything", full, ServerCheck{Interval: 7, Fast: 6, Down: 8, Rise: 4, Fall: 5, Address: address, Port: 82, Initial: InitialFullyUp},
			Check{Kind: CheckTCP, Interval: 7, Fast: 6, Down: 8, Timeout: 9, Rise: 4, Fall: 5, Address: address, Port: 82, Initial: InitialFullyUp},
		},
	}
	for _, test := range tests {
		b := Backend{Check: test.backend}
		if got := b.CheckOf(&Server{Check: test.own}); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestCheckRefusals(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxText+1)
	http := func(h *routerv1.HttpCheck) *routerv1.Check { return &routerv1.Check{Http: h} }
	expect := func(e *routerv1.HttpExpect) *routerv1.Check {
		return http(&routerv1.HttpCheck{Expect: []*routerv1.HttpExpect{e}})
	}
	tests := []struct {
		field string
		check *routerv1.Check
		own   *routerv1.ServerCheckSettings
	}{
		{"check.fast_interval", &routerv1.Check{FastInterval: durationpb.New(time.Millisecond)}, nil},
		{"check.down_interval", &routerv1.Check{DownInterval: durationpb.New(2 * time.Hour)}, nil},
		{"check.port", &routerv1.Check{Port: 65536}, nil},
		{"check.initial_state", &routerv1.Check{InitialState: 99}, nil},
		{"check.http.headers[0].name", http(&routerv1.HttpCheck{Headers: []*routerv1.Header{{Name: "Content-Length", Value: "5"}}}), nil},
		{"check.http.headers", http(&routerv1.HttpCheck{Headers: headersOf(MaxCheckHeaders + 1)}), nil},
		{"check.http.body", http(&routerv1.HttpCheck{Body: strings.Repeat("x", MaxCheckBody+1)}), nil},
		{"check.http.expect", http(&routerv1.HttpCheck{Expect: expectsOf(MaxExpects + 1)}), nil},
		{"check.http.expect[0]", expect(&routerv1.HttpExpect{}), nil},
		{"check.http.expect[0]", expect(&routerv1.HttpExpect{Body: "a", Header: "b"}), nil},
		{"check.http.expect[0].statuses[0]", expect(&routerv1.HttpExpect{Statuses: []string{"2xx"}}), nil},
		{"check.http.expect[0].statuses[1]", expect(&routerv1.HttpExpect{Statuses: []string{"200", "299-200"}}), nil},
		{"check.http.expect[0].statuses[0]", expect(&routerv1.HttpExpect{Statuses: []string{"99"}}), nil},
		{"check.http.expect[0].statuses", expect(&routerv1.HttpExpect{Statuses: strings.Split(strings.Repeat("200,", MaxStatuses)+"200", ",")}), nil},
		{"check.http.expect[0].body", expect(&routerv1.HttpExpect{Body: long}), nil},
		{"check.http.expect[0].body_regex", expect(&routerv1.HttpExpect{BodyRegex: "("}), nil},
		{"check.http.expect[0].header", expect(&routerv1.HttpExpect{Header: "a b"}), nil},
		{"check.http.expect[0].header_value", expect(&routerv1.HttpExpect{Statuses: []string{"200"}, HeaderValue: "x"}), nil},
		{"check.http.expect[0].header_value", expect(&routerv1.HttpExpect{Header: "a", HeaderValue: long}), nil},
		{"servers[0].check", nil, &routerv1.ServerCheckSettings{Rise: 1}},
		{"servers[0].check.off", &routerv1.Check{}, &routerv1.ServerCheckSettings{Off: true, Rise: 1}},
		{"servers[0].check.interval", &routerv1.Check{}, &routerv1.ServerCheckSettings{Interval: durationpb.New(0)}},
		{"servers[0].check.rise", &routerv1.Check{}, &routerv1.ServerCheckSettings{Rise: 101}},
		{"servers[0].check.port", &routerv1.Check{}, &routerv1.ServerCheckSettings{Port: 1 << 20}},
		{"servers[0].check.address", &routerv1.Check{}, &routerv1.ServerCheckSettings{Address: "0.0.0.0"}},
		{"servers[0].check.address", &routerv1.Check{}, &routerv1.ServerCheckSettings{Address: "example.org"}},
		{"servers[0].check.initial_state", &routerv1.Check{}, &routerv1.ServerCheckSettings{InitialState: 99}},
	}
	for _, test := range tests {
		_, violations := Parse(nil, []*routerv1.Backend{{
			Name: "web", Check: test.check, Servers: []*routerv1.Server{{Name: "s1", Address: "172.16.0.88:80", Check: test.own}},
		}})
		if len(violations) != 1 || violations[0].GetField() != "backend/web."+test.field {
			t.Errorf("%s: got %v", test.field, violations)
		}
	}
}

func headersOf(n int) (all []*routerv1.Header) {
	for range n {
		all = append(all, &routerv1.Header{Name: "X-A", Value: "b"})
	}
	return all
}

func expectsOf(n int) (all []*routerv1.HttpExpect) {
	for range n {
		all = append(all, &routerv1.HttpExpect{Body: "x"})
	}
	return all
}
