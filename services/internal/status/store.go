package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/etcdclient"
)

// Times of the stored status.
const (
	// Lease is how long the status stays when the service dies without a word.
	Lease = 10 * time.Second
	// requestTimeout bounds each request to etcd.
	requestTimeout = 3 * time.Second
	// minRetry and maxRetry bound the pause between two attempts.
	minRetry = 500 * time.Millisecond
	maxRetry = 5 * time.Second
	// revokeTimeout bounds the goodbye.
	revokeTimeout = time.Second
)

// errLeaseLost: etcd no longer knows the lease, or has not answered for as long as it lasts.
var errLeaseLost = errors.New("the lease of the status is gone")

// store keeps one key under a lease.
type store struct {
	client *clientv3.Client
	key    string
	log    *zap.Logger
}

func openStore(cfg Config) (*store, error) {
	client, err := etcdclient.Open(etcdclient.Config{
		Endpoints: cfg.Etcd, TLS: cfg.TLS, MinRetry: minRetry, MaxRetry: maxRetry, ConnectTimeout: requestTimeout,
	})
	if err != nil {
		return nil, err
	}
	return &store{client: client, key: "/twotier/status/" + cfg.Service + "/" + cfg.Node, log: cfg.Log}, nil
}

// run keeps the key until ctx ends. However often etcd goes, the key is made again when it is back.
func (s *store) run(ctx context.Context, next func() (*commonv1.Status, <-chan struct{})) error {
	pause := minRetry
	away := false
	for ctx.Err() == nil {
		stored, err := s.hold(ctx, next)
		if ctx.Err() != nil {
			break
		}
		if stored {
			pause, away = minRetry, false
		}
		if !away {
			s.log.Warn("status cannot be stored", zap.Error(err))
			away = true
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, maxRetry)
	}
	return s.client.Close()
}

// hold makes a lease and keeps the newest status under it until something fails. stored tells whether it was there at all.
func (s *store) hold(ctx context.Context, next func() (*commonv1.Status, <-chan struct{})) (stored bool, err error) {
	within, cancel := context.WithTimeout(ctx, requestTimeout)
	lease, err := s.client.Grant(within, int64(Lease/time.Second))
	cancel()
	if err != nil {
		return false, fmt.Errorf("make a lease: %w", err)
	}
	// Not the context of the service: when that has ended, the status has to go.
	defer s.revoke(context.WithoutCancel(ctx), lease.ID)

	living, stop := context.WithCancel(ctx)
	defer stop()
	beats, err := s.client.KeepAlive(living, lease.ID)
	if err != nil {
		return false, fmt.Errorf("keep the lease: %w", err)
	}
	for {
		latest, changed := next()
		if err := s.put(ctx, latest, lease.ID); err != nil {
			return stored, err
		}
		if !stored {
			s.log.Info("status is stored")
			stored = true
		}
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case _, alive := <-beats:
				if !alive {
					return stored, errLeaseLost
				}
			case <-ctx.Done():
				return stored, nil
			}
		}
	}
}

func (s *store) put(ctx context.Context, latest *commonv1.Status, lease clientv3.LeaseID) error {
	loose, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(latest)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Compact(&text, loose); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := s.client.Put(ctx, s.key, text.String(), clientv3.WithLease(lease)); err != nil {
		return fmt.Errorf("store %s: %w", s.key, err)
	}
	return nil
}

// revoke takes the status away. If etcd does not hear it, the lease ends by itself.
func (s *store) revoke(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	_, _ = s.client.Revoke(ctx, lease)
}
