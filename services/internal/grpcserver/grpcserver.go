// Package grpcserver is the door of a service: who may come in, how much they may send, and how the door closes.
package grpcserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/door"
	"github.com/twotier/twotier/services/internal/logging"
)

// Limits of every server.
const (
	// MaxMessage is the largest message taken in or sent, in bytes.
	MaxMessage = 4 << 20
	// MaxStreams is how many calls one connection may have under way.
	MaxStreams = 256
	// HandshakeTimeout is how long a new connection may take to become usable.
	HandshakeTimeout = 10 * time.Second
	// MinPing is the shortest pause between two keepalive pings of a client; one that pings faster is sent away.
	MinPing = 5 * time.Second
	// UnaryTimeout bounds a call whose caller set no deadline, or a later one.
	UnaryTimeout = time.Minute
	// StopTimeout is how long the calls under way may take to end when the server stops.
	StopTimeout = 5 * time.Second
)

// Config of a server.
type Config struct {
	// Listen is HOST:PORT or unix:PATH. Example: 10.99.0.22:7400
	Listen string
	// TLS with required client certificates; see daemon.Config.ServerTLS. nil: plain text, on loopback or unix: only.
	TLS *tls.Config
	// Log gets refused calls and panics.
	Log *zap.Logger
	// Inherited is the socket of a process whose place this one takes, instead of a new one at Listen; nil: none.
	Inherited *os.File
}

// Server is a gRPC server with health and reflection.
type Server struct {
	log      *zap.Logger
	listener net.Listener
	server   *grpc.Server
	health   *health.Server

	// streams ends with the server; every stream's context ends with it.
	streams    context.Context
	endStreams context.CancelFunc
}

// New opens the listener; Run serves it and closes it. It refuses a listener that others can reach without TLS.
func New(cfg Config) (*Server, error) {
	if cfg.TLS != nil && cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, errors.New("grpc server: TLS without required client certificates")
	}
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	open := func() (net.Listener, error) { return door.Listen(cfg.Listen, cfg.TLS != nil) }
	if cfg.Inherited != nil {
		open = func() (net.Listener, error) { return door.Inherit(cfg.Inherited) }
	}
	listener, err := open()
	if err != nil {
		return nil, fmt.Errorf("grpc server: %w", err)
	}
	s := &Server{log: log.Named("grpcserver"), listener: listener, health: health.NewServer()}
	s.streams, s.endStreams = context.WithCancel(context.Background())
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.ConnectionTimeout(HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: MinPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.WaitForHandlers(true),
	}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	s.server = grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(s.server, s.health)
	reflection.Register(s.server)
	return s, nil
}

// Registrar is where the service registers its handlers, before Run.
func (s *Server) Registrar() grpc.ServiceRegistrar { return s.server }

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// File is another descriptor of the listening socket, for a process that takes the place of this one.
func (s *Server) File() (*os.File, error) { return door.File(s.listener) }

// SetServing says whether a service works; the empty name is the server as a whole, which counts as working from the start.
func (s *Server) SetServing(service string, ok bool) {
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if ok {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(service, state)
}

// Run serves until ctx ends, which is no error. Then the health says NOT_SERVING, the context of every stream ends,
// calls under way get StopTimeout to end, and those that have not are cut off.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.health.Shutdown()
	s.endStreams() // they are watches, which have no end of their own
	hard := time.AfterFunc(StopTimeout, func() {
		s.log.Warn("calls did not end in time and are cut off", logging.Duration(StopTimeout))
		s.server.Stop()
	})
	defer hard.Stop()
	s.server.GracefulStop()
	// Asked to end before it had begun, Serve calls that an error.
	if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	defer s.recoverPanic(info.FullMethod, &err)
	if err := s.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if err := refuseUnknown(info.FullMethod, request); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, UnaryTimeout)
	defer cancel()
	return handle(ctx, request)
}

func (s *Server) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer s.recoverPanic(info.FullMethod, &err)
	if err := s.admit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	err = handle(service, &checkedStream{ServerStream: stream, ctx: ctx, method: info.FullMethod})
	if err != nil && s.streams.Err() != nil && stream.Context().Err() == nil {
		return status.Error(codes.Unavailable, "the service is stopping")
	}
	return err
}

// admit checks the caller's role, and logs who was refused what.
func (s *Server) admit(ctx context.Context, method string) error {
	caller := CallerOf(ctx)
	err := authorize(caller, method)
	if err != nil {
		s.log.Warn("call refused", logging.Subject(caller.Subject), logging.Method(method), zap.String("role", string(caller.Role)))
	}
	return err
}

// recoverPanic keeps one faulty handler from taking the data path down with it.
func (s *Server) recoverPanic(method string, err *error) {
	if cause := recover(); cause != nil {
		s.log.Error("handler panicked", logging.Method(method), zap.Any("panic", cause), logging.Stack(debug.Stack()))
		*err = status.Error(codes.Internal, "the handler failed; the log has the reason")
	}
}

// checkedStream refuses unknown fields in what the client streams. Its context also ends when the server stops.
type checkedStream struct {
	grpc.ServerStream
	ctx    context.Context // grpc hands a stream's context over in no other way
	method string
}

// Context of the call.
func (c *checkedStream) Context() context.Context { return c.ctx }

// RecvMsg takes in one message.
func (c *checkedStream) RecvMsg(message any) error {
	if err := c.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	return refuseUnknown(c.method, message)
}

// maxDetails is the most bytes of violations that go with an error: they travel in the trailers, of which most clients but those in Go
// take 8 KiB in all.
const maxDetails = 4 << 10

// BadRequest is INVALID_ARGUMENT with each violation as a detail (google.rpc.BadRequest), or the first of them when they are very many;
// the message says how many there are. There must be at least one.
func BadRequest(violations []*commonv1.Violation) error {
	summary := "invalid"
	details := &errdetails.BadRequest{}
	bytes := 0
	for i, v := range violations {
		if i == 0 {
			summary = v.GetField() + ": " + v.GetDescription()
		}
		if bytes += proto.Size(v); bytes > maxDetails && i > 0 {
			break
		}
		details.FieldViolations = append(details.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: v.GetField(), Description: v.GetDescription(),
		})
	}
	if more := len(violations) - 1; more > 0 {
		summary += fmt.Sprintf(" (and %d more)", more)
	}
	return withDetails(status.New(codes.InvalidArgument, summary), details)
}
