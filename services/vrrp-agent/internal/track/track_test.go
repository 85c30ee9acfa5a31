package track

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

type answer struct {
	well bool
	why  string
}

// TestWatch follows a real health service through its life: away, there, not serving, serving, killed.
func TestWatch(t *testing.T) {
	t.Parallel()
	address := "unix:" + t.TempDir() + "/router.sock"
	answers := make(chan answer, 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Tracker{Log: zap.NewNop()}.Watch(ctx, spec.Check{
			Name: "router", Address: address, What: spec.What{Target: "router"}, Interval: 10 * time.Millisecond, Timeout: time.Second, Rise: 2, Fall: 2,
		}, false, func(well bool, why string) { answers <- answer{well, why} })
	}()
	next := func(want bool, why string) {
		t.Helper()
		if got := <-answers; got.well != want || !strings.Contains(got.why, why) {
			t.Fatalf("got %+v, want %v and %q", got, want, why)
		}
	}
	next(false, "no such file")

	listener, err := net.Listen("unix", strings.TrimPrefix(address, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	state.SetServingStatus("router", grpc_health_v1.HealthCheckResponse_SERVING)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	next(true, "")
	state.SetServingStatus("router", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	next(false, "NOT_SERVING")
	state.SetServingStatus("router", grpc_health_v1.HealthCheckResponse_SERVING)
	next(true, "")
	server.Stop()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	next(false, "")
	cancel()
	<-ended
}
