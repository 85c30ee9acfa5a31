package desired

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/etcdclient"
)

// Times of the etcd source.
const (
	// readTimeout bounds one reading of the whole state.
	readTimeout = 5 * time.Second
	// progressEvery is the pause between two questions how far the watch is; the answer proves that etcd lives, and that
	// it is still the same one.
	progressEvery = 5 * time.Second
	// silence is how long a watch may say nothing, although asked, before it counts as lost.
	silence = 12 * time.Second
	// minRetry and maxRetry bound the pause between two attempts to reach etcd.
	minRetry = 200 * time.Millisecond
	maxRetry = 5 * time.Second
	// maxAnswer is the largest answer that is read, in bytes.
	maxAnswer = 64 << 20
)

// errCompacted: the revisions between the last one seen and now are gone; the state has to be read as a whole.
var errCompacted = errors.New("the history since the last revision seen has been compacted")

// etcd is the source that follows a prefix in etcd.
//
// It reads the whole, then watches from the next revision on, on one stream of its own. The watcher of the client
// library would resume by itself after a lost connection, without a word, and if the etcd behind the address had been
// replaced in between it would wait for a revision that is years away. Here a lost stream means: read the whole again,
// and check that it is a continuation.
type etcd struct {
	store         *Store
	client        *clientv3.Client
	prefix        string
	progressEvery time.Duration
	silence       time.Duration
}

func openEtcd(s *Store, cfg Config) (*etcd, error) {
	client, err := etcdclient.Open(etcdclient.Config{
		Endpoints: cfg.Etcd, TLS: cfg.TLS, MinRetry: minRetry, MaxRetry: maxRetry, ConnectTimeout: readTimeout, Always: true,
	})
	if err != nil {
		return nil, err
	}
	return &etcd{
		store:         s,
		client:        client,
		prefix:        "/twotier/desired/" + cfg.Service + "/",
		progressEvery: progressEvery,
		silence:       silence,
	}, nil
}

func (e *etcd) close() error { return e.client.Close() }

// run follows until ctx ends. However often etcd goes, it is tried again.
func (e *etcd) run(ctx context.Context) error {
	pause := minRetry
	for {
		read, err := e.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errCompacted) {
			continue
		}
		if read {
			pause = minRetry
		}
		e.store.setAvailable(false, err)
		// Up to half of the pause is chance, so that a fleet does not come back in step.
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, maxRetry)
	}
}

// follow reads the whole and then watches until something ends that. read tells whether the whole was read.
func (e *etcd) follow(ctx context.Context) (read bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()

	within, done := context.WithTimeout(ctx, readTimeout)
	whole, err := e.client.Get(within, e.prefix, clientv3.WithPrefix())
	done()
	if err != nil {
		return false, fmt.Errorf("read %s: %w", e.prefix, err)
	}
	state := newState(e.store.kinds, e.prefix, whole.Header.ClusterId)
	for _, kv := range whole.Kvs {
		state.put(kv)
	}
	e.store.offerWhole(state.snapshot(whole.Header.Revision))
	e.store.setAvailable(true, nil)
	return true, e.watch(ctx, state, whole.Header.Revision)
}

// watch takes in changes from the revision after the given one, until the stream ends. It always returns an error.
func (e *etcd) watch(ctx context.Context, state *state, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := etcdserverpb.NewWatchClient(e.client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		cancel()
		return fmt.Errorf("watch: %w", err)
	}
	answers := make(chan *etcdserverpb.WatchResponse)
	ended := make(chan error, 1)
	go func() { ended <- receive(ctx, stream, answers) }()
	lost := func() error { cancel(); return <-ended }

	err = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key:            []byte(e.prefix),
			RangeEnd:       []byte(clientv3.GetPrefixRangeEnd(e.prefix)),
			StartRevision:  revision + 1,
			ProgressNotify: true,
		},
	}})
	if err != nil {
		return fmt.Errorf("watch: %w", errors.Join(err, lost()))
	}

	ask := time.NewTicker(e.progressEvery)
	defer ask.Stop()
	quiet := time.NewTimer(e.silence)
	defer quiet.Stop()
	for {
		select {
		case answer := <-answers:
			quiet.Reset(e.silence)
			if revision, err = e.take(state, answer, revision); err != nil {
				_ = lost() // what ended the stream is that it was cancelled
				return err
			}
		case <-ask.C:
			// An error of Send also ends the receiver, which knows the reason.
			_ = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
				ProgressRequest: &etcdserverpb.WatchProgressRequest{},
			}})
		case <-quiet.C:
			_ = lost()
			return fmt.Errorf("watch: nothing heard for %v", e.silence)
		case err := <-ended:
			cancel()
			return fmt.Errorf("watch: %w", err)
		}
	}
}

