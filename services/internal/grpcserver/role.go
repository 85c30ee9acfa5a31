package grpcserver

import (
	"context"
	"crypto/x509"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Role is what a caller may do.
type Role string

// The roles. A certificate carries one as a URI subject alternative name, RoleURI followed by the role.
const (
	// RoleViewer may read.
	RoleViewer Role = "viewer"
	// RoleAdmin may read and change.
	RoleAdmin Role = "admin"
	// RoleService is another service of the platform; it may read and ask for health.
	RoleService Role = "service"
	// RoleNone is a caller without a role; it may do nothing.
	RoleNone Role = ""
)

// RoleURI is what the URI of a role begins with: urn:twotier:role:viewer, urn:twotier:role:admin, urn:twotier:role:service.
const RoleURI = "urn:twotier:role:"

// Caller is who asks, and what they may.
type Caller struct {
	// Subject is the common name of the client's certificate; "local" for a caller on this machine over plain text.
	Subject string
	Role    Role
}

// CallerOf tells who made the call that ctx belongs to.
func CallerOf(ctx context.Context) Caller {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}
	}
	info, secured := from.AuthInfo.(credentials.TLSInfo)
	if !secured {
		// New refuses plain text on every listener that others can reach, so this caller is on this machine.
		return Caller{Subject: "local", Role: RoleAdmin}
	}
	if len(info.State.VerifiedChains) == 0 {
		return Caller{}
	}
	leaf := info.State.VerifiedChains[0][0]
	return Caller{Subject: leaf.Subject.CommonName, Role: roleIn(leaf)}
}

// roleIn reads the role. A certificate with two different roles is a mistake of whoever issued it and has none.
func roleIn(leaf *x509.Certificate) Role {
	found := RoleNone
	for _, uri := range leaf.URIs {
		name, ok := strings.CutPrefix(uri.String(), RoleURI)
		if !ok {
			continue
		}
		role := Role(name)
		switch role {
		case RoleViewer, RoleAdmin, RoleService:
		default:
			return RoleNone
		}
		if found != RoleNone && found != role {
			return RoleNone
		}
		found = role
	}
	return found
}

// authorize answers whether the caller may use a method, "/package.Service/Method".
func authorize(caller Caller, method string) error {
	if caller.Role == RoleNone {
		return status.Errorf(codes.PermissionDenied, "the certificate of %q carries no role (%s…)", caller.Subject, RoleURI)
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if strings.HasSuffix(service, "Admin") && caller.Role != RoleAdmin {
		return status.Errorf(codes.PermissionDenied, "%s needs the role admin; %q is %s", service, caller.Subject, caller.Role)
	}
	return nil
}
