// Package control answers the control API: it translates between messages and the loop, and decides nothing.
package control

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/internal/verbs"
)

// Sides tells how the sides on this node stand.
type Sides interface {
	States() []plan.State
}

// Server answers Sync and SyncAdmin.
type Server struct {
	filesyncv1.UnsafeSyncServer
	filesyncv1.UnsafeSyncAdminServer
	*verbs.Verbs
	sides Sides
}

// New makes a server.
func New(v *verbs.Verbs, sides Sides) *Server { return &Server{Verbs: v, sides: sides} }

// Register adds the two services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	filesyncv1.RegisterSyncServer(r, s)
	filesyncv1.RegisterSyncAdminServer(r, s)
}

// Apply stores an object.
func (s *Server) Apply(ctx context.Context, r *filesyncv1.ApplyRequest) (*commonv1.ApplyResponse, error) {
	return s.ApplyObject(ctx, r.GetObject(), r.GetEtag(), r.GetValidateOnly())
}

// PreviewPlan tells what would be done.
func (s *Server) PreviewPlan(ctx context.Context, r *filesyncv1.PreviewPlanRequest) (*commonv1.PreviewPlanResponse, error) {
	return s.PreviewObject(ctx, r.GetObject())
}

// ListDesired shows the desired objects, a page at a time.
func (s *Server) ListDesired(ctx context.Context, r *commonv1.PageRequest) (*filesyncv1.ListDesiredResponse, error) {
	var answer filesyncv1.ListDesiredResponse
	next, err := s.ListObjects(ctx, r, func(object func(into proto.Message), etag string) {
		stored := &filesyncv1.StoredObject{Object: &filesyncv1.Object{}, Etag: etag}
		object(stored.Object)
		answer.Objects = append(answer.Objects, stored)
	})
	if err != nil {
		return nil, err
	}
	answer.NextPageToken = next
	return &answer, nil
}

// ListPairs shows the sides on this node.
func (s *Server) ListPairs(context.Context, *filesyncv1.ListPairsRequest) (*filesyncv1.ListPairsResponse, error) {
	var answer filesyncv1.ListPairsResponse
	for _, st := range s.sides.States() {
		answer.Pairs = append(answer.Pairs, pairState(st))
	}
	return &answer, nil
}

func pairState(st plan.State) *filesyncv1.PairState {
	side := filesyncv1.Side_SIDE_SOURCE
	if st.Side.Role == plan.Target {
		side = filesyncv1.Side_SIDE_TARGET
	}
	return &filesyncv1.PairState{
		Name:           st.Side.Pair.Name,
		Side:           side,
		Connected:      st.Connected,
		InSync:         st.InSync,
		PendingChanges: st.Waiting,
		Files:          st.Files,
		Bytes:          st.Bytes,
		Deletes:        st.Deletes,
		Error:          st.Error,
		Held:           st.Held,
		Skipped:        st.Skipped,
		OwnersNotKept:  st.Unowned,
		RefusedPeers:   st.Refused,
	}
}
