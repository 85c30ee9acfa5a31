package control

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// admins are our words for those of the API.
var admins = map[routerv1.Admin]spec.Admin{
	routerv1.Admin_ADMIN_READY: spec.AdminReady,
	routerv1.Admin_ADMIN_DRAIN: spec.AdminDrain,
	routerv1.Admin_ADMIN_MAINT: spec.AdminMaint,
}

// healths are our words for those of the API that can be asked for.
var healths = map[routerv1.Health]pool.Health{
	routerv1.Health_HEALTH_UNSPECIFIED: 0,
	routerv1.Health_HEALTH_UP:          pool.Up,
	routerv1.Health_HEALTH_STOPPING:    pool.Stopping,
	routerv1.Health_HEALTH_DOWN:        pool.Down,
}

// SetServer asks something of one server.
func (s *server) SetServer(ctx context.Context, request *routerv1.SetServerRequest) (*routerv1.SetServerResponse, error) {
	var violations []*commonv1.Violation
	refuse := func(field, description string) {
		violations = append(violations, &commonv1.Violation{Field: field, Description: description})
	}
	change := pool.Change{ResetWeight: request.GetResetWeight(), Checks: request.Checks, ShutdownSessions: request.GetShutdownSessions()}
	if wanted := request.GetAdmin(); wanted != routerv1.Admin_ADMIN_UNSPECIFIED {
		admin, known := admins[wanted]
		if !known {
			refuse("admin", "want ADMIN_READY, ADMIN_DRAIN or ADMIN_MAINT")
		}
		change.Admin = &admin
	}
	if request.Weight != nil {
		if request.GetWeight() > spec.MaxWeight || request.GetResetWeight() {
			refuse("weight", "want 0 to 256, and not together with reset_weight")
		}
		change.Weight = new(int(min(request.GetWeight(), spec.MaxWeight)))
	}
	health, known := healths[request.GetHealth()]
	if !known {
		refuse("health", "want HEALTH_UP, HEALTH_STOPPING or HEALTH_DOWN")
	}
	change.Health = health
	if change == (pool.Change{}) && len(violations) == 0 {
		refuse("admin", "nothing is asked for")
	}
	if len(violations) > 0 {
		return nil, grpcserver.BadRequest(violations)
	}
	state, err := s.servers.SetServer(request.GetBackend(), request.GetServer(), change, grpcserver.CallerOf(ctx).Subject)
	switch {
	case errors.Is(err, pool.ErrUnknown):
		return nil, status.Error(codes.NotFound, err.Error())
	case errors.Is(err, pool.ErrNoCheck):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &routerv1.SetServerResponse{Server: serverState(&state)}, nil
}

// WatchServers sends every server, and then each that changes, until the caller hangs up. Nothing is kept for a watcher
// but where it stands, so a slow one costs nothing and holds nobody up.
func (s *server) WatchServers(request *routerv1.WatchServersRequest, stream grpc.ServerStreamingServer[routerv1.WatchServersResponse]) error {
	after := uint64(0)
	for first := true; ; first = false {
		changes, changed := s.servers.Changes(after)
		after = changes.Version
		answer := &routerv1.WatchServersResponse{Complete: changes.Complete}
		if wanted := request.GetBackend(); wanted != "" {
			changes.Servers = slices.DeleteFunc(changes.Servers, func(state pool.State) bool { return state.Backend != wanted })
		}
		for i := range changes.Servers {
			answer.Servers = append(answer.Servers, serverState(&changes.Servers[i]))
		}
		if first || answer.GetComplete() || len(answer.GetServers()) > 0 {
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// ListQueues shows the queues, live.
func (s *server) ListQueues(_ context.Context, request *routerv1.ListQueuesRequest) (*routerv1.ListQueuesResponse, error) {
	answer := &routerv1.ListQueuesResponse{}
	wanted := request.GetBackend()
	for _, q := range s.servers.Queues() {
		if wanted == "" || q.Backend == wanted {
			answer.Queues = append(answer.Queues, &routerv1.Queue{
				Backend: q.Backend, Server: q.Server, Length: uint64(q.Length), Most: uint64(q.Most), Limit: uint64(q.Limit),
				Oldest: durationpb.New(q.Oldest),
			})
		}
	}
	if wanted != "" && len(answer.GetQueues()) == 0 {
		return nil, status.Errorf(codes.NotFound, "no backend %q is in force", wanted)
	}
	return answer, nil
}

// serverState is a server in the words of the API.
func serverState(state *pool.State) *routerv1.ServerState {
	health := routerv1.Health_HEALTH_UP
	switch {
	case state.Health == pool.Down:
		health = routerv1.Health_HEALTH_DOWN
	case state.Health == pool.Stopping:
		health = routerv1.Health_HEALTH_STOPPING
	case !state.ChecksOn:
		health = routerv1.Health_HEALTH_NO_CHECK
	}
	answer := &routerv1.ServerState{
		Backend:        state.Backend,
		Name:           state.Server.Name,
		Address:        state.Server.Address.String(),
		Weight:         uint32(state.Weight),
		Backup:         state.Server.Backup,
		Health:         health,
		LastCheck:      state.LastCheck,
		ActiveRequests: uint64(max(state.Active, 0)),
		TotalRequests:  state.Total,
		ConnectErrors:  state.ConnectErrors,
		Status:         state.Status,
		LastChange:     timestamppb.New(state.LastChange),
		Downtime:       durationpb.New(state.Downtime),
		TimesDown:      state.TimesDown,
		Changes:        state.Changes,
		Ejected:        state.Ejected,

		EffectiveWeight:    uint32(state.Effective),
		Throttle:           uint32(state.Throttle),
		QueuedRequests:     uint64(state.Queued),
		MostQueuedRequests: uint64(state.MostQueued),
	}
	for word, admin := range admins {
		if admin == state.Admin {
			answer.Admin = word
		}
	}
	if state.Checked {
		answer.Check = &routerv1.ServerCheck{
			Enabled:     state.ChecksOn,
			Code:        string(state.Check.Code),
			Description: state.Check.Code.Description(),
			HttpStatus:  uint32(state.Check.Status),
			Duration:    durationpb.New(state.Check.Duration),
			Rise:        uint32(state.Rise),
			Fall:        uint32(state.Fall),
			Health:      uint32(state.Points),
			Failed:      state.FailedChecks,
		}
	}
	return answer
}
