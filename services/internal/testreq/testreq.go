// Package testreq says what happens when a test cannot run here: it is skipped with the reason, or, where everything is
// required, it fails.
package testreq

import (
	"os"
	"testing"
)

// RequireAll is the environment variable that turns skips into failures when it is 1.
const RequireAll = "TWOTIER_REQUIRE_ALL"

// Missing ends the test because something is not there. what names it and says how to get it.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(RequireAll) == "1" {
		t.Fatalf("%s=1 and missing: %s", RequireAll, what)
	}
	t.Skipf("missing: %s", what)
}
