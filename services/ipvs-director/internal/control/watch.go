package control

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

// watchQueue is how many messages wait for one slow reader.
const watchQueue = 32

// WatchServices shows all services now, and after each pass those that have become otherwise.
func (d *director) WatchServices(_ *directorv1.WatchServicesRequest, stream grpc.ServerStreamingServer[directorv1.WatchServicesResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	queue := make(chan *directorv1.WatchServicesResponse, watchQueue)
	ended := make(chan error, 1)
	go func() { defer close(queue); ended <- d.tell(ctx, queue) }()
	var failed error
	for message := range queue {
		if failed = send(stream, parts(message)); failed != nil {
			break
		}
	}
	cancel()
	if err := <-ended; failed == nil {
		failed = err
	}
	return failed
}

func send(stream grpc.ServerStreamingServer[directorv1.WatchServicesResponse], messages []*directorv1.WatchServicesResponse) error {
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// tell puts what is new into a queue until ctx ends or the kernel cannot be read. It waits for nobody who reads.
func (d *director) tell(ctx context.Context, queue chan<- *directorv1.WatchServicesResponse) error {
	var t telling
	for {
		news := d.world.News() // before the look, so that no change is missed
		view, err := d.observed()
		if err != nil {
			return err
		}
		var now []*directorv1.ServiceState
		for _, s := range view.Have.Services {
			now = append(now, d.serviceState(s, view))
		}
		if message := t.next(now); message != nil {
			select {
			case queue <- message:
				t.told(now)
			default:
				t.missed++
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// telling is what one reader knows.
type telling struct {
	known  map[string]*directorv1.ServiceState // by address; nil: it has been told nothing
	missed uint32
}

// next is the message that makes the reader know what there is; nil: it knows.
func (t *telling) next(now []*directorv1.ServiceState) *directorv1.WatchServicesResponse {
	message := &directorv1.WatchServicesResponse{Whole: t.known == nil || t.missed > 0, Missed: t.missed}
	gone := maps.Clone(t.known)
	for _, s := range now {
		delete(gone, s.GetAddress())
		if message.GetWhole() || !proto.Equal(steady(s), steady(t.known[s.GetAddress()])) {
			message.Services = append(message.Services, s)
		}
	}
	if !message.GetWhole() {
		message.Gone = slices.Sorted(maps.Keys(gone))
	}
	if !message.GetWhole() && len(message.GetServices()) == 0 && len(message.GetGone()) == 0 {
		return nil
	}
	return message
}

// parts are messages of a size that a client takes, which say the same one after the other.
func parts(message *directorv1.WatchServicesResponse) (all []*directorv1.WatchServicesResponse) {
	services := message.GetServices()
	message.Services = nil
	all, size := append(all, message), 0
	for _, s := range services {
		if size += proto.Size(s); size > answerMost && len(message.GetServices()) > 0 {
			message, size = &directorv1.WatchServicesResponse{}, proto.Size(s)
			all = append(all, message)
		}
		message.Services = append(message.Services, s)
	}
	return all
}

// told notes that the message is on its way.
func (t *telling) told(now []*directorv1.ServiceState) {
	t.known, t.missed = make(map[string]*directorv1.ServiceState, len(now)), 0
	for _, s := range now {
		t.known[s.GetAddress()] = s
	}
}

// steady is a state without what grows and falls with the traffic and with each check.
func steady(s *directorv1.ServiceState) *directorv1.ServiceState {
	s = proto.CloneOf(s)
	for _, r := range s.GetRealServers() {
		r.ActiveConnections, r.TotalConnections, r.ConnectionRate, r.Traffic, r.LastCheck = nil, 0, 0, nil, ""
	}
	return s
}
