package control

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
)

func TestImport(t *testing.T) {
	t.Parallel()
	s := &server{}
	got, err := s.Import(t.Context(), &routerv1.ImportRequest{Config: []byte("listen main\nbind :80\nserver s1 172.16.0.88:80\n")})
	if err != nil || len(got.GetReport().GetLines()) != 3 || len(got.GetObjects()) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	backend, frontend := got.GetObjects()[0].GetBackend(), got.GetObjects()[1].GetFrontend()
	if backend.GetName() != "main" || frontend.GetDefaultBackend() != "main" {
		t.Errorf("backends are to come first, so that each object can be applied in turn: got %v", got.GetObjects())
	}
	_, err = s.Import(t.Context(), &routerv1.ImportRequest{Config: make([]byte, importing.MaxBytes+1)})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("too much: %v", err)
	}
}
