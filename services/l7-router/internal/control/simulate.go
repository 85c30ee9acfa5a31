package control

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/l7-router/internal/explain"
	"github.com/twotier/twotier/services/l7-router/internal/loop"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
)

// Simulate says what a change of desired state would change.
func (s *server) Simulate(_ context.Context, request *routerv1.SimulateRequest) (*routerv1.SimulateResponse, error) {
	// Told before any state is made for them.
	if n := len(request.GetSamples()); n > explain.MaxSamples {
		return nil, grpcserver.BadRequest([]*commonv1.Violation{{Field: "samples", Description: fmt.Sprintf("want at most %d, got %d", explain.MaxSamples, n)}})
	}
	var objects []proto.Message
	for _, o := range request.GetObjects() {
		objects = append(objects, o)
	}
	snapshot, err := s.Imagine(objects, request.GetRemove())
	if err != nil {
		return nil, err
	}
	after, violations := loop.Parse(snapshot)
	if len(violations) > 0 {
		return nil, grpcserver.BadRequest(violations)
	}
	var samples []*explain.Question
	for _, m := range request.GetSamples() {
		q := question(m.GetRequest())
		q.Frontend, q.Address = m.GetFrontend(), m.GetAddress()
		samples = append(samples, q)
	}
	asked, differences, err := explain.Simulate(s.router, s.servers, after, samples)
	if err != nil {
		return nil, explainError(err)
	}
	answer := &routerv1.SimulateResponse{Asked: uint32(asked)}
	for _, change := range plan.Diff(after, s.router.Observe()) {
		answer.Changes = append(answer.Changes, change.String())
	}
	for _, d := range differences {
		sample := &routerv1.ExplainRequest{Frontend: d.Question.Frontend, Address: d.Question.Address, Request: &routerv1.Request{
			Method: d.Question.Method, Target: d.Question.Target, Client: d.Question.Client, Tls: d.Question.TLS,
		}}
		for _, f := range d.Question.Fields {
			sample.Request.Headers = append(sample.Request.Headers, &routerv1.Header{Name: f.Name, Value: f.Value})
		}
		answer.Differences = append(answer.Differences, &routerv1.Difference{Sample: sample, Before: outcome(&d.Before), After: outcome(&d.After)})
	}
	return answer, nil
}

func outcome(o *explain.Outcome) *routerv1.Outcome {
	return &routerv1.Outcome{
		Frontend: o.Frontend, Status: uint32(o.Status), Location: o.Location, Refused: o.Refused, Backend: o.Backend, Server: o.Server, Among: o.Among, Head: o.Head,
	}
}
