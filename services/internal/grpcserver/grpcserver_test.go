package grpcserver_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/certs"
	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/internal/door"
	"github.com/twotier/twotier/services/internal/grpcserver"
)

// router is a service that tells who called, and panics when asked for a plan.
type router struct {
	routerv1.UnimplementedRouterServer
	routerv1.UnimplementedRouterAdminServer
	called grpcserver.Caller
}

func (r *router) GetStatus(ctx context.Context, _ *commonv1.GetStatusRequest) (*commonv1.Status, error) {
	r.called = grpcserver.CallerOf(ctx)
	return &commonv1.Status{}, nil
}

func (r *router) WatchStatus(*commonv1.WatchStatusRequest, grpc.ServerStreamingServer[commonv1.Status]) error {
	panic("in a stream")
}

func (r *router) PreviewPlan(context.Context, *routerv1.PreviewPlanRequest) (*commonv1.PreviewPlanResponse, error) {
	panic("in a call")
}

func (r *router) Reconcile(context.Context, *commonv1.ReconcileRequest) (*commonv1.ReconcileResponse, error) {
	return &commonv1.ReconcileResponse{}, nil
}

type running struct {
	*grpcserver.Server
	router *router
	logs   *observer.ObservedLogs
	target string
}

func serve(t *testing.T, listen string, secured *tls.Config) *running {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	s, err := grpcserver.New(grpcserver.Config{Listen: listen, TLS: secured, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	r := &router{}
	routerv1.RegisterRouterServer(s.Registrar(), r)
	routerv1.RegisterRouterAdminServer(s.Registrar(), r)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	target := listen
	if !strings.HasPrefix(listen, "unix:") {
		target = s.Addr().String()
	}
	return &running{s, r, logs, target}
}

func (r *running) dial(t *testing.T, client *tls.Config) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if client != nil {
		creds = credentials.NewTLS(client)
	}
	conn, err := grpc.NewClient(r.target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func serverTLS(t *testing.T, ca *certtest.CA) *tls.Config {
	t.Helper()
	cert, key := ca.Issue(t, "localhost", "service")
	files, err := certs.Open(cert, key, ca.File)
	if err != nil {
		t.Fatal(err)
	}
	return files.Server()
}

func TestRoles(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	s := serve(t, "127.0.0.1:0", serverTLS(t, ca))
	for _, test := range []struct {
		name, role    string
		read, reading codes.Code // GetStatus, health
		change        codes.Code // Reconcile
	}{
		{"", "", codes.Unavailable, codes.Unavailable, codes.Unavailable}, // no certificate
		{"nobody", "", codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
		{"odd", "root", codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
		{"ann", "viewer", codes.OK, codes.OK, codes.PermissionDenied},
		{"l7-router", "service", codes.OK, codes.OK, codes.PermissionDenied},
		{"root", "admin", codes.OK, codes.OK, codes.OK},
	} {
		t.Run(test.name+"-"+test.role, func(t *testing.T) {
			conn := s.dial(t, ca.Client(t, test.name, test.role))
			s.logs.TakeAll()
			_, err := routerv1.NewRouterClient(conn).GetStatus(t.Context(), &commonv1.GetStatusRequest{})
			if got := status.Code(err); got != test.read {
				t.Errorf("GetStatus: %v, want %v", err, test.read)
			}
			if err == nil && (s.router.called.Subject != test.name || string(s.router.called.Role) != test.role) {
				t.Errorf("caller: %+v", s.router.called)
			}
			_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if got := status.Code(err); got != test.reading {
				t.Errorf("health: %v, want %v", err, test.reading)
			}
			s.logs.TakeAll()
			_, err = routerv1.NewRouterAdminClient(conn).Reconcile(t.Context(), &commonv1.ReconcileRequest{})
			if got := status.Code(err); got != test.change {
				t.Errorf("Reconcile: %v, want %v", err, test.change)
			}
			if refused := s.logs.FilterMessage("call refused").All(); test.change == codes.PermissionDenied {
				if len(refused) != 1 {
					t.Fatalf("logged: %v, want one refusal", refused)
				}
				fields := refused[0].ContextMap()
				if refused[0].Level != zap.WarnLevel || fields["subject"] != test.name || fields["method"] != "/twotier.router.v1.RouterAdmin/Reconcile" {
					t.Errorf("logged: %v %v", refused[0].Level, fields)
				}
			}
		})
	}
}

func TestPlainTextStaysAtHome(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
		if s, err := grpcserver.New(grpcserver.Config{Listen: listen}); !errors.Is(err, door.ErrOpenDoor) {
			t.Errorf("%s: %v, %v, want ErrOpenDoor", listen, s, err)
		}
	}
	if _, err := grpcserver.New(grpcserver.Config{Listen: "127.0.0.1:0", TLS: &tls.Config{}}); err == nil {
		t.Error("TLS without client certificates: let through")
	}
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "api.sock")} {
		s := serve(t, listen, nil)
		conn := s.dial(t, nil)
		if _, err := routerv1.NewRouterAdminClient(conn).Reconcile(t.Context(), &commonv1.ReconcileRequest{}); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

func TestHealthAndReflection(t *testing.T) {
	t.Parallel()
	s := serve(t, "127.0.0.1:0", nil)
	conn := s.dial(t, nil)
	health := grpc_health_v1.NewHealthClient(conn)
	for _, want := range []bool{true, false, true} {
		s.SetServing("", want)
		answer, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || (answer.Status == grpc_health_v1.HealthCheckResponse_SERVING) != want {
			t.Errorf("health: %v %v, want %v", answer, err, want)
		}
	}
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil || !strings.Contains(answer.String(), "twotier.router.v1.RouterAdmin") {
		t.Errorf("reflection: %v %v", answer, err)
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	t.Parallel()
	conn := serve(t, "127.0.0.1:0", nil).dial(t, nil)
	deep := &routerv1.Server{Name: "s1"}
	deep.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
	_, err := routerv1.NewRouterAdminClient(conn).Apply(t.Context(), &routerv1.ApplyRequest{Object: &routerv1.Object{
		Kind: &routerv1.Object_Backend{Backend: &routerv1.Backend{Name: "b", Servers: []*routerv1.Server{{Name: "s0"}, deep}}},
	}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "object.backend.servers") {
		t.Errorf("got %v", err)
	}
	request := &commonv1.GetStatusRequest{}
	if _, err := routerv1.NewRouterClient(conn).GetStatus(t.Context(), request); err != nil {
		t.Errorf("without: %v", err)
	}
}

func TestPanicsStayInTheirCall(t *testing.T) {
	t.Parallel()
	s := serve(t, "127.0.0.1:0", nil)
	client := routerv1.NewRouterClient(s.dial(t, nil))
	if _, err := client.PreviewPlan(t.Context(), &routerv1.PreviewPlanRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("call: %v", err)
	}
	stream, err := client.WatchStatus(t.Context(), &commonv1.WatchStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal || errors.Is(err, io.EOF) {
		t.Errorf("stream: %v", err)
	}
	if n := s.logs.FilterMessage("handler panicked").Len(); n != 2 {
		t.Errorf("%d panics logged, want 2", n)
	}
}

// TestWatchersDoNotHoldUpTheStop: a watch has no end of its own.
func TestWatchersDoNotHoldUpTheStop(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.WarnLevel)
	s, err := grpcserver.New(grpcserver.Config{Listen: "127.0.0.1:0", Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	watcher := (&running{target: s.Addr().String()}).dial(t, nil)
	watch, err := grpc_health_v1.NewHealthClient(watcher).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watcher got %v", err)
	}
	if n := logs.Len(); n != 0 {
		t.Errorf("logged %v, want calls to end by themselves", logs.All()[0])
	}
}

func TestUnixSocketOfADeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "api.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, "unix:"+path, nil)
	if _, err := grpcserver.New(grpcserver.Config{Listen: "unix:" + path}); err == nil {
		t.Error("took the socket of a living process")
	}
}

func TestBadRequest(t *testing.T) {
	t.Parallel()
	err := grpcserver.BadRequest([]*commonv1.Violation{{Field: "backend/a.servers[1].address", Description: "want HOST:PORT"}, {Field: "x", Description: "y"}})
	s := status.Convert(err)
	if s.Code() != codes.InvalidArgument || s.Message() != "backend/a.servers[1].address: want HOST:PORT (and 1 more)" {
		t.Errorf("got %v", err)
	}
	details, ok := s.Details()[0].(*errdetails.BadRequest)
	if !ok || len(details.FieldViolations) != 2 || details.FieldViolations[1].Field != "x" {
		t.Errorf("details: %v", s.Details())
	}
	many := make([]*commonv1.Violation, 1000)
	for i := range many {
		many[i] = &commonv1.Violation{Field: "backend/a.servers[1].address", Description: "want HOST:PORT"}
	}
	s = status.Convert(grpcserver.BadRequest(many))
	if size := proto.Size(s.Proto()); size > 6<<10 || !strings.HasSuffix(s.Message(), "(and 999 more)") {
		t.Errorf("%d bytes of trailers: %s", size, s.Message())
	}
}
