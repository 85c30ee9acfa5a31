// Package desired brings the desired state of one service from etcd or from files, as typed snapshots, and keeps the
// last good one on disk.
package desired

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

// Kind is one kind of desired object.
type Kind struct {
	// Name in the key space and in files. Example: virtual-service
	Name string
	// New makes an empty message of this kind. The message must have a string field called name.
	New func() proto.Message
}

// Object is one desired object.
type Object struct {
	Kind, Name string
	// Message must not be changed: it is shared by all who hold the snapshot.
	Message proto.Message
	// Etag changes with each change of the stored object. Empty in snapshots from files.
	Etag string
}

// Snapshot is the whole desired state of one service at one moment. It must not be changed; With and Without make copies.
type Snapshot struct {
	// Origin tells where it was read.
	Origin commonv1.Origin
	// Revision of the store, or, from files, a counter of the changes seen.
	Revision int64
	// Objects in the order of kind and name.
	Objects []Object
	// Violations name what could not even be read: not JSON or YAML, an unknown kind or field, a name that is not the key's.
	Violations []*commonv1.Violation

	history history
}

// With is a copy in which m is stored, made or replaced. Complaints about the object that m replaces are gone.
func (s Snapshot) With(kind string, m proto.Message) Snapshot {
	name := NameOf(m)
	next := s.Without(kind, name)
	i, _ := slices.BinarySearchFunc(next.Objects, Object{Kind: kind, Name: name}, compareObjects)
	next.Objects = slices.Insert(next.Objects, i, Object{Kind: kind, Name: name, Message: m})
	return next
}

// Without is a copy in which there is no such object.
func (s Snapshot) Without(kind, name string) Snapshot {
	s.Objects = slices.DeleteFunc(slices.Clone(s.Objects), func(o Object) bool {
		return o.Kind == kind && o.Name == name
	})
	s.Violations = slices.DeleteFunc(slices.Clone(s.Violations), func(v *commonv1.Violation) bool {
		return Concerns(v, kind, name)
	})
	return s
}

// Concerns tells whether a violation is about the object kind/name itself.
func Concerns(v *commonv1.Violation, kind, name string) bool {
	rest, ok := strings.CutPrefix(v.GetField(), kind+"/"+name)
	// A name may hold dots, so "backend/a" must not claim "backend/a.b/…"; a field path goes on with a field after the
	// dot, which no rule tells from a name. Claiming too much here only lets a change through that the loop then judges.
	return ok && (rest == "" || rest[0] == '.')
}

// NameOf is the content of a message's field name; empty when there is none.
func NameOf(m proto.Message) string {
	message := m.ProtoReflect()
	field := message.Descriptor().Fields().ByName("name")
	if field == nil {
		return ""
	}
	return message.Get(field).String()
}

func compareObjects(a, b Object) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// history is what tells the continuation of one etcd from another etcd. Its zero value is the history of one never seen.
type history struct {
	cluster  uint64
	revision int64            // everything up to here has been seen
	keys     map[string]int64 // kind/name -> revision of its last change
}

func (h history) known() bool { return h.cluster != 0 }

// breaks tells why next cannot be a later state of h; empty when it can.
//
// A cluster id alone does not do: an etcd that is wiped and started again with the same name, addresses and token has
// the same one. The revision alone does not either: a new etcd passes the old revision as soon as enough is written to
// it. But what was last changed at a revision that has been seen must have been seen.
func (h history) breaks(next history) string {
	switch {
	case !h.known():
		return ""
	case h.cluster != next.cluster:
		return "the cluster id was " + hex(h.cluster) + " and is now " + hex(next.cluster)
	case next.revision < h.revision:
		return "the revision was " + decimal(h.revision) + " and is now " + decimal(next.revision)
	}
	for _, key := range slices.Sorted(maps.Keys(next.keys)) {
		if changed := next.keys[key]; changed <= h.revision && h.keys[key] != changed {
			return "revision " + decimal(h.revision) + " was seen before without the " + key + " that this etcd has had since revision " + decimal(changed)
		}
	}
	return ""
}

func hex(id uint64) string         { return strconv.FormatUint(id, 16) }
func decimal(n int64) string       { return strconv.FormatInt(n, 10) }
func key(kind, name string) string { return kind + "/" + name }
