package grpcserver

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// FailedPrecondition is FAILED_PRECONDITION with a google.rpc.PreconditionFailure: what kind of thing stands in the way,
// which one it is, and what to do.
func FailedPrecondition(kind, subject, description string) error {
	return withDetails(status.New(codes.FailedPrecondition, description), &errdetails.PreconditionFailure{
		Violations: []*errdetails.PreconditionFailure_Violation{{Type: kind, Subject: subject, Description: description}},
	})
}

// withDetails adds a detail. A detail that cannot be encoded is left out: the code and the words still say it.
func withDetails(s *status.Status, detail protoadapt.MessageV1) error {
	if detailed, err := s.WithDetails(detail); err == nil {
		return detailed.Err()
	}
	return s.Err()
}
