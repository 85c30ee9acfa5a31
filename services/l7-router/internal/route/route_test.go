package route

import (
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

func TestBackend(t *testing.T) {
	t.Parallel()
	f := &spec.Frontend{
		DefaultBackend: "webservers",
		Rules: []spec.Rule{
			{PathPrefixes: []string{"/static/", "/img/"}, Backend: "static"},
			{Methods: []string{"POST", "PUT"}, PathPrefixes: []string{"/api/"}, Backend: "api"},
			{Methods: []string{"POST"}, Backend: "updataserver"},
			{PathPrefixes: []string{"/static/late"}, Backend: "never"},
		},
	}
	tests := []struct{ method, path, want string }{
		{"GET", "/", "webservers"},
		{"POST", "/", "updataserver"},
		{"post", "/", "webservers"},
		{"POST", "/static/a", "static"},
		{"GET", "/img/", "static"},
		{"GET", "/img", "webservers"},
		{"GET", "/static/late", "static"},
		{"PUT", "/api/x", "api"},
		{"PUT", "/", "webservers"},
		{"GET", "/api/x", "webservers"},
		{"GET", "/STATIC/", "webservers"},
		{"GET", "/%73tatic/", "webservers"},
		{"OPTIONS", "*", "webservers"},
		{"GET", "", "webservers"},
	}
	for _, test := range tests {
		if got := Backend(f, []byte(test.method), []byte(test.path)); got != test.want {
			t.Errorf("%s %s: got %s, want %s", test.method, test.path, got, test.want)
		}
	}
	all := &spec.Frontend{Rules: []spec.Rule{{Backend: "all"}}, DefaultBackend: "never"}
	if got := Backend(all, []byte("GET"), []byte("/")); got != "all" {
		t.Errorf("a rule without a condition: got %q, want all", got)
	}
	if got := Backend(&spec.Frontend{}, []byte("GET"), []byte("/")); got != "" {
		t.Errorf("no rule and no default: got %q, want none", got)
	}
}

func TestAllocatesNothing(t *testing.T) {
	f := &spec.Frontend{DefaultBackend: "a", Rules: []spec.Rule{{Methods: []string{"POST"}, PathPrefixes: []string{"/x"}, Backend: "b"}}}
	method, path := []byte("POST"), []byte("/y")
	if n := testing.AllocsPerRun(100, func() { Backend(f, method, path) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
