package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

func address(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func web(servers ...spec.Server) spec.Backend { return spec.Backend{Name: "web", Servers: servers} }

func front(name, backend string, bind ...netip.AddrPort) spec.Frontend {
	return spec.Frontend{Name: name, DefaultBackend: backend, Bind: bind}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	var (
		every = netip.AddrPortFrom(netip.Addr{}, 80)
		local = address("127.0.0.1:80")
		s1    = spec.Server{Name: "s1", Address: address("172.16.0.88:80"), Weight: 1}
		s2    = spec.Server{Name: "s2", Address: address("172.16.0.99:80"), Weight: 1}
		heavy = spec.Server{Name: "s1", Address: address("172.16.0.88:80"), Weight: 5}
	)
	have := Have{
		Frontends: []spec.Frontend{front("main", "web", every)},
		Backends:  []spec.Backend{web(s1, s2)},
		Listeners: []Listener{{Address: every, Frontend: "main"}},
	}
	state := func(backends []spec.Backend, frontends ...spec.Frontend) spec.State {
		return spec.State{Frontends: frontends, Backends: backends}
	}
	cookie := web(s1, s2)
	cookie.Cookie.Name = "webserver"
	tests := []struct {
		name string
		want spec.State
		have Have
		plan []string
	}{
		{"equal", state(have.Backends, have.Frontends...), have, nil},
		{"from nothing", state(have.Backends, have.Frontends...), Have{}, []string{
			"add backend web with s1 172.16.0.88:80, s2 172.16.0.99:80", "add frontend main", "listen on *:80 for main",
		}},
		{"to nothing", spec.State{}, have, []string{"stop listening on *:80 for main", "remove frontend main", "remove backend web"}},
		{"servers", state([]spec.Backend{web(heavy, spec.Server{Name: "s3", Address: address("172.16.0.77:80")})}, have.Frontends...), have, []string{
			"change backend web: change server s1, add server s3 172.16.0.77:80, remove server s2",
		}},
		{"order of servers", state([]spec.Backend{web(s2, s1)}, have.Frontends...), have, []string{"change backend web: order of servers"}},
		{"cookie", state([]spec.Backend{cookie}, have.Frontends...), have, []string{"change backend web: Cookie"}},
		{"listener lost", state(have.Backends, have.Frontends...), Have{Frontends: have.Frontends, Backends: have.Backends}, []string{"listen on *:80 for main"}},
		{"the overlapping address goes first", state(have.Backends, front("main", "web", local)), have, []string{
			"change frontend main: Bind", "stop listening on *:80 for main", "listen on 127.0.0.1:80 for main",
		}},
		{"another frontend takes the address", state(have.Backends, front("other", "web", every)), have, []string{
			"add frontend other", "move *:80 from main to other", "remove frontend main",
		}},
		{"another backend", state([]spec.Backend{{Name: "new"}}, front("main", "new", every)), have, []string{
			"add backend new with no server", "change frontend main: DefaultBackend", "remove backend web",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, change := range Diff(test.want, test.have) {
				got = append(got, change.String())
			}
			if !slices.Equal(got, test.plan) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(test.plan, "\n  "))
			}
		})
	}
}
