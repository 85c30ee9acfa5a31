// Package verbs is what every control API answers in the same way: status, list, preview, apply, delete, reconcile.
//
// A service embeds Verbs beside the Unsafe… servers of its generated code (not the Unimplemented… ones, whose methods of
// the same names would compete) and adds what is its own.
package verbs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/desired"
	"github.com/twotier/twotier/services/internal/grpcserver"
	"github.com/twotier/twotier/services/internal/reconcile"
	reporter "github.com/twotier/twotier/services/internal/status"
)

// Page sizes of ListObjects.
const (
	DefaultPage = 100
	MaxPage     = 500
)

// Loop is what the verbs need of a service's loop.
type Loop interface {
	// Preview is the plan of that snapshot against the world, one line a change, or why the snapshot is not valid. It
	// changes nothing. The error is that the world cannot be read; violations are then still complete.
	Preview(desired.Snapshot) (changes []string, violations []*commonv1.Violation, err error)
	// Reconcile makes a pass now and waits for its result.
	Reconcile(context.Context) (reconcile.Result, error)
}

// Verbs answers the shared verbs. All fields are required.
type Verbs struct {
	Store  *desired.Store
	Status *reporter.Reporter
	Loop   Loop
}

// GetStatus answers the latest status.
func (v *Verbs) GetStatus(context.Context, *commonv1.GetStatusRequest) (*commonv1.Status, error) {
	return v.Status.Latest(), nil
}

// WatchStatus sends the latest status, and again at each change, until the caller hangs up.
func (v *Verbs) WatchStatus(_ *commonv1.WatchStatusRequest, stream grpc.ServerStreamingServer[commonv1.Status]) error {
	for latest := range v.Status.Subscribe(stream.Context()) {
		if err := stream.Send(latest); err != nil {
			return err
		}
	}
	return status.FromContextError(stream.Context().Err()).Err()
}

// ApplyObject checks an object together with all others and stores it. object is the service's Object message, with a
// oneof whose field names are the kinds.
func (v *Verbs) ApplyObject(ctx context.Context, object proto.Message, etag string, validateOnly bool) (*commonv1.ApplyResponse, error) {
	kind, message, err := v.unwrap(object)
	if err != nil {
		return nil, err
	}
	if err := v.Store.ReadOnly(); err != nil && !validateOnly {
		return nil, toStatus(err)
	}
	now, err := v.newest()
	if err != nil {
		return nil, err
	}
	name := desired.NameOf(message)
	changes, err := v.judge(now, now.With(kind, message), kind, name)
	if err != nil {
		return nil, err
	}
	if validateOnly {
		return &commonv1.ApplyResponse{Changes: changes}, nil
	}
	newEtag, err := v.Store.Put(ctx, kind, message, etag)
	if err != nil {
		return nil, toStatus(err)
	}
	return &commonv1.ApplyResponse{Etag: newEtag, Changes: changes}, nil
}

// Delete checks that the others are valid without the object, and removes it.
func (v *Verbs) Delete(ctx context.Context, request *commonv1.DeleteRequest) (*commonv1.DeleteResponse, error) {
	kind, name := request.GetKind(), request.GetName()
	if _, ok := v.Store.Kind(kind); !ok {
		return nil, refuse("kind", fmt.Sprintf("this service has no kind %q", kind))
	}
	if err := checkName(name); err != "" {
		return nil, refuse("name", err)
	}
	if err := v.Store.ReadOnly(); err != nil && !request.GetValidateOnly() {
		return nil, toStatus(err)
	}
	now, err := v.newest()
	if err != nil {
		return nil, err
	}
	changes, err := v.judge(now, now.Without(kind, name), kind, name)
	if err != nil {
		return nil, err
	}
	if request.GetValidateOnly() {
		if !holds(now, kind, name) {
			return nil, toStatus(desired.ErrNotFound)
		}
		return &commonv1.DeleteResponse{Changes: changes}, nil
	}
	if err := v.Store.Delete(ctx, kind, name, request.GetEtag()); err != nil {
		return nil, toStatus(err)
	}
	return &commonv1.DeleteResponse{Changes: changes}, nil
}

