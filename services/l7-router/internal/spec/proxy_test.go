package spec

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestParseProxy(t *testing.T) {
	t.Parallel()
	frontends, backends := good()
	frontends[0].AcceptProxy = &routerv1.AcceptProxy{From: []string{"10.10.60.0/24", "fd00::1/128"}}
	backends[0].Servers[0].SendProxy = routerv1.SendProxy_SEND_PROXY_V1
	backends[0].Servers[1].SendProxy = routerv1.SendProxy_SEND_PROXY_V2
	got, violations := Parse(frontends, backends)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	accept := got.Frontends[0].AcceptProxy
	want := AcceptProxy{From: []netip.Prefix{netip.MustParsePrefix("10.10.60.0/24"), netip.MustParsePrefix("fd00::1/128")}, Timeout: 3 * time.Second}
	if !reflect.DeepEqual(accept, want) {
		t.Errorf("got %+v, want %+v", accept, want)
	}
	for sender, trusted := range map[string]bool{
		"10.10.60.7": true, "::ffff:10.10.60.7": true, "10.10.61.7": false, "fd00::1": true, "fd00::1%eth0": true, "fd00::2": false, "127.0.0.1": false,
	} {
		if accept.Trusts(netip.MustParseAddr(sender)) != trusted {
			t.Errorf("%s: trusted %t", sender, !trusted)
		}
	}
	for _, s := range got.Backends[1].Servers {
		if want := map[string]SendProxy{"s1": SendProxyV1, "s2": SendProxyV2}[s.Name]; s.SendProxy != want {
			t.Errorf("%s: %d, want %d", s.Name, s.SendProxy, want)
		}
	}
	for field, spoil := range map[string]func(f *routerv1.Frontend, web *routerv1.Backend){
		"frontend/main.accept_proxy.from":          func(f *routerv1.Frontend, _ *routerv1.Backend) { f.AcceptProxy = &routerv1.AcceptProxy{} },
		"frontend/main.accept_proxy.from[0]":       func(f *routerv1.Frontend, _ *routerv1.Backend) { f.AcceptProxy.From[0] = "10.10.60.1" },
		"frontend/main.accept_proxy.from[1]":       func(f *routerv1.Frontend, _ *routerv1.Backend) { f.AcceptProxy.From[1] = "10.10.60.1/24" },
		"frontend/main.accept_proxy.timeout":       func(f *routerv1.Frontend, _ *routerv1.Backend) { f.AcceptProxy.Timeout = durationpb.New(-1) },
		"backend/webservers.servers[0].send_proxy": func(_ *routerv1.Frontend, web *routerv1.Backend) { web.Servers[0].SendProxy = 9 },
	} {
		frontends, backends := good()
		frontends[0].AcceptProxy = &routerv1.AcceptProxy{From: []string{"10.10.60.0/24", "fd00::1/128"}}
		spoil(frontends[0], backends[0])
		if _, violations := Parse(frontends, backends); len(violations) != 1 || violations[0].GetField() != field {
			t.Errorf("%s: %v", field, violations)
		}
	}
}

// TestParseTimeouts: those that may be left out are 0 then, and mean what they did before there were any.
func TestParseTimeouts(t *testing.T) {
	t.Parallel()
	frontends, backends := good()
	got, violations := Parse(frontends, backends)
	if len(violations) > 0 || got.Frontends[0].TimeoutClientFin != 0 || got.Backends[0].TimeoutServerFin != 0 || got.Backends[0].TimeoutTunnel != 0 {
		t.Errorf("left out: %+v %v", got, violations)
	}
	frontends[0].TimeoutClientFin = durationpb.New(time.Second)
	backends[1].TimeoutServerFin, backends[1].TimeoutTunnel = durationpb.New(2*time.Second), durationpb.New(time.Hour)
	got, violations = Parse(frontends, backends)
	if len(violations) > 0 || got.Frontends[0].TimeoutClientFin != time.Second || got.Backends[0].TimeoutServerFin != 2*time.Second || got.Backends[0].TimeoutTunnel != time.Hour {
		t.Errorf("given: %+v %v", got, violations)
	}
	frontends[0].TimeoutClientFin = durationpb.New(-1)
	backends[1].TimeoutServerFin, backends[1].TimeoutTunnel = durationpb.New(48*time.Hour), durationpb.New(0)
	_, violations = Parse(frontends, backends)
	var fields []string
	for _, v := range violations {
		fields = append(fields, v.GetField())
	}
	if want := []string{"backend/updataserver.timeout_server_fin", "backend/updataserver.timeout_tunnel", "frontend/main.timeout_client_fin"}; !slices.Equal(fields, want) {
		t.Errorf("violations at %v, want %v", fields, want)
	}
}
