package proxy

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
)

// TestCopyEarns: a body that cannot be spliced earns its sender time as any other does. It did not, and a long upload over TLS
// was given up as if nothing came.
func TestCopyEarns(t *testing.T) {
	t.Parallel()
	from, sender := pair(t)
	to, _ := pair(t)
	var pace exchange.Pace
	pace.Begin(now(), 500, time.Second, 0)
	var active activity
	active.touch(now())
	d := direction{from: from, to: to, fromTimeout: time.Minute, toTimeout: time.Minute, active: &active, at: now(), stop: new(atomic.Bool), fromPace: &pace}
	if _, err := sender.Write(make([]byte, BufferSize)); err != nil {
		t.Fatal(err)
	}
	if n, err := d.copy(BufferSize); err != nil || n == 0 {
		t.Fatalf("copied %d bytes: %v", n, err)
	}
	if pace.Due() != 0 {
		t.Error("the sender is still waited for after it has sent something")
	}
}

// TestEarlyDeadlines: a deadline that is a little earlier than wanted stays, and is not taken for silence when it passes.
func TestEarlyDeadlines(t *testing.T) {
	t.Parallel()
	const wait = int64(time.Second)
	for _, c := range []struct {
		name          string
		inForce, then int64
		want          bool
	}{
		{"none", 0, 10*wait + wait, false},
		{"the same", 10*wait + wait, 10*wait + wait, true},
		{"somewhat earlier", 10*wait + wait/2, 10*wait + wait, true},
		{"soon", 10*wait + wait/2 - 1, 10*wait + wait, false},
		{"over", 10*wait - 1, 10*wait + wait, false},
		{"later", 10*wait + wait + 1, 10*wait + wait, false},
		{"wanted at once", 10*wait + wait, 10*wait - 1, false},
	} {
		var d due
		d.at.Store(c.inForce)
		if got := d.serves(10*wait, c.then); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}

	from, sender := pair(t)
	var active activity
	begin := now()
	active.touch(begin)
	d := direction{from: from, to: from, fromTimeout: time.Minute, toTimeout: time.Minute, active: &active, at: begin, stop: new(atomic.Bool)}
	_ = from.SetReadDeadline(past)
	from.readDue.at.Store(begin + int64(time.Minute)) // as another goroutine may leave it that ends a wait
	if _, err := sender.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if n, err := d.readInto(b); n != 1 || err != nil {
		t.Errorf("read %d bytes: %v; want one, for nobody has been silent", n, err)
	}
}

// pair is a socket of ours and its other end.
func pair(t *testing.T) (*sock, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	s, err := newSock(ours.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	return s, theirs.(*net.TCPConn)
}

// TestStopBeforeWrite: a direction that is stopped between two waits does not begin another, be it for a receiver that takes
// nothing: it would set a deadline of its own over that which was to end it.
func TestStopBeforeWrite(t *testing.T) {
	t.Parallel()
	from, _ := pair(t)
	to, _ := pair(t)
	var active activity
	active.touch(now())
	d := direction{from: from, to: to, fromTimeout: time.Hour, toTimeout: time.Hour, active: &active, at: now(), stop: new(atomic.Bool)}
	_ = to.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) // until its buffers are full
	for {
		if _, err := to.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	d.stop.Store(true)
	expire(to)
	ended := make(chan error, 1)
	go func() { ended <- d.writeAll(make([]byte, 1<<20)) }()
	select {
	case err := <-ended:
		if !errors.Is(err, errStopped) {
			t.Errorf("it ended with %v, want that it was stopped", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits on")
		_ = to.Close() // or it would for an hour
		<-ended
	}
}