// receive hands on answers until the stream ends.
func receive(ctx context.Context, stream etcdserverpb.Watch_WatchClient, answers chan<- *etcdserverpb.WatchResponse) error {
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case answers <- answer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take takes in one answer of the watch and tells the revision up to which everything is known now.
func (e *etcd) take(state *state, answer *etcdserverpb.WatchResponse, revision int64) (int64, error) {
	switch {
	case answer.CompactRevision != 0:
		return revision, errCompacted
	case answer.Canceled:
		return revision, fmt.Errorf("watch: ended by etcd: %s", answer.CancelReason)
	case answer.Header.ClusterId != state.cluster:
		return revision, errors.New("watch: another etcd answers")
	case answer.Created:
		return revision, nil
	case len(answer.Events) == 0:
		// A member that lags behind may answer this too; reading the whole tells which it is.
		if answer.Header.Revision < revision {
			return revision, fmt.Errorf("watch: the revision was %d and is now %d", revision, answer.Header.Revision)
		}
		e.store.offerProgress(answer.Header.Revision)
		return answer.Header.Revision, nil
	}
	for _, event := range answer.Events {
		revision = max(revision, event.Kv.ModRevision)
		if event.Type == mvccpb.Event_DELETE {
			state.remove(event.Kv)
		} else {
			state.put(event.Kv)
		}
	}
	e.store.offerNext(state.snapshot(revision))
	return revision, nil
}

func (e *etcd) put(ctx context.Context, kind string, m proto.Message, etag string) (int64, error) {
	text, err := encode(m)
	if err != nil {
		return 0, err
	}
	if len(text) > MaxObject {
		return 0, ErrTooLarge
	}
	path := e.prefix + key(kind, NameOf(m))
	conditions, err := whenUnchanged(path, etag)
	if err != nil {
		return 0, err
	}
	answer, err := e.commit(ctx, conditions, clientv3.OpPut(path, string(text)), path)
	if err != nil {
		return 0, err
	}
	if !answer.Succeeded {
		return 0, ErrConflict
	}
	return answer.Header.Revision, nil
}

func (e *etcd) remove(ctx context.Context, kind, name, etag string) (int64, error) {
	path := e.prefix + key(kind, name)
	conditions, err := whenUnchanged(path, etag)
	if err != nil {
		return 0, err
	}
	answer, err := e.commit(ctx, conditions, clientv3.OpDelete(path), path)
	switch {
	case err != nil:
		return 0, err
	case !answer.Succeeded && answer.Responses[0].GetResponseRange().Count == 0,
		answer.Succeeded && answer.Responses[0].GetResponseDeleteRange().Deleted == 0:
		return 0, ErrNotFound
	case !answer.Succeeded:
		return 0, ErrConflict
	}
	return answer.Header.Revision, nil
}

// commit does one change if the conditions hold; if not, it counts what is stored at path.
func (e *etcd) commit(caller context.Context, conditions []clientv3.Cmp, change clientv3.Op, path string) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(caller, WriteTimeout)
	defer cancel()
	answer, err := e.client.Txn(clientv3.WithRequireLeader(ctx)).
		If(conditions...).
		Then(change).
		Else(clientv3.OpGet(path, clientv3.WithCountOnly())).
		Commit()
	switch {
	case err == nil:
		return answer, nil
	case caller.Err() != nil:
		return nil, caller.Err()
	}
	// Opaque: a deadline in there is ours, and not that of the caller.
	return nil, fmt.Errorf("%w: %v", ErrUnavailable, err)
}

// whenUnchanged is the condition that an etag stands for.
func whenUnchanged(path, etag string) ([]clientv3.Cmp, error) {
	if etag == "" {
		return nil, nil
	}
	revision, err := strconv.ParseInt(etag, 10, 64)
	if err != nil {
		return nil, ErrConflict // no object has ever had it
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(path), "=", revision)}, nil
}

// state is what etcd holds under the prefix, read one change at a time.
type state struct {
	kinds   []Kind
	prefix  string
	cluster uint64
	entries map[string]entry // kind/name
}

// entry is one key: the object, or why it is none.
type entry struct {
	object    Object
	violation *commonv1.Violation
	changed   int64
}

func newState(kinds []Kind, prefix string, cluster uint64) *state {
	return &state{kinds: kinds, prefix: prefix, cluster: cluster, entries: map[string]entry{}}
}

func (s *state) put(kv *mvccpb.KeyValue) {
	path := strings.TrimPrefix(string(kv.Key), s.prefix)
	made := entry{changed: kv.ModRevision}
	object, err := s.read(path, kv.Value)
	if err != nil {
		made.violation = violation(path, "", err)
	} else {
		object.Etag = decimal(kv.ModRevision)
		made.object = object
	}
	s.entries[path] = made
}

func (s *state) remove(kv *mvccpb.KeyValue) {
	delete(s.entries, strings.TrimPrefix(string(kv.Key), s.prefix))
}

func (s *state) read(path string, text []byte) (Object, error) {
	kindName, name, ok := strings.Cut(path, "/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return Object{}, errors.New("want a key of the form KIND/NAME")
	}
	i := slices.IndexFunc(s.kinds, func(k Kind) bool { return k.Name == kindName })
	if i < 0 {
		return Object{}, fmt.Errorf("unknown kind %q", kindName)
	}
	message, err := decode(s.kinds[i], text)
	if err != nil {
		return Object{}, err
	}
	if inside := NameOf(message); inside != name {
		return Object{}, fmt.Errorf("name: want %q as in the key, got %q", name, inside)
	}
	return Object{Kind: kindName, Name: name, Message: message}, nil
}

// snapshot is the state as of a revision.
func (s *state) snapshot(revision int64) Snapshot {
	made := Snapshot{
		Origin:   commonv1.Origin_ORIGIN_ETCD,
		Revision: revision,
		history:  history{cluster: s.cluster, revision: revision, keys: make(map[string]int64, len(s.entries))},
	}
	for path, e := range s.entries {
		made.history.keys[path] = e.changed
		if e.violation != nil {
			made.Violations = append(made.Violations, e.violation)
		} else {
			made.Objects = append(made.Objects, e.object)
		}
	}
	slices.SortFunc(made.Objects, compareObjects)
	slices.SortFunc(made.Violations, func(a, b *commonv1.Violation) int { return strings.Compare(a.Field, b.Field) })
	return made
}
