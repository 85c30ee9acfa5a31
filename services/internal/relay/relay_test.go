package relay_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/internal/etcdtest"
	"github.com/twotier/twotier/services/internal/relay"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// open runs a relay until the test ends; what it hears comes through the channel.
func open(t *testing.T, prefix string, endpoints ...string) (*relay.Relay, <-chan string) {
	t.Helper()
	b, err := relay.Open(relay.Config{Etcd: endpoints, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	heard, ended := make(chan string, 1024), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- b.Run(ctx, prefix, func(key, word string) { heard <- key + " " + word }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b, heard
}

// exchange posts until the word is heard: a word may be lost while somebody connects.
func exchange(t *testing.T, from *relay.Relay, key, word string, heard <-chan string) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		from.Post(key, word)
		for more := true; more; {
			select {
			case got := <-heard:
				if got == key+" "+word {
					return
				}
			case <-ticker.C:
				more = false
			case <-deadline:
				t.Fatalf("%s %s was not heard", key, word)
			}
		}
	}
}

func TestRelay(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	a, toA := open(t, "/t/a/", e.Endpoints()...)
	b, toB := open(t, "/t/b/", e.Endpoints()...)
	exchange(t, a, "/t/b/x", "1", toB)
	exchange(t, b, "/t/a/x", "2", toA)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if value, there, err := a.Get(ctx, "/t/a/x"); value != "2" || !there || err != nil {
		t.Errorf("got %q %v %v", value, there, err)
	}
	if _, there, err := a.Get(ctx, "/t/none"); there || err != nil {
		t.Errorf("got %v %v", there, err)
	}

	// Another etcd knows neither lease nor words, and is spoken through as well.
	e.Stop()
	for n := range 10 * relay.MaxWaiting { // nobody waits, nothing grows
		a.Post(fmt.Sprint("/t/b/", n), "lost")
	}
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	if _, _, err := a.Get(short, "/t/a/x"); err == nil {
		t.Error("an etcd that is away has answered")
	}
	e.Replace()
	e.Start()
	exchange(t, a, "/t/b/x", "3", toB)
	exchange(t, b, "/t/a/x", "4", toA)
}

func TestWithoutEtcd(t *testing.T) {
	t.Parallel()
	b, heard := open(t, "/t/")
	b.Post("/t/x", "1")
	if _, _, err := b.Get(t.Context(), "/t/x"); !errors.Is(err, relay.ErrNone) {
		t.Error(err)
	}
	if len(heard) > 0 {
		t.Errorf("heard %s", <-heard)
	}
}
