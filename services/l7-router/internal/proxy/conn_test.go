package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// noting is a connection that writes down the deadlines of its reads.
type noting struct {
	*net.TCPConn
	mu  sync.Mutex // guards all
	all []time.Time
}

func (n *noting) SetReadDeadline(t time.Time) error {
	n.mu.Lock()
	n.all = append(n.all, t)
	n.mu.Unlock()
	return n.TCPConn.SetReadDeadline(t)
}

// TestHalfPreface: a client that begins as HTTP/2 does, and then says nothing, has as long for its head as any other, once.
func TestHalfPreface(t *testing.T) {
	t.Parallel()
	plain, client := pair(t)
	watched := &noting{TCPConn: plain.stream.(*net.TCPConn)}
	ours, err := newSock(watched)
	if err != nil {
		t.Fatal(err)
	}
	f := &exchange.Frontend{
		Spec: spec.Frontend{
			HTTP2:          spec.HTTP2{Cleartext: true},
			TimeoutRequest: 100 * time.Millisecond, TimeoutKeepAlive: time.Minute, TimeoutClient: time.Minute,
		},
		Seen: stats.NewSet(),
	}
	l := front.NewListener(netip.AddrPort{}, netip.AddrPort{}, false, front.New(f, func() {}), nil)
	c := newConn(ours, l, exchange.Client{}, zap.NewNop())
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(c.serve)
	defer client.Close()
	if _, err := io.WriteString(client, http2.Preface[:10]); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil || r.StatusCode != 408 {
		t.Fatalf("got %+v %v, want 408", r, err)
	}
	watched.mu.Lock()
	defer watched.mu.Unlock()
	if all := watched.all; len(all) < 3 || !all[1].Equal(all[2]) { // the first is for the first byte
		t.Errorf("the deadlines are %v, want the same for the preface and the head", all)
	}
}

// TestClockAfterPreface: what follows a wait for what might be the preface of HTTP/2, and is not, is timed from its end. The clock
// stood still meanwhile: the head was logged as come with its first byte, and a server's time began before it was asked.
func TestClockAfterPreface(t *testing.T) {
	t.Parallel()
	ours, client := pair(t)
	c := newConn(ours, nil, exchange.Client{}, zap.NewNop())
	c.in = borrow()
	c.in.w = copy(c.in.b, "P")
	stale := now()
	c.at = stale
	if _, err := io.WriteString(client, "OST"); err != nil {
		t.Fatal(err)
	}
	if c.preface(time.Now().Add(time.Minute)) || string(c.in.bytes()) != "POST" {
		t.Fatalf("took %q for a preface", c.in.bytes())
	}
	if at := c.clock(); at <= stale {
		t.Errorf("after a wait the clock is still %d, want later than %d", at, stale)
	}
}
