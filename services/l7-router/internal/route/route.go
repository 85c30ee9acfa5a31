// Package route chooses the backend for a request: pure.
package route

import (
	"slices"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Backend returns the name of the backend that takes a request, empty when none does. The first rule that holds
// decides, whether its backend has a living server or not (HAProxy: use_backend). Method and path are compared byte by
// byte, the path as it was sent: neither decoded nor normalised, without the query.
func Backend(f *spec.Frontend, method, path []byte) string {
	for i := range f.Rules {
		if holds(&f.Rules[i], method, path) {
			return f.Rules[i].Backend
		}
	}
	return f.DefaultBackend
}

func holds(r *spec.Rule, method, path []byte) bool {
	if len(r.Methods) > 0 && !slices.ContainsFunc(r.Methods, func(m string) bool { return m == string(method) }) {
		return false
	}
	if len(r.PathPrefixes) > 0 && !slices.ContainsFunc(r.PathPrefixes, func(prefix string) bool {
		return len(path) >= len(prefix) && string(path[:len(prefix)]) == prefix
	}) {
		return false
	}
	return true
}
