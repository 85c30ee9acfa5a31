package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	rpc "google.golang.org/grpc/status"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/daemon"
	"github.com/twotier/twotier/services/l7-router/internal/control"
)

// TestService runs the whole service from a file and uses each of its doors.
func TestService(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"epoll", "goroutine"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			testService(t, driver)
		})
	}
}

func testService(t *testing.T, driver string) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "forwarded for "+r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(origin.Close)
	reserved, err := net.Listen("tcp", "127.73.60.22:0")
	if err != nil {
		t.Fatal(err)
	}
	front := reserved.Addr().String()
	_ = reserved.Close()

	folder := t.TempDir()
	file := filepath.Join(folder, "desired.yaml")
	yaml := fmt.Sprintf("kind: backend\nname: web\ncookie: {name: webserver}\nservers:\n- {name: s1, address: %q, cookie: s1}\n---\nkind: frontend\nname: main\nbind: [%q]\ndefault_backend: web\n",
		origin.Listener.Addr().String(), front)
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(folder, "grpc.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, &daemon.Process{Log: zap.NewNop(), Version: "test", Config: daemon.Config{
			Service: "l7-router", Node: "here", Desired: file, StateDir: filepath.Join(folder, "state"), GRPCListen: socket,
		}}, driver, upgrading{drain: time.Second})
	}()

	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ask, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	for _, service := range []string{control.Service, ""} {
		watching, enough := context.WithCancel(ask)
		watch, err := grpc_health_v1.NewHealthClient(conn).Watch(watching, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		for state := grpc_health_v1.HealthCheckResponse_UNKNOWN; state != grpc_health_v1.HealthCheckResponse_SERVING; {
			answer, err := watch.Recv()
			if err != nil {
				t.Fatalf("health of %q: %v, last %v", service, err, state)
			}
			state = answer.GetStatus()
		}
		enough()
	}

	r, err := http.Get("http://" + front + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil || string(body) != "forwarded for 127.0.0.1" && string(body) != "forwarded for 127.73.60.22" || r.Header.Get("Set-Cookie") != "webserver=s1; path=/" {
		t.Errorf("%d %q %v %v", r.StatusCode, body, r.Header, err)
	}

	router := routerv1.NewRouterClient(conn)
	servers, err := router.ListServers(ask, &routerv1.ListServersRequest{Backend: "web"})
	if err != nil || len(servers.GetServers()) != 1 {
		t.Fatalf("servers: %v %v", servers, err)
	}
	if s := servers.GetServers()[0]; s.GetHealth() != routerv1.Health_HEALTH_NO_CHECK || s.GetTotalRequests() != 1 || s.GetName() != "s1" || s.GetWeight() != 1 {
		t.Errorf("server: %v", s)
	}
	if _, err := router.ListServers(ask, &routerv1.ListServersRequest{Backend: "nobody"}); err == nil {
		t.Error("servers of an unknown backend: no error")
	}
	explained, err := router.Explain(ask, &routerv1.ExplainRequest{Address: front, Request: &routerv1.Request{Client: "192.0.2.1"}})
	if err != nil || explained.GetServer() != "s1" || explained.GetBackend() != "web" || explained.GetClient() != "192.0.2.1" {
		t.Errorf("explain: %v %v", explained, err)
	}
	simulated, err := router.Simulate(ask, &routerv1.SimulateRequest{Objects: []*routerv1.Object{{Kind: &routerv1.Object_Frontend{Frontend: &routerv1.Frontend{
		Name: "main", Bind: []string{front}, DefaultBackend: "web", Rules: []*routerv1.Rule{{Condition: &routerv1.Condition{Paths: []string{"/x"}}, Deny: &routerv1.Deny{}}},
	}}}}})
	if err != nil || simulated.GetAsked() != 3 || len(simulated.GetChanges()) != 1 || len(simulated.GetDifferences()) != 1 || simulated.GetDifferences()[0].GetAfter().GetStatus() != 403 {
		t.Errorf("simulate: %v %v", simulated, err)
	}
	for name, request := range map[string]*routerv1.SimulateRequest{
		"objects[0]": {Objects: []*routerv1.Object{{}}}, "remove[0]": {Remove: []string{"backend/nobody"}}, "frontend/main": {Remove: []string{"backend/web"}},
		"samples[0].frontend": {Samples: []*routerv1.ExplainRequest{{}}},
	} {
		if _, err := router.Simulate(ask, request); rpc.Code(err) != codes.InvalidArgument {
			t.Errorf("simulate, %s: %v", name, err)
		}
	}
	admin := routerv1.NewRouterAdminClient(conn)
	watching, enough := context.WithCancel(ask)
	defer enough()
	watch, err := router.WatchServers(watching, &routerv1.WatchServersRequest{Backend: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || !first.GetComplete() || len(first.GetServers()) != 1 {
		t.Fatalf("watch: %v %v", first, err)
	}
	set, err := admin.SetServer(ask, &routerv1.SetServerRequest{Backend: "web", Server: "s1", Admin: routerv1.Admin_ADMIN_DRAIN, Weight: new(uint32(7))})
	if err != nil || set.GetServer().GetStatus() != "DRAIN" || set.GetServer().GetWeight() != 7 || set.GetServer().GetAdmin() != routerv1.Admin_ADMIN_DRAIN {
		t.Errorf("set: %v %v", set, err)
	}
	if next, err := watch.Recv(); err != nil || next.GetComplete() || len(next.GetServers()) != 1 || next.GetServers()[0].GetStatus() != "DRAIN" {
		t.Errorf("watch: %v %v", next, err)
	}
	for _, refused := range []struct {
		request *routerv1.SetServerRequest
		want    codes.Code
	}{
		{&routerv1.SetServerRequest{Backend: "web", Server: "s1"}, codes.InvalidArgument},
		{&routerv1.SetServerRequest{Backend: "web", Server: "s1", Weight: new(uint32(257))}, codes.InvalidArgument},
		{&routerv1.SetServerRequest{Backend: "web", Server: "s1", Checks: new(false)}, codes.FailedPrecondition},
		{&routerv1.SetServerRequest{Backend: "web", Server: "s2", Checks: new(false)}, codes.NotFound},
	} {
		if _, err := admin.SetServer(ask, refused.request); rpc.Code(err) != refused.want {
			t.Errorf("%v: %v, want %v", refused.request, err, refused.want)
		}
	}
	status, err := router.GetStatus(ask, &commonv1.GetStatusRequest{})
	if err != nil || status.GetOutcome() != commonv1.Outcome_OUTCOME_DONE || status.GetNode() != "here" {
		t.Errorf("status: %v %v", status, err)
	}
	list, err := router.ListDesired(ask, &commonv1.PageRequest{})
	if err != nil || len(list.GetObjects()) != 2 || list.GetObjects()[0].GetObject().GetBackend().GetName() != "web" {
		t.Errorf("desired: %v %v", list, err)
	}
	if _, err := admin.Apply(ask, &routerv1.ApplyRequest{Object: list.GetObjects()[0].GetObject()}); err == nil {
		t.Error("apply to a file: no error")
	}

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("end: %v", err)
		}
	case <-ask.Done():
		t.Error("does not end")
	}
}
