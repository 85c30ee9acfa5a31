package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// GRPCHealth is good when the gRPC health service (grpc.health.v1) says SERVING. It keeps its connection.
type GRPCHealth struct {
	service string
	conn    *grpc.ClientConn
	err     error // of an address that cannot be used
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	dialed  atomic.Pointer[error] // how the last attempt to connect ended
}

// NewGRPCHealth asks the server at address (HOST:PORT or unix:PATH) for service; the empty service is the server as a
// whole. A nil tls is plain text. It does not connect yet; Close it.
func NewGRPCHealth(address, service string, tls *tls.Config) *GRPCHealth {
	creds := insecure.NewCredentials()
	if tls != nil {
		creds = credentials.NewTLS(tls)
	}
	p := &GRPCHealth{service: service, dial: new(net.Dialer).DialContext}
	// No proxy: the environment of a service must not decide whether its neighbour lives.
	options := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithNoProxy()}
	target := address
	if !isUnix(address) {
		target = "passthrough:///" + address
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := p.dial(ctx, "tcp", address)
			p.dialed.Store(&err)
			return conn, err
		}))
	}
	p.conn, p.err = grpc.NewClient(target, options...)
	return p
}

func isUnix(address string) bool {
	return len(address) > 5 && address[:5] == "unix:"
}

// Probe asks once.
func (p *GRPCHealth) Probe(ctx context.Context) error {
	if p.err != nil {
		return p.err
	}
	// A connection that failed a moment ago is tried again now, not when the back-off of gRPC is over.
	p.conn.ResetConnectBackoff()
	answer, err := grpc_health_v1.NewHealthClient(p.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: p.service}, grpc.WaitForReady(false))
	if dialed := p.dialed.Load(); err != nil && dialed != nil && OwnFault(*dialed) {
		return fmt.Errorf("%w: %w", err, *dialed) // of what gRPC says only the text is left
	}
	if err != nil {
		return err
	}
	if answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("health of %q: %s", p.service, answer.Status)
	}
	return nil
}

// Close hangs up.
func (p *GRPCHealth) Close() error {
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}
