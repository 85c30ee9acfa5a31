package spec

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// good is the tutorial's router, valid.
func good() ([]*routerv1.Frontend, []*routerv1.Backend) {
	return []*routerv1.Frontend{{
			Name: "main", Bind: []string{"*:80"}, DefaultBackend: "webservers",
			Rules: []*routerv1.Rule{{Condition: &routerv1.Condition{Methods: []string{"POST"}}, Backend: "updataserver"}},
		}}, []*routerv1.Backend{{
			Name: "webservers", Cookie: &routerv1.Cookie{Name: "webserver"},
			Check:   &routerv1.Check{Http: &routerv1.HttpCheck{}},
			Servers: []*routerv1.Server{{Name: "s1", Address: "172.16.0.88:80", Cookie: "s1"}, {Name: "s2", Address: "172.16.0.99:80", Cookie: "s2"}},
		}, {
			Name: "updataserver", Cookie: &routerv1.Cookie{Name: "webserver"},
			Servers: []*routerv1.Server{{Name: "s2", Address: "172.16.0.99:80", Cookie: "s2"}},
		}}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, violations := Parse(good())
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	want := State{
		Frontends: []Frontend{{
			Name: "main", Bind: []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, 80)},
			Rules: []Rule{{Condition: Condition{Methods: []string{"POST"}}, Backend: "updataserver"}}, DefaultBackend: "webservers",
			TimeoutClient: time.Minute, TimeoutRequest: 10 * time.Second, TimeoutKeepAlive: time.Minute, MaxConn: 10000,
			Limits: Limits{HeadBytes: 65536, TargetBytes: 65536, Fields: 100, BodyRate: 500, DrainRate: 500, Grace: time.Minute},
		}},
		Backends: []Backend{{
			Name: "updataserver", Servers: []Server{{Name: "s2", Address: netip.MustParseAddrPort("172.16.0.99:80"), Weight: 1, Cookie: "s2"}},
			Cookie: Cookie{Name: "webserver"}, TimeoutConnect: 3 * time.Second, TimeoutQueue: 3 * time.Second, TimeoutServer: time.Minute,
		}, {
			Name: "webservers",
			Servers: []Server{
				{Name: "s1", Address: netip.MustParseAddrPort("172.16.0.88:80"), Weight: 1, Cookie: "s1"},
				{Name: "s2", Address: netip.MustParseAddrPort("172.16.0.99:80"), Weight: 1, Cookie: "s2"},
			},
			Cookie:         Cookie{Name: "webserver"},
			Check:          Check{Kind: CheckHTTP, HTTP: HTTPCheck{Method: "OPTIONS", Path: "/"}, Interval: 2 * time.Second, Timeout: 2 * time.Second, Rise: 2, Fall: 3},
			TimeoutConnect: 3 * time.Second, TimeoutQueue: 3 * time.Second, TimeoutServer: time.Minute,
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	weight := uint32(257)
	tests := []struct {
		field string // where the only violation is
		spoil func(f *routerv1.Frontend, web, up *routerv1.Backend)
	}{
		{"frontend/Main.name", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Name = "Main" }},
		{"frontend/main.limits.head_bytes", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Limits = &routerv1.Limits{HeadBytes: 1023} }},
		{"frontend/main.limits.head_bytes", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Limits = &routerv1.Limits{HeadBytes: 65537} }},
		{"frontend/main.limits.target_bytes", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Limits = &routerv1.Limits{TargetBytes: 63} }},
		{"frontend/main.limits.fields", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Limits = &routerv1.Limits{Fields: 101} }},
		{"frontend/main.limits.body_bytes", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Limits = &routerv1.Limits{BodyBytes: 1 << 63} }},
		{"frontend/main.limits.min_body_rate", func(f *routerv1.Frontend, _, _ *routerv1.Backend) {
			f.Limits = &routerv1.Limits{MinBodyRate: proto.Uint32(1<<30 + 1)}
		}},
		{"frontend/main.limits.min_drain_rate", func(f *routerv1.Frontend, _, _ *routerv1.Backend) {
			f.Limits = &routerv1.Limits{MinDrainRate: proto.Uint32(1<<30 + 1)}
		}},
		{"frontend/main.limits.slow_grace", func(f *routerv1.Frontend, _, _ *routerv1.Backend) {
			f.Limits = &routerv1.Limits{SlowGrace: durationpb.New(time.Millisecond)}
		}},
		{"frontend/main.limits.timeout_body", func(f *routerv1.Frontend, _, _ *routerv1.Backend) {
			f.Limits = &routerv1.Limits{TimeoutBody: durationpb.New(25 * time.Hour)}
		}},
		{"frontend/.name", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Name = "" }},
		{"frontend/main.bind", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = nil }},
		{"frontend/main.bind[0]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = []string{"80"} }},
		{"frontend/main.bind[0]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = []string{"*:0"} }},
		{"frontend/main.bind[0]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = []string{"www.example.org:80"} }},
		{"frontend/main.bind[1]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = []string{"*:80", "10.0.0.1:80"} }},
		{"frontend/main.bind[1]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = []string{"0.0.0.0:80", "10.0.0.1:80"} }},
		{"frontend/main.bind[1]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Bind = []string{"[::1]:80", ":80"} }},
		{"frontend/main.default_backend", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.DefaultBackend = "nobody" }},
		{"frontend/main.rules[0].backend", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Rules[0].Backend = "" }},
		{"frontend/main.rules[0].condition.methods[0]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Rules[0].Condition.Methods[0] = "GET POST" }},
		{"frontend/main.rules[0].condition.path_prefixes[0]", func(f *routerv1.Frontend, _, _ *routerv1.Backend) {
			f.Rules[0].Condition.PathPrefixes = []string{"static"}
		}},
		{"frontend/main.timeout_client", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.TimeoutClient = durationpb.New(-time.Second) }},
		{"frontend/main.timeout_http_request", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.TimeoutHttpRequest = durationpb.New(0) }},
		{"frontend/main.maxconn", func(f *routerv1.Frontend, _, _ *routerv1.Backend) { f.Maxconn = 1 << 30 }},
		{"backend/webservers.servers[1].name", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[1].Name = "s1" }},
		{"backend/webservers.servers[0].address", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[0].Address = "172.16.0.88" }},
		{"backend/webservers.servers[0].address", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[0].Address = "0.0.0.0:80" }},
		{"backend/webservers.servers[0].weight", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[0].Weight = &weight }},
		{"backend/webservers.servers[0].cookie", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[0].Cookie = "a;b" }},
		{"backend/updataserver.servers[0].cookie", func(_ *routerv1.Frontend, _, up *routerv1.Backend) { up.Cookie = nil }},
		{"backend/webservers.cookie.name", func(_ *routerv1.Frontend, web, up *routerv1.Backend) { web.Cookie.Name = "a b" }},
		{"backend/webservers.check.interval", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Check.Interval = durationpb.New(time.Millisecond)
		}},
		{"backend/webservers.check.timeout", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Check.Timeout = durationpb.New(time.Hour) }},
		{"backend/webservers.check.rise", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Check.Rise = 101 }},
		{"backend/webservers.check.http.path", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Check.Http.Path = "/a b" }},
		{"backend/webservers.check.http.method", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Check.Http.Method = "GET\r\n" }},
		{"backend/webservers.check.http.host", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Check.Http.Host = "a\nb" }},
		{"backend/webservers.balance", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Balance = 99 }},
		{"backend/webservers.hash", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Hash = &routerv1.Hash{} }},
		{"backend/webservers.hash", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Balance, web.Hash = routerv1.Balance_BALANCE_SOURCE, &routerv1.Hash{UriDepth: 1}
		}},
		{"backend/webservers.hash.header", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Balance = routerv1.Balance_BALANCE_HEADER }},
		{"backend/webservers.hash.header", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Balance, web.Hash = routerv1.Balance_BALANCE_URI, &routerv1.Hash{Header: "X"}
		}},
		{"backend/webservers.hash.type", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Balance, web.Hash = routerv1.Balance_BALANCE_URI, &routerv1.Hash{Type: 9}
		}},
		{"backend/webservers.hash.uri_depth", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Balance, web.Hash = routerv1.Balance_BALANCE_URI, &routerv1.Hash{UriDepth: 101}
		}},
		{"backend/webservers.timeout_queue", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.TimeoutQueue = durationpb.New(0) }},
		{"backend/webservers.servers[0].maxconn", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[0].Maxconn = 1 << 21 }},
		{"backend/webservers.servers[0].maxqueue", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[0].Maxqueue = 1 }},
		{"backend/webservers.servers[0].slow_start", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Servers[0].SlowStart = durationpb.New(time.Millisecond)
		}},
		{"backend/webservers.cookie.mode", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Cookie.Mode = 9 }},
		{"backend/webservers.cookie.secure", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Cookie.Mode, web.Cookie.Secure = routerv1.CookieMode_COOKIE_MODE_REWRITE, true
		}},
		{"backend/webservers.cookie.maxidle", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Cookie.Maxidle = durationpb.New(0) }},
		{"backend/webservers.cookie.domains", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Cookie.Domains = []string{"a;b"} }},
		{"backend/webservers.cookie.attributes", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Cookie.Attributes = []string{"a\r\nb"} }},
		{"backend/webservers.cookie.preserve", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Cookie.Mode, web.Cookie.Preserve = routerv1.CookieMode_COOKIE_MODE_PASSIVE, true
		}},
		{"backend/webservers.cookie.indirect", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) {
			web.Cookie.Mode, web.Cookie.Indirect = routerv1.CookieMode_COOKIE_MODE_REWRITE, true
		}},
		{"backend/webservers.cookie.key_file", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Cookie.KeyFile = "keys" }},
		{"backend/webservers.servers[0].cookie", func(_ *routerv1.Frontend, web, up *routerv1.Backend) {
			web.Cookie.Mode, web.Servers[0].Cookie = routerv1.CookieMode_COOKIE_MODE_PREFIX, "s~1"
		}},
		// The tutorial's crossed names: in one backend s2 is .99, in the other s1 is.
		{"backend/webservers.servers[1].cookie", func(_ *routerv1.Frontend, web, _ *routerv1.Backend) { web.Servers[1].Cookie = "other" }},
		{"backend/webservers.servers[1].cookie", func(_ *routerv1.Frontend, web, up *routerv1.Backend) {
			up.Servers[0].Cookie, up.Servers[0].Address = "s2", "172.16.0.77:80"
		}},
	}
	for _, test := range tests {
		t.Run(test.field, func(t *testing.T) {
			t.Parallel()
			frontends, backends := good()
			test.spoil(frontends[0], backends[0], backends[1])
			state, violations := Parse(frontends, backends)
			var fields []string
			for _, v := range violations {
				fields = append(fields, v.GetField())
			}
			if len(violations) != 1 || fields[0] != test.field || len(state.Backends) > 0 {
				t.Errorf("got %v, want one at %s\n%s %s", violations, test.field, protojson.Format(frontends[0]), protojson.Format(backends[0]))
			}
		})
	}
}