// PreviewObject tells what would be done if the object were applied; with a nil object, what is still to be done.
func (v *Verbs) PreviewObject(_ context.Context, object proto.Message) (*commonv1.PreviewPlanResponse, error) {
	snapshot, err := v.newest()
	if err != nil {
		return nil, err
	}
	if !absent(object) {
		kind, message, err := v.unwrap(object)
		if err != nil {
			return nil, err
		}
		snapshot = snapshot.With(kind, message)
	}
	changes, violations, err := v.preview(snapshot)
	switch {
	case len(violations) > 0:
		return nil, grpcserver.BadRequest(violations)
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "the plan is not known: %v", err)
	}
	return &commonv1.PreviewPlanResponse{Changes: changes}, nil
}

// Reconcile makes a pass now, first letting a held-off etcd rule when that is asked for.
func (v *Verbs) Reconcile(ctx context.Context, request *commonv1.ReconcileRequest) (*commonv1.ReconcileResponse, error) {
	switch {
	case request.GetRestoreDesired():
		if err := v.Store.RestoreDesired(ctx); err != nil {
			return nil, toStatus(err)
		}
	case request.GetAcceptNewHistory():
		if err := v.Store.AcceptNewHistory(); err != nil {
			return nil, toStatus(err)
		}
	}
	result, err := v.Loop.Reconcile(ctx)
	if err != nil {
		if errors.Is(err, reconcile.ErrStopped) {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return nil, toStatus(err)
	}
	answer := &commonv1.ReconcileResponse{Outcome: result.Outcome, Changes: result.Changes}
	if result.Err != nil {
		answer.Error = result.Err.Error()
	}
	return answer, nil
}

// ListObjects hands the objects of one page to add, in the order of kind and name. In add, object fills in the service's
// Object message. next is the token of the page after this one, empty on the last.
func (v *Verbs) ListObjects(_ context.Context, page *commonv1.PageRequest, add func(object func(into proto.Message), etag string)) (next string, err error) {
	size := int(page.GetPageSize())
	if size == 0 {
		size = DefaultPage
	}
	if size < 1 || size > MaxPage {
		return "", refuse("page_size", fmt.Sprintf("want 1 to %d, got %d", MaxPage, size))
	}
	after, err := base64.RawURLEncoding.DecodeString(page.GetPageToken())
	if err != nil {
		return "", refuse("page_token", "want the next_page_token of an answer")
	}
	snapshot, err := v.newest()
	if err != nil {
		return "", err
	}
	// The token is the last object that was shown, so that a page misses nothing when objects come and go in between.
	afterKind, afterName, _ := strings.Cut(string(after), "/")
	start := 0
	if len(after) > 0 {
		start = len(snapshot.Objects)
		if i := slices.IndexFunc(snapshot.Objects, func(o desired.Object) bool {
			return o.Kind > afterKind || o.Kind == afterKind && o.Name > afterName
		}); i >= 0 {
			start = i
		}
	}
	shown := snapshot.Objects[start:]
	if len(shown) > size {
		shown = shown[:size]
		last := shown[size-1]
		next = base64.RawURLEncoding.EncodeToString([]byte(last.Kind + "/" + last.Name))
	}
	for _, o := range shown {
		add(func(into proto.Message) { wrap(into, o) }, o.Etag)
	}
	return next, nil
}

// judge tells what would be done about next, or refuses it. It is refused for what is wrong with the object kind/name
// itself and for what is newly wrong with others. What was wrong before does not count: two broken objects could
// otherwise never be mended one after the other.
func (v *Verbs) judge(now, next desired.Snapshot, kind, name string) ([]string, error) {
	changes, violations, err := v.preview(next)
	if len(violations) > 0 {
		_, before, _ := v.preview(now) // the world does not matter here
		violations = slices.DeleteFunc(violations, func(wrong *commonv1.Violation) bool {
			return !desired.Concerns(wrong, kind, name) && slices.ContainsFunc(before, func(old *commonv1.Violation) bool {
				return proto.Equal(old, wrong)
			})
		})
		if len(violations) > 0 {
			return nil, grpcserver.BadRequest(violations)
		}
		return []string{"nothing yet: other objects are not valid; GetStatus names them"}, nil
	}
	if err != nil {
		// Whether the object is valid does not hang on this node's world, and others may wait for it.
		return []string{"not known yet: " + err.Error()}, nil
	}
	return changes, nil
}

// preview has the loop judge what could be read, and adds what could not.
func (v *Verbs) preview(snapshot desired.Snapshot) ([]string, []*commonv1.Violation, error) {
	unreadable := snapshot.Violations
	snapshot.Violations = nil
	changes, violations, err := v.Loop.Preview(snapshot)
	return changes, slices.Concat(unreadable, violations), err
}

func (v *Verbs) newest() (desired.Snapshot, error) {
	snapshot, ok := v.Store.Newest()
	if !ok {
		return desired.Snapshot{}, status.Error(codes.Unavailable, reconcile.ErrNotRead.Error())
	}
	return snapshot, nil
}

// Imagine is the newest desired state as if these objects, each the service's Object message, were applied, and those named
// "kind/name" in remove were deleted. It is not checked.
func (v *Verbs) Imagine(objects []proto.Message, remove []string) (desired.Snapshot, error) {
	snapshot, err := v.newest()
	if err != nil {
		return desired.Snapshot{}, err
	}
	for i, object := range objects {
		kind, message, err := v.unwrap(object)
		if err != nil {
			return desired.Snapshot{}, fmt.Errorf("objects[%d]: %w", i, err)
		}
		snapshot = snapshot.With(kind, message)
	}
	for i, key := range remove {
		kind, name, _ := strings.Cut(key, "/")
		if !holds(snapshot, kind, name) {
			return desired.Snapshot{}, refuse(fmt.Sprintf("remove[%d]", i), fmt.Sprintf("there is no object %q; want KIND/NAME", key))
		}
		snapshot = snapshot.Without(kind, name)
	}
	return snapshot, nil
}

func holds(s desired.Snapshot, kind, name string) bool {
	return slices.ContainsFunc(s.Objects, func(o desired.Object) bool { return o.Kind == kind && o.Name == name }) ||
		slices.ContainsFunc(s.Violations, func(v *commonv1.Violation) bool { return desired.Concerns(v, kind, name) })
}

// unwrap takes the one message out of the service's Object.
func (v *Verbs) unwrap(object proto.Message) (kind string, message proto.Message, err error) {
	if absent(object) {
		return "", nil, refuse("object", "want an object")
	}
	reflected := object.ProtoReflect()
	for field, value := range reflected.Range {
		if field.ContainingOneof() == nil || field.Message() == nil {
			continue
		}
		kind, message = kindOf(field), value.Message().Interface()
	}
	if message == nil {
		return "", nil, refuse("object", "want one of its kinds set")
	}
	if _, ok := v.Store.Kind(kind); !ok {
		return "", nil, refuse("object", fmt.Sprintf("this service has no kind %q", kind))
	}
	if wrong := checkName(desired.NameOf(message)); wrong != "" {
		return "", nil, refuse(kind+".name", wrong)
	}
	return kind, message, nil
}

// wrap puts an object into the service's Object.
func wrap(into proto.Message, object desired.Object) {
	reflected := into.ProtoReflect()
	fields := reflected.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.ContainingOneof() != nil && field.Message() != nil && kindOf(field) == object.Kind {
			reflected.Set(field, protoreflect.ValueOfMessage(object.Message.ProtoReflect()))
		}
	}
}

