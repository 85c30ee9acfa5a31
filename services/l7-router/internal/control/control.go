// Package control answers the router's gRPC calls: it translates, and decides nothing.
package control

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/verbs"
	"github.com/twotier/twotier/services/l7-router/internal/explain"
	"github.com/twotier/twotier/services/l7-router/internal/haproxy"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// Service is the name under which the router's health is told.
const Service = "twotier.router.v1.Router"

// Servers tells the servers, live, and changes what is wanted of them.
type Servers interface {
	explain.Shadower
	Servers() []pool.State
	Changes(after uint64) (pool.Changes, <-chan struct{})
	SetServer(backend, server string, c pool.Change, by string) (pool.State, error)
	Queues() []pool.Queue
}

// server answers both services.
type server struct {
	routerv1.UnsafeRouterServer
	routerv1.UnsafeRouterAdminServer
	verbs.Verbs
	servers Servers
	router  explain.Router
}

// Register makes the calls known to a gRPC server.
func Register(registrar grpc.ServiceRegistrar, v verbs.Verbs, servers Servers, router explain.Router) {
	s := &server{Verbs: v, servers: servers, router: router}
	routerv1.RegisterRouterServer(registrar, s)
	routerv1.RegisterRouterAdminServer(registrar, s)
}

// ListDesired shows a page of the desired objects.
func (s *server) ListDesired(ctx context.Context, request *commonv1.PageRequest) (*routerv1.ListDesiredResponse, error) {
	answer := &routerv1.ListDesiredResponse{}
	next, err := s.ListObjects(ctx, request, func(object func(proto.Message), etag string) {
		stored := &routerv1.StoredObject{Object: &routerv1.Object{}, Etag: etag}
		object(stored.GetObject())
		answer.Objects = append(answer.Objects, stored)
	})
	if err != nil {
		return nil, err
	}
	answer.NextPageToken = next
	return answer, nil
}

// PreviewPlan tells what would be done.
func (s *server) PreviewPlan(ctx context.Context, request *routerv1.PreviewPlanRequest) (*commonv1.PreviewPlanResponse, error) {
	return s.PreviewObject(ctx, request.GetObject())
}

// Apply stores an object.
func (s *server) Apply(ctx context.Context, request *routerv1.ApplyRequest) (*commonv1.ApplyResponse, error) {
	return s.ApplyObject(ctx, request.GetObject(), request.GetEtag(), request.GetValidateOnly())
}

// Import tells what a haproxy.cfg says in our words.
func (s *server) Import(_ context.Context, request *routerv1.ImportRequest) (*routerv1.ImportResponse, error) {
	result, err := haproxy.Import(request.GetConfig())
	if err != nil {
		return nil, grpcserver.BadRequest([]*commonv1.Violation{{Field: "config", Description: err.Error()}})
	}
	answer := &routerv1.ImportResponse{Report: result.Report}
	for _, b := range result.Backends {
		answer.Objects = append(answer.Objects, &routerv1.Object{Kind: &routerv1.Object_Backend{Backend: b}})
	}
	for _, f := range result.Frontends {
		answer.Objects = append(answer.Objects, &routerv1.Object{Kind: &routerv1.Object_Frontend{Frontend: f}})
	}
	return answer, nil
}

// ListServers shows the servers, live.
func (s *server) ListServers(_ context.Context, request *routerv1.ListServersRequest) (*routerv1.ListServersResponse, error) {
	answer := &routerv1.ListServersResponse{}
	wanted := request.GetBackend()
	for _, state := range s.servers.Servers() {
		if wanted != "" && state.Backend != wanted {
			continue
		}
		answer.Servers = append(answer.Servers, serverState(&state))
	}
	if wanted != "" && len(answer.GetServers()) == 0 {
		return nil, status.Errorf(codes.NotFound, "no server of a backend %q is in force", wanted)
	}
	return answer, nil
}
