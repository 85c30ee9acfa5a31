// Package relay answers: what do nodes tell each other through etcd, and what stands at a key there?
//
// It is for what is of use now or never: a word that cannot be written at once is replaced by the next one to the same
// key, and nobody waits for it. Without etcd there is silence, and nothing else is wrong.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/etcdclient"
)

const (
	// Lease is how long words stay at their keys when the one who wrote them is gone.
	Lease = 60 * time.Second
	// MaxWaiting is the most keys whose words wait to be written, and the most that etcd takes in one request.
	MaxWaiting = 128

	// requestTimeout bounds the writing of words. Later than that they are of no use.
	requestTimeout = time.Second
	// renewal is the pause between two renewals of the lease.
	renewal = Lease / 3
	// pause is how long nothing is tried after something has failed.
	pause = 500 * time.Millisecond
	// maxConnect bounds the pause between two attempts to connect: who was away is to be heard soon.
	maxConnect = 2 * time.Second
)

// ErrNone is the error of a relay without etcd.
var ErrNone = errors.New("the service was started without --etcd")

// Config of a relay.
type Config struct {
	// Etcd endpoints. Empty: nothing is written, nothing heard.
	Etcd []string
	// TLS towards etcd. nil: plain text.
	TLS *tls.Config
	// Log of what goes wrong.
	Log *zap.Logger
}

// Relay is open from Open to the end of Run. Any goroutine may call.
type Relay struct {
	client *clientv3.Client // nil: no etcd
	log    *zap.Logger
	kick   chan struct{}

	mu      sync.Mutex
	waiting map[string]string // by key
}

// Open makes a relay. It does not wait for etcd.
func Open(cfg Config) (*Relay, error) {
	r := &Relay{log: cfg.Log.Named("relay"), kick: make(chan struct{}, 1), waiting: map[string]string{}}
	if len(cfg.Etcd) == 0 {
		return r, nil
	}
	client, err := etcdclient.Open(etcdclient.Config{
		Endpoints: cfg.Etcd, TLS: cfg.TLS, MinRetry: pause, MaxRetry: maxConnect, ConnectTimeout: maxConnect,
	})
	if err != nil {
		return nil, err
	}
	r.client = client
	return r, nil
}

// Get reads a key from whichever etcd answers, one without a quorum included.
func (r *Relay) Get(ctx context.Context, key string) (value string, there bool, err error) {
	if r.client == nil {
		return "", false, ErrNone
	}
	answer, err := r.client.Get(ctx, key, clientv3.WithSerializable())
	if err != nil || len(answer.Kvs) == 0 {
		return "", false, err
	}
	return string(answer.Kvs[0].Value), true, nil
}

// Post writes a word to a key, soon or never. It does not wait.
func (r *Relay) Post(key, word string) {
	if r.client == nil {
		return
	}
	r.mu.Lock()
	if _, known := r.waiting[key]; known || len(r.waiting) < MaxWaiting {
		r.waiting[key] = word
	}
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run writes what is posted, and calls hear with each word that is written to a key that begins with the prefix, until
// ctx ends. Call it once. hear must not block.
func (r *Relay) Run(ctx context.Context, prefix string, hear func(key, word string)) error {
	if r.client == nil {
		<-ctx.Done()
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() { r.listen(ctx, prefix, hear) })
	both.Go(func() { r.write(ctx) })
	both.Wait()
	return r.client.Close()
}

func (r *Relay) listen(ctx context.Context, prefix string, hear func(key, word string)) {
	for ctx.Err() == nil {
		watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for answer := range r.client.Watch(watching, prefix, clientv3.WithPrefix(), clientv3.WithFilterDelete()) {
			if answer.Err() != nil {
				r.log.Debug("listen to etcd", zap.Error(answer.Err()))
				break
			}
			for _, e := range answer.Events {
				hear(string(e.Kv.Key), string(e.Kv.Value))
			}
		}
		cancel()
		wait(ctx, pause)
	}
}

// write writes what waits, all of it in one request, under a lease that is made beforehand so that no word waits for it.
func (r *Relay) write(ctx context.Context) {
	lease := clientv3.NoLease
	ticker := time.NewTicker(renewal)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if lease == clientv3.NoLease {
			lease = r.lease(ctx)
		}
		if lease == clientv3.NoLease {
			wait(ctx, pause)
			r.take() // too old
			continue
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
			if !r.renew(ctx, lease) {
				lease = clientv3.NoLease
			}
		case <-r.kick:
			if !r.put(ctx, lease, r.take()) {
				lease = clientv3.NoLease
			}
		}
	}
}

func (r *Relay) take() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	words := r.waiting
	r.waiting = map[string]string{}
	return words
}

func (r *Relay) lease(ctx context.Context) clientv3.LeaseID {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	granted, err := r.client.Grant(ctx, int64(Lease/time.Second))
	if err != nil {
		r.log.Debug("ask etcd for a lease", zap.Error(err))
		return clientv3.NoLease
	}
	return granted.ID
}

func (r *Relay) renew(ctx context.Context, lease clientv3.LeaseID) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := r.client.KeepAliveOnce(ctx, lease)
	return err == nil
}

func (r *Relay) put(ctx context.Context, lease clientv3.LeaseID, words map[string]string) bool {
	if len(words) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var puts []clientv3.Op
	for _, key := range slices.Sorted(maps.Keys(words)) {
		puts = append(puts, clientv3.OpPut(key, words[key], clientv3.WithLease(lease)))
	}
	if _, err := r.client.Txn(ctx).Then(puts...).Commit(); err != nil {
		r.log.Debug("write to etcd", zap.Error(err))
		return false
	}
	return true
}

// wait waits for that long, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
