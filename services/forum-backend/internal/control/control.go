// Package control answers the forum's gRPC calls: it translates, and decides nothing.
package control

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/plan"
	"github.com/twotier/twotier/services/internal/verbs"
)

// Service is the name under which the forum's health is told.
const Service = "twotier.forum.v1.Forum"

// Facts tells how this server stands, live.
type Facts interface {
	Facts(context.Context) plan.Facts
}

// server answers both services.
type server struct {
	forumv1.UnsafeForumServer
	forumv1.UnsafeForumAdminServer
	verbs.Verbs
	facts Facts
}

// Register makes the calls known to a gRPC server.
func Register(registrar grpc.ServiceRegistrar, v verbs.Verbs, facts Facts) {
	s := &server{Verbs: v, facts: facts}
	forumv1.RegisterForumServer(registrar, s)
	forumv1.RegisterForumAdminServer(registrar, s)
}

// ListDesired shows a page of the desired objects.
func (s *server) ListDesired(ctx context.Context, request *commonv1.PageRequest) (*forumv1.ListDesiredResponse, error) {
	answer := &forumv1.ListDesiredResponse{}
	next, err := s.ListObjects(ctx, request, func(object func(proto.Message), etag string) {
		stored := &forumv1.StoredObject{Object: &forumv1.Object{}, Etag: etag}
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
func (s *server) PreviewPlan(ctx context.Context, request *forumv1.PreviewPlanRequest) (*commonv1.PreviewPlanResponse, error) {
	return s.PreviewObject(ctx, request.GetObject())
}

// Apply stores an object.
func (s *server) Apply(ctx context.Context, request *forumv1.ApplyRequest) (*commonv1.ApplyResponse, error) {
	return s.ApplyObject(ctx, request.GetObject(), request.GetEtag(), request.GetValidateOnly())
}

// GetSite shows how this server stands.
func (s *server) GetSite(ctx context.Context, _ *forumv1.GetSiteRequest) (*forumv1.GetSiteResponse, error) {
	f := s.facts.Facts(ctx)
	return &forumv1.GetSiteResponse{
		Installed:         f.Installed,
		DatabaseAvailable: f.DatabaseAvailable,
		DatabaseVersion:   f.DatabaseVersion,
		UploadOrigin:      f.IsOrigin,
		UploadsAvailable:  f.UploadsAvailable,
		Users:             f.Counts.Users,
		Threads:           f.Counts.Threads,
		Posts:             f.Counts.Posts,
		Attachments:       f.Counts.Attachments,
	}, nil
}
