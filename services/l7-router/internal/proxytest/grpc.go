package proxytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// talk is a service of one method that streams both ways; the first message of the client says what is to happen.
var talk = grpc.ServiceDesc{
	ServiceName: "test.Talk",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(srv any, s grpc.ServerStream) error {
		return srv.(*talker).talk(s)
	}}},
}

type talker struct{ gone chan error }

func (t *talker) talk(s grpc.ServerStream) error {
	var in wrapperspb.StringValue
	if err := s.RecvMsg(&in); err != nil {
		return err
	}
	s.SetTrailer(metadata.Pairs("t", "u"))
	switch what := in.Value; what {
	case "echo":
		for {
			if err := s.RecvMsg(&in); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
			if err := s.SendMsg(&in); err != nil {
				return err
			}
		}
	case "fail":
		return status.Error(codes.FailedPrecondition, "grün & 100%")
	case "begin and fail":
		if err := s.SendMsg(&in); err != nil {
			return err
		}
		return status.Error(codes.DataLoss, "lost")
	case "wait":
		if err := s.SendMsg(&in); err != nil {
			return err
		}
		<-s.Context().Done()
		t.gone <- s.Context().Err()
		return s.Context().Err()
	default:
		return status.Errorf(codes.Unimplemented, "%q", what)
	}
}

// grpcOrigin is a gRPC server.
func grpcOrigin(t testing.TB, service *talker) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&talk, service)
	var group sync.WaitGroup
	group.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); group.Wait() })
	return l.Addr().String()
}

// testGRPC passes the four kinds of calls through, with their errors, deadlines and cancellations.
func testGRPC(t *testing.T, open Open) {
	t.Parallel()
	service := &talker{gone: make(chan error, 1)}
	b := backend("web", server("a", grpcOrigin(t, service)), server("b", grpcOrigin(t, service)))
	b.H2C = true
	w := newWorld2(t, open, b)
	c, err := grpc.NewClient("passthrough:///"+w.address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	call := func(ctx context.Context, first string) grpc.ClientStream {
		t.Helper()
		s, err := c.NewStream(ctx, &talk.Streams[0], "/test.Talk/Talk")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendMsg(wrapperspb.String(first)); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		return s
	}
	receive := func(s grpc.ClientStream) (string, error) {
		var m wrapperspb.StringValue
		err := s.RecvMsg(&m)
		return m.Value, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)

	t.Run("both ways", func(t *testing.T) { // message by message: nothing may wait for more
		s := call(ctx, "echo")
		for i := range 50 {
			text := strings.Repeat(fmt.Sprint(i), 1000*(i%5)+1)
			if err := s.SendMsg(wrapperspb.String(text)); err != nil {
				t.Fatal(err)
			}
			if got, err := receive(s); got != text || err != nil {
				t.Fatalf("got %.20q %v", got, err)
			}
		}
		_ = s.CloseSend()
		if _, err := receive(s); err != io.EOF || s.Trailer().Get("t")[0] != "u" {
			t.Errorf("got %v %v", err, s.Trailer())
		}
	})
	t.Run("many at a time", func(t *testing.T) {
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() {
				var out wrapperspb.StringValue
				s := call(ctx, "echo")
				_ = s.SendMsg(wrapperspb.String("x"))
				_ = s.CloseSend()
				if err := s.RecvMsg(&out); out.Value != "x" || err != nil {
					t.Errorf("got %q %v", out.Value, err)
				}
				if err := s.RecvMsg(&out); err != io.EOF {
					t.Errorf("got %v", err)
				}
			})
		}
		group.Wait()
	})
	t.Run("error without a response", func(t *testing.T) {
		s := call(ctx, "fail")
		_, err := receive(s)
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "grün & 100%" || s.Trailer().Get("t")[0] != "u" {
			t.Errorf("got %v %v", err, s.Trailer())
		}
	})
	t.Run("error within a response, before the client has ended", func(t *testing.T) {
		s := call(ctx, "begin and fail")
		if got, err := receive(s); got != "begin and fail" || err != nil {
			t.Errorf("got %q %v", got, err)
		}
		if _, err := receive(s); status.Code(err) != codes.DataLoss {
			t.Errorf("got %v", err)
		}
	})
	t.Run("deadline", func(t *testing.T) { // grpc-timeout has the server give up as well
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // enough for the call to get there
		defer cancel()
		s := call(ctx, "wait")
		if got, err := receive(s); got != "wait" || err != nil {
			t.Fatalf("got %q %v", got, err)
		}
		if _, err := receive(s); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		if err := <-service.gone; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			t.Errorf("the server saw %v", err)
		}
	})
	t.Run("cancellation", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		s := call(ctx, "wait")
		if got, err := receive(s); got != "wait" || err != nil {
			t.Fatalf("got %q %v", got, err)
		}
		cancel()
		if _, err := receive(s); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
		if err := <-service.gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the server saw %v", err)
		}
	})
	t.Run("no server", func(t *testing.T) {
		b.Servers = nil
		w.want.Backends[0] = b
		w.apply()
		s := call(ctx, "echo")
		if _, err := receive(s); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	})
}
