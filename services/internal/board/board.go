// Package board holds what the nodes of one service tell each other through etcd: notes that each pins up and all read.
//
// A note stays for as long as its node renews it and for Lease after: what a node that died has said is still of use to the
// one that takes its place.
package board

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/etcdclient"
)

const (
	// Lease is how long notes stay when their node does not renew them.
	Lease = time.Hour
	// MaxNote is the largest note, in bytes.
	MaxNote = 128 << 10
	// RequestTimeout bounds each request to etcd.
	RequestTimeout = 3 * time.Second
	// ReadEvery is how often the lease is renewed and the whole board read, although the watch has told of each change: the etcd
	// behind an address may have been replaced, and neither a lease nor a watch of the client library notices.
	ReadEvery = 5 * time.Second
	// minRetry and maxRetry bound the pause between two attempts.
	minRetry = 500 * time.Millisecond
	maxRetry = 5 * time.Second
	// revokeTimeout bounds the goodbye of a board that has pinned nothing.
	revokeTimeout = time.Second
)

// The errors of Pin.
var (
	// ErrUnavailable: etcd does not answer, or has not answered yet.
	ErrUnavailable = errors.New("etcd does not answer")
	// ErrTooLarge: the note is larger than MaxNote.
	ErrTooLarge = fmt.Errorf("the note is larger than %d bytes", MaxNote)
)

// Config of a board. All fields but TLS are required.
type Config struct {
	// Service and Node are whose notes these are. Example: ipvs-director, lvs2
	Service, Node string
	// Etcd endpoints. Example: https://10.99.0.2:2379
	Etcd []string
	// TLS towards etcd. nil: plain text.
	TLS *tls.Config
	Log *zap.Logger
}

// Note is one note of one node.
type Note struct {
	// Key is its name on the board.
	Key string
	// Value is what it says.
	Value []byte
	// Revision orders the notes by the time when they were pinned.
	Revision int64
	// Own: this process has pinned it.
	Own bool
}

// Board is what the nodes of a service tell each other. Any goroutine may call.
type Board struct {
	cfg     Config
	client  *clientv3.Client
	prefix  string
	changed chan struct{}

	mu    sync.Mutex
	notes map[string]Note // by key
	read  bool            // the board has been read since the start
	lease clientv3.LeaseID
	count int // of the notes pinned under lease
}

// Open makes a board. It does not wait for etcd.
func Open(cfg Config) (*Board, error) {
	cfg.Log = cfg.Log.Named("board")
	client, err := etcdclient.Open(etcdclient.Config{
		Endpoints: cfg.Etcd, TLS: cfg.TLS, MinRetry: minRetry, MaxRetry: maxRetry, ConnectTimeout: RequestTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	return &Board{
		cfg: cfg, client: client, prefix: "/twotier/board/" + cfg.Service + "/",
		changed: make(chan struct{}, 1), notes: map[string]Note{},
	}, nil
}

// Changed gets a kick when the notes have changed. Kicks are coalesced.
func (b *Board) Changed() <-chan struct{} { return b.changed }

// Notes are all notes, those of this process too, the oldest first; false before the board has been read. While etcd is away
// they are those that were there last.
func (b *Board) Notes() ([]Note, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Note, 0, len(b.notes))
	for _, n := range b.notes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), strings.Compare(a.Key, b.Key))
	})
	return all, b.read
}

