package track

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/twotier/twotier/services/internal/netnsmark"
	"github.com/twotier/twotier/services/internal/probe"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// member is a member's director, which can be well, not well, or dead.
type member struct {
	address string
	state   *health.Server
	server  *grpc.Server
}

func newMember(t *testing.T) *member {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &member{listener.Addr().String(), health.NewServer(), grpc.NewServer()}
	grpc_health_v1.RegisterHealthServer(m.server, m.state)
	served := make(chan error, 1)
	go func() { served <- m.server.Serve(listener) }()
	t.Cleanup(func() {
		m.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *member) is(well bool) {
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if well {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	m.state.SetServingStatus("director", state)
}

// Who is not well is at fault while somebody else is well, and not while nobody is: dead, not serving, or hanging.
func TestLastResort(t *testing.T) {
	t.Parallel()
	own, second, third := newMember(t), newMember(t), newMember(t)
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hangs.Close() })
	prober, end := Tracker{}.prober(spec.Check{
		Address: own.address, Others: second.address + "\x00" + hangs.Addr().String() + "\x00" + third.address + "\x00",
		What: spec.What{Target: "director", LastResort: true}, Timeout: 10 * time.Second,
	})
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		name              string
		own, second, last bool
		want              string
	}{
		{"all well", true, true, true, ""},
		{"the others not", true, false, false, ""},
		{"own not", false, true, true, "NOT_SERVING"},
		{"own not, and one other", false, false, true, "NOT_SERVING"},
		{"own not, and the other one", false, true, false, "NOT_SERVING"},
	} {
		own.is(c.own)
		second.is(c.second)
		third.is(c.last)
		expect(t, prober, c.name, c.want)
	}
	third.is(true)
	own.server.Stop()
	expect(t, prober, "own dead", "Unavailable")
	third.server.Stop()
	expect(t, prober, "own dead, and one other", "Unavailable")
	second.server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // so long is the one waited for that hangs
	defer cancel()
	if err := prober.Probe(ctx); err != nil {
		t.Errorf("nobody is well: %v", err)
	}
}

// expect asks once.
func expect(t *testing.T, p probe.Prober, what, want string) {
	t.Helper()
	got := ""
	if err := p.Probe(t.Context()); err != nil {
		got = err.Error()
	}
	if !strings.Contains(got, want) || (want == "") != (got == "") {
		t.Errorf("%q: got %q, want %q", what, got, want)
	}
}

// bearsMark: only what was written in this namespace, of this boot, vouches.
func TestFileOfTheNamespace(t *testing.T) {
	t.Parallel()
	mark, err := netnsmark.Own()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules")
	prober, _ := Tracker{}.prober(spec.Check{What: spec.What{Kind: spec.CheckFile, Target: file, Namespace: true}})
	expect(t, prober, "no file", "is not there")
	for text, want := range map[string]string{
		mark: "", strings.TrimSuffix(mark, "\n") + "0\n": "is not there", "x" + mark: "is not there", mark + "\n": "is not there", "": "is not there",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		expect(t, prober, text, want)
	}
}
