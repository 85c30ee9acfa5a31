package board_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/internal/board"
	"github.com/twotier/twotier/services/internal/etcdtest"
)

// limit bounds the waits; it is generous because machines that test are busy.
const limit = time.Minute

// node runs a board until stop.
func node(t *testing.T, e *etcdtest.Etcd, name string) (b *board.Board, stop func()) {
	t.Helper()
	b, err := board.Open(board.Config{Service: "ipvs-director", Node: name, Etcd: e.Endpoints(), Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return b, stop
}

// shows waits until the board shows just these notes, the oldest first.
func shows(t *testing.T, b *board.Board, want ...string) []board.Note {
	t.Helper()
	deadline := time.After(limit)
	for {
		notes, read := b.Notes()
		var got []string
		for _, n := range notes {
			got = append(got, string(n.Value))
		}
		if read && slices.Equal(got, want) {
			return notes
		}
		select {
		case <-b.Changed():
		case <-deadline:
			t.Fatalf("read %v: %q, want %q", read, got, want)
		}
	}
}

func pin(t *testing.T, b *board.Board, value string) {
	t.Helper()
	if err := b.Pin(t.Context(), []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// What one node pins the other reads, in the order of pinning; it outlives the one who has pinned it, who reads it again
// when it is back, and an etcd that goes.
func TestNotesOutliveTheirNode(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	a, stop := node(t, e, "lvs")
	b, _ := node(t, e, "lvs2")
	shows(t, a)
	shows(t, b)
	pin(t, a, "first")
	pin(t, b, "second")
	pin(t, a, "third")
	notes := shows(t, b, "first", "second", "third")
	for i, own := range []bool{false, true, false} {
		if notes[i].Own != own {
			t.Errorf("%s is its own: %v", notes[i].Value, notes[i].Own)
		}
	}
	if err := a.Unpin(t.Context(), shows(t, a, "first", "second", "third")[0].Key); err != nil {
		t.Fatal(err)
	}
	shows(t, b, "second", "third")

	stop()
	again, _ := node(t, e, "lvs")
	for _, n := range shows(t, again, "second", "third") {
		if n.Own {
			t.Errorf("%s is taken for its own after a restart", n.Value)
		}
	}
	e.Stop()
	if err := b.Pin(t.Context(), []byte("while etcd is away")); err == nil {
		t.Error("pinned without etcd")
	}
	shows(t, b, "second", "third")
	e.Start()
	shows(t, again, "second", "third")
	if err := b.Pin(t.Context(), make([]byte, board.MaxNote+1)); !errors.Is(err, board.ErrTooLarge) {
		t.Errorf("too large a note: %v", err)
	}
}

// An etcd that has lost everything, leases too, takes new notes, and both nodes see them.
func TestNotesAfterAnEmptiedEtcd(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	a, _ := node(t, e, "lvs")
	b, _ := node(t, e, "lvs2")
	shows(t, a)
	shows(t, b)
	for _, value := range []string{"1", "2", "3"} {
		pin(t, a, value)
	}
	shows(t, b, "1", "2", "3")
	e.Stop()
	e.Wipe()
	e.Start()
	shows(t, a)
	shows(t, b)
	for deadline := time.Now().Add(limit); ; {
		err := a.Pin(t.Context(), []byte("again"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	shows(t, b, "again")
}

// Without an answer of etcd the board is not taken for an empty one.
func TestUnreadBoardIsNotEmpty(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	e.Stop()
	b, _ := node(t, e, "lvs")
	if notes, read := b.Notes(); read || len(notes) > 0 {
		t.Errorf("read %v: %v", read, notes)
	}
	if err := b.Pin(t.Context(), []byte("a")); !errors.Is(err, board.ErrUnavailable) {
		t.Errorf("pinned: %v", err)
	}
}
