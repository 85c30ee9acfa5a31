package engine_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/certtest"
)

// TestOnlyCleartextIsCarriedByLoops: a connection over TLS does not have the loops say that they carry something, one in
// cleartext does.
func TestOnlyCleartextIsCarriedByLoops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, origin(t))
	ca := certtest.New(t)
	w.speak(ca, "a.example")
	w.main().Bind = []netip.AddrPort{clear}
	w.apply()
	dialTLS(t, w.bound(secure), trust(t, ca, "a.example")).get("/", "")
	if len(w.carrying) > 0 {
		t.Errorf("over TLS: carrying %v", <-w.carrying)
	}
	dial(t, w.bound(clear)).get("/", "")
	select {
	case carrying := <-w.carrying:
		if !carrying {
			t.Error("carrying nothing, of a connection in cleartext")
		}
	case <-time.After(patience):
		t.Error("nothing was told of a connection in cleartext")
	}
}
