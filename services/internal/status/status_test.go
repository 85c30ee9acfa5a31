package status_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/etcdtest"
	"github.com/twotier/twotier/services/internal/status"
)

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := status.Open(status.Config{Service: "l7-router", Node: "haproxy", Version: "0.1.0"})
		if err != nil {
			t.Fatal(err)
		}
		if s := r.Latest(); s.Service != "l7-router" || s.Node != "haproxy" || s.Version != "0.1.0" || s.StartTime == nil {
			t.Errorf("before the first report: %v", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		sent := r.Subscribe(ctx)
		<-sent

		mine := &commonv1.Status{Outcome: commonv1.Outcome_OUTCOME_DONE, Notes: []string{"a"}}
		r.Report(mine)
		mine.Notes[0] = "changed by its owner"
		first := <-sent
		if first.Outcome != commonv1.Outcome_OUTCOME_DONE || first.Notes[0] != "a" || first.Node != "haproxy" {
			t.Errorf("sent: %v", first)
		}
		time.Sleep(time.Second) // in the time of synctest
		r.Report(&commonv1.Status{Outcome: commonv1.Outcome_OUTCOME_DONE, Notes: []string{"a"}})
		synctest.Wait()
		select {
		case again := <-sent:
			t.Errorf("sent the same again: %v", again)
		default:
		}
		r.Report(&commonv1.Status{Notes: []string{"b"}}) // missed by a slow receiver, or not
		r.Report(&commonv1.Status{Notes: []string{"c"}, LastChanges: make([]string, 150)})
		for s := range sent {
			if s.Notes[0] == "c" {
				if len(s.LastChanges) != status.MaxChanges || s.LastChanges[99] != "and 51 more" {
					t.Errorf("%d changes, the last %q", len(s.LastChanges), s.LastChanges[len(s.LastChanges)-1])
				}
				break
			}
		}
		cancel()
		for range sent { // closed
		}
	})
}

func TestStatusInEtcd(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	const key = "/twotier/status/l7-router/haproxy"
	ctx, giveUp := context.WithTimeout(t.Context(), time.Minute)
	defer giveUp()
	// await follows the key from a revision on until it holds text; empty: until it is deleted.
	await := func(text string, from int64) int64 {
		t.Helper()
		for answer := range client.Watch(ctx, key, clientv3.WithRev(from)) {
			for _, event := range answer.Events {
				if text == "" && event.Type == clientv3.EventTypeDelete {
					return event.Kv.ModRevision + 1
				}
				if text != "" && strings.Contains(string(event.Kv.Value), text) {
					if event.Kv.Lease == 0 || !json.Valid(event.Kv.Value) {
						t.Errorf("lease %x, value %s", event.Kv.Lease, event.Kv.Value)
					}
					return event.Kv.ModRevision + 1
				}
			}
		}
		t.Fatalf("the status never became %q", text)
		return 0
	}

	r, err := status.Open(status.Config{Service: "l7-router", Node: "haproxy", Etcd: e.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(run) }()
	r.Report(&commonv1.Status{Notes: []string{"first"}})
	next := await(`"first"`, 1)
	r.Report(&commonv1.Status{Notes: []string{"second"}})
	await(`"second"`, next)

	// Another etcd has no lease of ours; the status is made again there, with what was said meanwhile.
	e.Stop()
	r.Report(&commonv1.Status{Notes: []string{"third"}})
	e.Replace()
	e.Start()
	next = await(`"third"`, 1)

	stop()
	await("", next) // at once, not when the lease ends; the watch would see that too, but the service is polite
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
