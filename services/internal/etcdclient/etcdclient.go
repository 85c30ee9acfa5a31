// Package etcdclient opens the connection to etcd: how often is it tried, and how is its silent death noticed?
package etcdclient

import (
	"crypto/tls"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// With 10s, the least that gRPC allows, and the timeout, a silent death of the machine is noticed within 15s.
const (
	keepAlive        = 10 * time.Second
	keepAliveTimeout = 5 * time.Second
)

// Config of a client.
type Config struct {
	// Endpoints of etcd. Example: https://10.99.0.2:2379
	Endpoints []string
	// TLS towards etcd. nil: plain text.
	TLS *tls.Config
	// MinRetry and MaxRetry bound the pause between two tries to connect; ConnectTimeout is the least time for one.
	MinRetry, MaxRetry, ConnectTimeout time.Duration
	// Always: a silent death is noticed also while nothing is under way.
	Always bool
}

// Open makes a client, which goes through no proxy and logs nothing: what is worth saying is said by its user, once. It does
// not wait for etcd.
func Open(cfg Config) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAliveTimeout,
		PermitWithoutStream:  cfg.Always,
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: cfg.MinRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: cfg.MaxRetry},
				MinConnectTimeout: cfg.ConnectTimeout,
			}),
		},
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	return client, nil
}
