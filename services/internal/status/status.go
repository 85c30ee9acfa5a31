// Package status holds what a service says of itself, answers it, and keeps it in etcd for as long as the service lives.
package status

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// MaxChanges is how many lines of last_changes are kept; of more, the last line tells how many there were.
const MaxChanges = 100

// Config of a reporter.
type Config struct {
	// Service, Node and Version are what every status says. Example: l7-router, haproxy2, 0.1.0
	Service, Node, Version string
	// Etcd endpoints. Empty: the status is only answered, not stored.
	Etcd []string
	// TLS towards etcd. nil: plain text.
	TLS *tls.Config
	// Log of what happens to the stored status.
	Log *zap.Logger
}

// Reporter holds the latest status. Any goroutine may call.
type Reporter struct {
	cfg   Config
	start time.Time
	store *store // nil: not stored

	mu      sync.Mutex
	latest  *commonv1.Status
	changed chan struct{} // closed at each change of latest
}

// Open makes a reporter. It does not wait for etcd.
func Open(cfg Config) (*Reporter, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	cfg.Log = cfg.Log.Named("status")
	r := &Reporter{cfg: cfg, start: time.Now(), changed: make(chan struct{})}
	r.latest = r.fill(&commonv1.Status{})
	if len(cfg.Etcd) > 0 {
		var err error
		if r.store, err = openStore(cfg); err != nil {
			return nil, fmt.Errorf("status: %w", err)
		}
	}
	return r, nil
}

// Run keeps the status in etcd until ctx ends, which is no error; then it takes it away. Call it once.
func (r *Reporter) Run(ctx context.Context) error {
	if r.store == nil {
		<-ctx.Done()
		return nil
	}
	return r.store.run(ctx, r.next)
}

// Report makes s the latest status. It fills in service, node, version and times, never blocks, and ignores a status
// that is like the last one but for the time. s stays the caller's.
func (r *Reporter) Report(s *commonv1.Status) {
	made := r.fill(proto.CloneOf(s))
	r.mu.Lock()
	defer r.mu.Unlock()
	if sameButTime(made, r.latest) {
		return
	}
	r.latest = made
	close(r.changed)
	r.changed = make(chan struct{})
}

// Latest is a copy of the latest status. Before the first report it says who and since when.
func (r *Reporter) Latest() *commonv1.Status {
	latest, _ := r.next()
	return proto.CloneOf(latest)
}

// Subscribe sends the latest status, and again at each change; a slow receiver misses what is in between, never the
// latest. The channel is closed when ctx ends.
func (r *Reporter) Subscribe(ctx context.Context) <-chan *commonv1.Status {
	statuses := make(chan *commonv1.Status)
	go func() {
		defer close(statuses)
		for {
			latest, changed := r.next()
			select {
			case statuses <- proto.CloneOf(latest):
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return statuses
}

// next is the latest status, not to be changed, and a channel that is closed when there is a newer one.
func (r *Reporter) next() (*commonv1.Status, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latest, r.changed
}

func (r *Reporter) fill(s *commonv1.Status) *commonv1.Status {
	s.Service, s.Node, s.Version = r.cfg.Service, r.cfg.Node, r.cfg.Version
	s.StartTime = timestamppb.New(r.start)
	s.UpdateTime = timestamppb.Now()
	if more := len(s.LastChanges) - (MaxChanges - 1); more > 1 {
		s.LastChanges = append(s.LastChanges[:MaxChanges-1:MaxChanges-1], fmt.Sprintf("and %d more", more))
	}
	return s
}

func sameButTime(a, b *commonv1.Status) bool {
	b = proto.CloneOf(b)
	b.UpdateTime = a.UpdateTime
	return proto.Equal(a, b)
}
