package control

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/twotier/twotier/services/internal/verbs"
)

// Drained can be only who is there; taken back is also the drain of one that has gone.
func TestDrained(t *testing.T) {
	t.Parallel()
	store := fileStore(t, "kind: virtual-service\nname: web\naddress: 10.10.60.22\nport: 80\nreal_servers: [{address: 192.168.60.78}]\n")
	a := &admin{Verbs: &verbs.Verbs{Store: store}}
	for _, c := range []struct {
		service, address string
		port             uint32
		mustBe           bool
		name             string
		code             codes.Code
	}{
		{"web", "192.168.60.78", 0, true, "web-192.168.60.78-80", codes.OK},
		{"web", "192.168.60.78", 0, false, "web-192.168.60.78-80", codes.OK},
		{"web", "192.168.60.79", 0, true, "", codes.NotFound},
		{"web", "192.168.60.79", 0, false, "web-192.168.60.79-80", codes.OK},
		{"gone", "192.168.60.78", 80, true, "", codes.NotFound},
		{"gone", "192.168.60.78", 80, false, "gone-192.168.60.78-80", codes.OK},
		{"gone", "192.168.60.78", 0, false, "", codes.NotFound},
		{"web", "2001:db8::1", 0, false, "web-2001.db8..1-80", codes.OK},
		{"web", "2001:db8::1", 0, true, "", codes.NotFound},
		{"web", "s2", 0, false, "", codes.InvalidArgument},
		{"web", "192.168.60.78", 65536, true, "", codes.InvalidArgument},
	} {
		got, err := a.drained(c.service, c.address, c.port, c.mustBe)
		if status.Code(err) != c.code || got.GetName() != c.name {
			t.Errorf("%+v: got %v, %v", c, got, err)
		}
	}
}

// Whoever takes a drain back takes back all that say the same, however they are named and written.
func TestDrainsLike(t *testing.T) {
	t.Parallel()
	store := fileStore(t, `kind: virtual-service
name: web
address: 10.10.60.22
port: 80
real_servers: [{address: 192.168.60.78}, {address: 192.168.60.79}]
---
kind: drain
name: web-192.168.60.78-80
service: web
address: 192.168.60.78
port: 80
---
kind: drain
name: disk
service: web
address: 192.168.60.78
---
kind: drain
name: other
service: web
address: 192.168.60.79
---
kind: drain
name: port
service: web
address: 192.168.60.78
port: 81
---
kind: drain
name: service
service: gone
address: 192.168.60.78
port: 80
`)
	a := &admin{Verbs: &verbs.Verbs{Store: store}}
	for _, c := range []struct {
		address string
		want    []string
	}{
		{"192.168.60.78", []string{"disk", "web-192.168.60.78-80"}},
		{"192.168.60.79", []string{"other"}},
		{"192.168.60.80", []string{"web-192.168.60.80-80"}},
	} {
		drain, err := a.drained("web", c.address, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.drainsLike(drain); !slices.Equal(slices.Sorted(slices.Values(got)), c.want) {
			t.Errorf("%s: got %q, want %q", c.address, got, c.want)
		}
	}
}
