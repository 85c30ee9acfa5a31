package control

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/l7-router/internal/engine"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/proxy"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// explainer answers for the tutorial's router, with some rules more. Nothing listens and nothing runs.
func explainer(t *testing.T) *server {
	t.Helper()
	p, driver := pool.New(zap.NewNop()), proxy.New(zap.NewNop())
	e := engine.New(engine.Config{Pool: p, Cleartext: driver, Full: driver, Log: zap.NewNop()})
	s1 := spec.Server{Name: "s1", Address: netip.MustParseAddrPort("172.16.0.88:80"), Weight: 1, Cookie: "s1"}
	s2 := spec.Server{Name: "s2", Address: netip.MustParseAddrPort("172.16.0.99:80"), Weight: 1, Cookie: "s2"}
	spare := s1
	spare.Backup, spare.Cookie = true, ""
	want := spec.State{
		Frontends: []spec.Frontend{{Name: "main", DefaultBackend: "webservers", MaxConn: 1, Rules: []spec.Rule{
			{Condition: spec.Condition{PathPrefixes: []string{"/admin/"}}, Deny: &spec.Deny{Status: 500, Hold: 10 * time.Second}},
			{Condition: spec.Condition{Hosts: []string{"old.example"}}, Redirect: &spec.Redirect{Scheme: "https", Code: 301}},
			{Edit: &spec.Edit{Host: "app"}},
			{Condition: spec.Condition{Methods: []string{"POST"}}, Backend: "updataserver"},
		}}},
		Backends: []spec.Backend{
			{Name: "updataserver", Servers: []spec.Server{s2, spare}},
			{Name: "webservers", Servers: []spec.Server{s1, s2}, Cookie: spec.Cookie{Name: "w"}},
		},
	}
	for _, change := range plan.Diff(want, e.Observe()) {
		if err := e.Do(context.Background(), change); err != nil {
			t.Fatal(err)
		}
	}
	return &server{servers: p, router: e}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	s := explainer(t)
	header := func(name, value string) []*routerv1.Header { return []*routerv1.Header{{Name: name, Value: value}} }
	for _, test := range []struct {
		name    string
		request *routerv1.Request
		summary string
	}{
		{"default", nil, "no rule decides, so the default backend takes it; server s1 of backend webservers answers: it is its turn (roundrobin)"},
		{"cookie", &routerv1.Request{Headers: header("Cookie", "w=s2")}, "no rule decides, so the default backend takes it; server s2 of backend webservers answers: the client's cookie w names it"},
		{"post", &routerv1.Request{Method: "POST", Target: "/x"}, "rules[3] decides: backend updataserver; server s2 of backend updataserver answers: it is its turn (roundrobin)"},
		{"deny", &routerv1.Request{Target: "/%61dmin/"}, "rules[0] decides: tarpit 500 after 10s; the router answers 500 itself"},
		{"redirect", &routerv1.Request{Headers: header("Host", "old.example")}, "rules[1] decides: redirect 301 https; the router answers 301 itself"},
		{"refused", &routerv1.Request{Headers: header("Content-Length", "x")}, "refused with 400 before any rule: want at most one Content-Length, a decimal number"},
	} {
		got, err := s.Explain(t.Context(), &routerv1.ExplainRequest{Frontend: "main", Request: test.request})
		if err != nil || got.GetSummary() != test.summary {
			t.Errorf("%s: got %q %v, want %q", test.name, got.GetSummary(), err, test.summary)
		}
	}

	got, err := s.Explain(t.Context(), &routerv1.ExplainRequest{Frontend: "main", Request: &routerv1.Request{Method: "POST", Client: "10.10.60.1"}})
	want := &routerv1.ExplainResponse{
		Frontend: "main", Client: "10.10.60.1", Backend: "updataserver", Server: "s2", ServerAddress: "172.16.0.99:80", Reason: "it is its turn (roundrobin)",
		Summary: "rules[3] decides: backend updataserver; server s2 of backend updataserver answers: it is its turn (roundrobin)",
		Rules: []*routerv1.AskedRule{
			{Rule: 0, Missing: "path_prefixes", Action: "tarpit 500 after 10s"}, {Rule: 1, Missing: "hosts", Action: "redirect 301 https"},
			{Rule: 2, Holds: true, Action: "edit"}, {Rule: 3, Holds: true, Action: "backend updataserver"},
		},
		Candidates: []*routerv1.Candidate{
			{Server: "s2", Status: "no check", Weight: 1, Chosen: true, Reason: "it is its turn (roundrobin)"},
			{Server: "s1", Status: "no check", Weight: 1, Reason: "it is a backup, and another server can be used"},
		},
		Head: "POST / HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: 10.10.60.1\r\n\r\n",
	}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v\nwant %v\n%v", prototext.Format(got), prototext.Format(want), err)
	}
	if _, err := s.Explain(t.Context(), &routerv1.ExplainRequest{Frontend: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("another frontend: %v", err)
	}
	if _, err := s.Explain(t.Context(), &routerv1.ExplainRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no frontend: %v", err)
	}
}
