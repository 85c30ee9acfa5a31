package control

import (
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
)

type fakeSides []plan.State

func (f fakeSides) States() []plan.State { return f }

func TestListPairs(t *testing.T) {
	t.Parallel()
	web := spec.Pair{Name: "web"}
	s := New(nil, fakeSides{
		{
			Side: plan.Side{Role: plan.Target, Pair: web}, Connected: true, Held: true, Waiting: 1, Files: 2, Bytes: 3, Deletes: 4,
			Skipped: 5, Unowned: 6, Refused: 7, Error: "held",
		},
		{Side: plan.Side{Role: plan.Source, Pair: web}, InSync: true},
	})
	got, err := s.ListPairs(t.Context(), &filesyncv1.ListPairsRequest{})
	want := &filesyncv1.ListPairsResponse{Pairs: []*filesyncv1.PairState{
		{
			Name: "web", Side: filesyncv1.Side_SIDE_TARGET, Connected: true, Held: true, PendingChanges: 1, Files: 2, Bytes: 3,
			Deletes: 4, Skipped: 5, OwnersNotKept: 6, RefusedPeers: 7, Error: "held",
		},
		{Name: "web", Side: filesyncv1.Side_SIDE_SOURCE, InSync: true},
	}}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %s, %v\nwant %s", prototext.Format(got), err, prototext.Format(want))
	}
}