// kindOf is the kind that a field of Object stands for: virtual_service is virtual-service.
func kindOf(field protoreflect.FieldDescriptor) string {
	return strings.ReplaceAll(string(field.Name()), "_", "-")
}

// absent tells a message that is not there, which may be a nil pointer in an interface.
func absent(m proto.Message) bool {
	return m == nil || !m.ProtoReflect().IsValid()
}

// MaxName is the longest name of an object.
const MaxName = 63

// checkName tells what is wrong with a name that is to be part of a key; empty when nothing is.
func checkName(name string) string {
	good := name != "" && len(name) <= MaxName
	for _, c := range name {
		good = good && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c))
	}
	if good {
		return ""
	}
	return fmt.Sprintf(`want 1 to %d of a-z, A-Z, 0-9, "-", "_", ".", got %q`, MaxName, name)
}

func refuse(field, description string) error {
	return grpcserver.BadRequest([]*commonv1.Violation{{Field: field, Description: description}})
}

// toStatus gives the errors of the store their codes.
func toStatus(err error) error {
	var readOnly *desired.ReadOnlyError
	switch {
	case errors.As(err, &readOnly):
		return grpcserver.FailedPrecondition("READ_ONLY", readOnly.Path, err.Error())
	case errors.Is(err, desired.ErrHistory):
		return grpcserver.FailedPrecondition("HISTORY_ALARM", "etcd", err.Error())
	case errors.Is(err, desired.ErrEmptyHistory):
		return grpcserver.FailedPrecondition("EMPTY_HISTORY", "etcd", err.Error())
	case errors.Is(err, desired.ErrConflict):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, desired.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, desired.ErrTooLarge), errors.Is(err, desired.ErrUnknownKind):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, desired.ErrUnavailable):
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
