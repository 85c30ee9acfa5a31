package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/l7-router/internal/explain"
	"github.com/twotier/twotier/services/l7-router/internal/route"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Explain says what would become of a request.
func (s *server) Explain(_ context.Context, request *routerv1.ExplainRequest) (*routerv1.ExplainResponse, error) {
	q := question(request.GetRequest())
	q.Frontend, q.Address = request.GetFrontend(), request.GetAddress()
	result, err := explain.Explain(s.router, s.servers, q)
	if err != nil {
		return nil, explainError(err)
	}
	return explained(result), nil
}

func explainError(err error) error {
	var wrong *explain.Error
	switch {
	case errors.As(err, &wrong):
		return grpcserver.BadRequest([]*commonv1.Violation{{Field: wrong.Field, Description: wrong.Reason}})
	case errors.Is(err, explain.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

func question(m *routerv1.Request) *explain.Question {
	q := &explain.Question{Method: m.GetMethod(), Target: m.GetTarget(), Client: m.GetClient(), TLS: m.GetTls()}
	for _, h := range m.GetHeaders() {
		q.Fields = append(q.Fields, explain.Field{Name: h.GetName(), Value: h.GetValue()})
	}
	return q
}

func explained(r *explain.Result) *routerv1.ExplainResponse {
	m := &routerv1.ExplainResponse{Frontend: r.Frontend}
	if r.Refused != nil {
		m.Refused, m.Status = r.Refused.Reason, uint32(r.Refused.Status)
		m.Summary = fmt.Sprintf("refused with %d before any rule: %s", m.GetStatus(), m.GetRefused())
		return m
	}
	m.Trusted, m.Head, m.Reason = r.Trusted, string(r.Head), r.Reason
	if r.Client.IsValid() {
		m.Client = r.Client.String()
	}
	for _, a := range r.Asked {
		m.Rules = append(m.Rules, &routerv1.AskedRule{Rule: uint32(a.Rule), Holds: a.Holds, Missing: a.Missing, Action: action(&r.Rules[a.Rule])})
	}
	by := "no rule decides, so the default backend takes it"
	switch {
	case r.Page:
		by = "it is for the statistics page, before any rule"
	case r.Rule != route.NoRule:
		by = fmt.Sprintf("rules[%d] decides: %s", r.Rule, action(&r.Rules[r.Rule]))
	}
	if a := r.Answer; a != nil {
		m.Status, m.Location = uint32(a.Status), string(a.Location)
		if a.Hold > 0 {
			m.Held = durationpb.New(a.Hold)
		}
		if r.Rule == route.NoRule {
			by = "no rule decides, and there is no default backend"
		}
		m.Summary = fmt.Sprintf("%s; the router answers %d itself", by, a.Status)
		return m
	}
	m.Backend = r.Backend.Spec.Name
	for _, c := range r.Candidates {
		m.Candidates = append(m.Candidates, &routerv1.Candidate{
			Server: c.State.Server.Name, Status: c.State.Status, Weight: uint32(max(c.State.Weight, 0)),
			ActiveRequests: uint64(max(c.State.Active, 0)), Chosen: c.Chosen, Reason: c.Reason,
		})
	}
	m.Summary = fmt.Sprintf("%s; backend %s: %s", by, m.GetBackend(), r.Reason)
	if r.Server != nil {
		m.Server, m.ServerAddress = r.Server.Spec.Name, r.Server.Address()
		m.Summary = fmt.Sprintf("%s; server %s of backend %s answers: %s", by, m.GetServer(), m.GetBackend(), r.Reason)
	}
	return m
}

// action says in a word or two what a rule does.
func action(r *spec.Rule) string {
	switch {
	case r.Deny != nil && r.Deny.Hold > 0:
		return fmt.Sprintf("tarpit %d after %v", r.Deny.Status, r.Deny.Hold)
	case r.Deny != nil:
		return fmt.Sprintf("deny %d", r.Deny.Status)
	case r.Redirect != nil:
		return strings.TrimSpace(fmt.Sprintf("redirect %d %s%s%s", r.Redirect.Code, r.Redirect.Location, r.Redirect.Prefix, r.Redirect.Scheme))
	case r.Edit != nil:
		return "edit"
	}
	return "backend " + r.Backend
}
