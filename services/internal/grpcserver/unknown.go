package grpcserver

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// refuseUnknown refuses a request with fields that this version does not know: what the caller asked for would be
// dropped in silence. The services of gRPC itself (health, reflection) are left to their own rules.
func refuseUnknown(method string, request any) error {
	if strings.HasPrefix(method, "/grpc.") {
		return nil
	}
	message, ok := request.(proto.Message)
	if !ok {
		return nil
	}
	if path, found := unknownIn(message.ProtoReflect(), ""); found {
		return status.Errorf(codes.InvalidArgument, "the request has a field that this version does not know, in %q", path)
	}
	return nil
}

// unknownIn looks for unknown fields in a message and all below it, and names the message that has one.
func unknownIn(message protoreflect.Message, path string) (where string, found bool) {
	if len(message.GetUnknown()) > 0 {
		return strings.TrimPrefix(path+".", "."), true
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		below := path + "." + string(field.Name())
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
					where, found = unknownIn(value.Message(), below)
					return !found
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				if where, found = unknownIn(value.List().Get(i).Message(), below); found {
					break
				}
			}
		default:
			where, found = unknownIn(value.Message(), below)
		}
		return !found
	})
	return where, found
}