// Pin puts up a note.
func (b *Board) Pin(ctx context.Context, value []byte) error {
	if len(value) > MaxNote {
		return ErrTooLarge
	}
	b.mu.Lock()
	lease := b.lease
	b.count++
	key := fmt.Sprintf("%s%s/%x-%d", b.prefix, b.cfg.Node, lease, b.count)
	b.mu.Unlock()
	if lease == clientv3.NoLease {
		return ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	res, err := b.client.Put(ctx, key, string(value), clientv3.WithLease(lease))
	if err != nil {
		return fmt.Errorf("pin a note: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes[key] = Note{Key: key, Value: value, Revision: res.Header.Revision, Own: true} // before the watch tells of it
	return nil
}

// Unpin takes a note of this process away.
func (b *Board) Unpin(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	if _, err := b.client.Delete(ctx, key); err != nil {
		return fmt.Errorf("take a note away: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.notes, key)
	return nil
}

// Run reads the board and renews this node's notes until ctx ends, which is no error. The notes stay for Lease.
func (b *Board) Run(ctx context.Context) error {
	pause := minRetry
	for ctx.Err() == nil {
		read, err := b.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if read {
			pause = minRetry
		} else if pause == minRetry {
			b.cfg.Log.Warn("the board cannot be read; what was on it stays in force", zap.Error(err))
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, maxRetry)
	}
	b.leave(context.WithoutCancel(ctx))
	return b.client.Close()
}

// leave gives back a lease under which nothing is pinned.
func (b *Board) leave(ctx context.Context) {
	b.mu.Lock()
	lease, count := b.lease, b.count
	b.mu.Unlock()
	if lease == clientv3.NoLease || count > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	_, _ = b.client.Revoke(ctx, lease) // it ends by itself too
}

// follow keeps a lease and reads the board again and again until something fails. read tells whether it was read.
func (b *Board) follow(ctx context.Context) (read bool, err error) {
	ctx = clientv3.WithRequireLeader(ctx)
	for ctx.Err() == nil {
		if err := b.hold(ctx); err != nil {
			return read, err
		}
		within, done := context.WithTimeout(ctx, RequestTimeout)
		whole, err := b.client.Get(within, b.prefix, clientv3.WithPrefix())
		done()
		if err != nil {
			return read, fmt.Errorf("read %s: %w", b.prefix, err)
		}
		b.takeWhole(whole)
		read = true
		if err := b.watch(ctx, whole.Header.Revision); err != nil {
			return read, err
		}
	}
	return read, ctx.Err()
}

// hold renews the lease, or makes one when there is none that lives.
func (b *Board) hold(ctx context.Context) error {
	b.mu.Lock()
	lease := b.lease
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	if lease != clientv3.NoLease {
		_, err := b.client.KeepAliveOnce(ctx, lease)
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
	made, err := b.client.Grant(ctx, int64(Lease/time.Second))
	if err != nil {
		return fmt.Errorf("make a lease: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lease, b.count = made.ID, 0
	return nil
}

// watch takes in changes after a revision until it is time to read the whole again, which is no error.
func (b *Board) watch(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, ReadEvery)
	defer cancel()
	for answer := range b.client.Watch(ctx, b.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := answer.Err(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch: %w", err)
		}
		b.take(answer.Events)
	}
	if ctx.Err() == nil {
		return errors.New("the watch has ended")
	}
	return nil
}

func (b *Board) takeWhole(whole *clientv3.GetResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, first := b.notes, !b.read
	b.notes, b.read = map[string]Note{}, true
	for _, kv := range whole.Kvs {
		b.put(string(kv.Key), kv.Value, kv.ModRevision, clientv3.LeaseID(kv.Lease))
	}
	same := func(a, b Note) bool { return a.Revision == b.Revision && a.Own == b.Own }
	if first || !maps.EqualFunc(was, b.notes, same) {
		b.kick()
	}
}

func (b *Board) take(events []*clientv3.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range events {
		if e.Type == clientv3.EventTypeDelete {
			delete(b.notes, string(e.Kv.Key))
		} else {
			b.put(string(e.Kv.Key), e.Kv.Value, e.Kv.ModRevision, clientv3.LeaseID(e.Kv.Lease))
		}
	}
	b.kick()
}

// put takes a note in. The caller holds mu.
func (b *Board) put(key string, value []byte, revision int64, lease clientv3.LeaseID) {
	b.notes[key] = Note{Key: key, Value: value, Revision: revision, Own: lease == b.lease}
}

func (b *Board) kick() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}