func TestSameCookieNameElsewhereIsFree(t *testing.T) {
	t.Parallel()
	frontends, backends := good()
	backends[1].Cookie.Name = "another"
	backends[1].Servers[0].Cookie = "s9"
	if _, violations := Parse(frontends, backends); len(violations) > 0 {
		t.Error(violations)
	}
}

func TestNamesTwice(t *testing.T) {
	t.Parallel()
	frontends, backends := good()
	_, violations := Parse(append(frontends, &routerv1.Frontend{Name: "main", Bind: []string{"*:81"}}), append(backends, backends[0]))
	var fields []string
	for _, v := range violations {
		fields = append(fields, v.GetField())
	}
	if got := strings.Join(fields, " "); got != "backend/webservers.name frontend/main.name" {
		t.Errorf("got %s", got)
	}
}

func TestBindString(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{":80": "*:80", "*:80": "*:80", "10.0.0.1:8080": "10.0.0.1:8080", "[::1]:80": "[::1]:80"} {
		address, err := parseBind(in)
		if got := BindString(address); err != nil || got != want {
			t.Errorf("%s: got %s %v, want %s", in, got, err, want)
		}
	}
}

// TestOverlaps: an address that overlaps one before it is refused, whatever the order.
func TestOverlaps(t *testing.T) {
	t.Parallel()
	binds := []string{"*:80", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[2001:db8::1]:80", "10.0.0.2:80", "*:81", "10.0.0.1:81", "[::]:82", "0.0.0.0:82"}
	overlaps := func(a, b string) bool {
		x, _ := parseBind(a)
		y, _ := parseBind(b)
		wide := !x.Addr().IsValid() || !y.Addr().IsValid() || x == y
		return x.Port() == y.Port() && (wide || x.Addr().Is4() == y.Addr().Is4() && (x.Addr().IsUnspecified() || y.Addr().IsUnspecified()))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var all []string
		want := map[string]bool{}
		for i := range 1 + random.IntN(5) {
			bind := binds[random.IntN(len(binds))]
			for _, before := range all {
				if overlaps(bind, before) {
					want[fmt.Sprintf("frontend/main.bind[%d]", i)] = true
				}
			}
			all = append(all, bind)
		}
		_, violations := Parse([]*routerv1.Frontend{{Name: "main", Bind: all}}, nil)
		got := map[string]bool{}
		for _, v := range violations {
			got[v.GetField()] = true
		}
		if !maps.Equal(got, want) {
			t.Fatalf("%q: refused %v, want %v", all, got, want)
		}
	}
}

// TestManyFaults: a state that is large and wrong is refused soon, and in few words.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	var frontends []*routerv1.Frontend
	for i := range 2000 {
		f := &routerv1.Frontend{Name: fmt.Sprint("f", i), DefaultBackend: strings.Repeat("\xc3\xa9", 1<<15)}
		for port := range MaxBinds {
			f.Bind = append(f.Bind, fmt.Sprint("*:", 1+port))
		}
		frontends = append(frontends, f)
	}
	_, violations := Parse(frontends, nil)
	bytes := 0
	for _, v := range violations {
		bytes += proto.Size(v)
	}
	if len(violations) == 0 || bytes > 1<<20 {
		t.Errorf("%d violations of %d bytes", len(violations), bytes)
	}
}
