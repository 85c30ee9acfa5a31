package instance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// keyFile writes a key whose bytes are all the same.
func keyFile(t *testing.T, b byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(strings.Repeat(fmt.Sprintf("%02x", b), 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSigned begins to sign adverts while they run, changes the key, and loses none; then a stranger sends what he has
// heard, and what he has made himself.
func TestSigned(t *testing.T) {
	t.Parallel()
	one, two := keyFile(t, 1), keyFile(t, 2)
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		before := b.set.Instances()[0]
		k1, k2 := spec.KeyFile{ID: 1, File: one}, spec.KeyFile{ID: 2, File: two}
		set := func(n *node, node string, priority uint8, h spec.HMAC) {
			t.Helper()
			m := member(node, priority)
			m.HMAC = h
			if err := n.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: m}); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		for _, h := range []spec.HMAC{
			{Keys: []spec.KeyFile{k1}, Active: 1},
			{Keys: []spec.KeyFile{k1}, Active: 1, Send: true},
			{Keys: []spec.KeyFile{k1}, Active: 1, Send: true, Require: true},
			{Keys: []spec.KeyFile{k1, k2}, Active: 1, Send: true, Require: true},
			{Keys: []spec.KeyFile{k1, k2}, Active: 2, Send: true, Require: true},
			{Keys: []spec.KeyFile{k2}, Active: 2, Send: true, Require: true},
		} {
			set(a, "haproxy", 105, h)
			set(b, "haproxy2", 99, h)
			if got := b.set.Instances()[0]; got.Transitions != before.Transitions || got.Dropped != before.Dropped || got.Unheard {
				t.Fatalf("%+v: %s, dropped %v", h, b.print(), got.Dropped)
			}
		}
		held(t, "keys changed", a, b)
		got, sent := b.set.Instances()[0], a.set.Instances()[0].Sent
		if lost := sent - got.Received; got.Received == 0 || lost > 4 { // those before it listened
			t.Errorf("%d adverts of %d were taken in", got.Received, sent)
		}

		// What the master has sent, sent again by a stranger, and an advert with the wrong key.
		stranger := l.join(t, "stranger", "192.168.60.200/24")
		w, err := stranger.Listen(nic.Port{Index: 2, Source: a.card.Addresses[0].Addr()})
		if err != nil {
			t.Fatal(err)
		}
		pass(100 * time.Millisecond)
		buffer := make([]byte, 200)
		n, err := w.Receive(buffer)
		if err != nil || n == 0 {
			t.Fatalf("nothing heard: %v", err)
		}
		old := buffer[20:n]
		forged := packet.NewRing(2, []packet.Key{{ID: 2, Secret: make([]byte, 32)}})
		f := packet.Format{Version: packet.V3, Source: a.card.Addresses[0].Addr(), Ring: forged}
		own := packet.Advertisement{VirtualRouterID: 53, Priority: 250, Interval: 30 * time.Millisecond, Addresses: member("x", 1).Addresses}.Append(nil, f)
		forged.Sign(own, f, time.Now())
		for range 3 {
			for _, payload := range [][]byte{old, own, own[:len(own)-28]} {
				if err := w.Send(payload); err != nil {
					t.Fatal(err)
				}
			}
		}
		pass(time.Second)
		dropped := b.set.Instances()[0].Dropped
		if dropped[packet.DropReplay] != 3 || dropped[packet.DropSignature] != 6 {
			t.Errorf("dropped %v", dropped)
		}
		held(t, "a stranger speaks", a, b)
		stranger.leave()
		a.leave()
		b.leave()
	})
}

func TestReadKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	for text, want := range map[string]int{
		strings.Repeat("ab", 32): 32, strings.Repeat("AB", 64) + "\r\n": 64, strings.Repeat("ab", 31): 0,
		"hex:" + strings.Repeat("ab", 64) + "\n": 64, "hex:" + strings.Repeat("ab", 31): 0, strings.Repeat("ab", 65): 0, strings.Repeat("xy", 32): 0, "": 0,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readKey(file); len(got) != want || (err == nil) != (want > 0) {
			t.Errorf("%q: got %d bytes, %v", text, len(got), err)
		}
	}
	if _, err := readKey("/nonexistent"); err == nil {
		t.Error("a missing file is accepted")
	}
}
