package desired

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

func TestHistoryBreaks(t *testing.T) {
	known := history{cluster: 0xabc, revision: 10, keys: map[string]int64{"backend/a": 4, "backend/b": 9}}
	for _, test := range []struct {
		name string
		old  history
		next history
		want string // part of the reason; empty: a continuation
	}{
		{"first contact ever", history{}, history{cluster: 1, revision: 1}, ""},
		{"nothing happened", known, known, ""},
		{"all deleted later", known, history{cluster: 0xabc, revision: 12}, ""},
		{"changed and added later", known, history{cluster: 0xabc, revision: 12, keys: map[string]int64{"backend/a": 11, "backend/c": 12}}, ""},
		{"another cluster", known, history{cluster: 0xdef, revision: 12}, "cluster id was abc and is now def"},
		{"revision went back", known, history{cluster: 0xabc, revision: 9, keys: known.keys}, "revision was 10 and is now 9"},
		{"an object that should have been seen", known, history{cluster: 0xabc, revision: 12, keys: map[string]int64{"backend/z": 10}}, "backend/z"},
		{"an object last changed at another revision", known, history{cluster: 0xabc, revision: 12, keys: map[string]int64{"backend/a": 5}}, "backend/a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.old.breaks(test.next)
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestWithAndWithout(t *testing.T) {
	complaint := func(field string) *commonv1.Violation { return &commonv1.Violation{Field: field} }
	object := func(name string) Object {
		return Object{Kind: "backend", Name: name, Message: &routerv1.Backend{Name: name}, Etag: "1"}
	}
	base := Snapshot{
		Objects:    []Object{object("a"), object("c")},
		Violations: []*commonv1.Violation{complaint("backend/b"), complaint("backend/b.servers[0]"), complaint("backend/bb")},
	}
	print := func(s Snapshot) string {
		var words []string
		for _, o := range s.Objects {
			words = append(words, o.Kind+"/"+o.Name+"@"+o.Etag)
		}
		for _, v := range s.Violations {
			words = append(words, "!"+v.Field)
		}
		return strings.Join(words, " ")
	}
	before := print(base)
	for _, test := range []struct {
		name string
		got  Snapshot
		want string
	}{
		{"made", base.With("backend", &routerv1.Backend{Name: "b"}), "backend/a@1 backend/b@ backend/c@1 !backend/bb"},
		{"replaced", base.With("backend", &routerv1.Backend{Name: "c"}), "backend/a@1 backend/c@ !backend/b !backend/b.servers[0] !backend/bb"},
		{"of a later kind", base.With("frontend", &routerv1.Frontend{Name: "a"}), "backend/a@1 backend/c@1 frontend/a@ !backend/b !backend/b.servers[0] !backend/bb"},
		{"without", base.Without("backend", "a"), "backend/c@1 !backend/b !backend/b.servers[0] !backend/bb"},
		{"without what cannot be read", base.Without("backend", "b"), "backend/a@1 backend/c@1 !backend/bb"},
		{"without what is not there", base.Without("cake", "a"), before},
	} {
		if got := print(test.got); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
	if after := print(base); after != before {
		t.Errorf("the original changed to %s", after)
	}
}

func TestEncodeIsStable(t *testing.T) {
	b := &routerv1.Backend{Name: "webservers", Servers: []*routerv1.Server{{Name: "s1", Address: "172.16.0.99:80", Weight: proto.Uint32(0)}}}
	const want = `{"name":"webservers","servers":[{"name":"s1","address":"172.16.0.99:80","weight":0}]}`
	got, err := encode(b)
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	back, err := decode(Kind{New: func() proto.Message { return new(routerv1.Backend) }}, got)
	if err != nil || !proto.Equal(back, b) {
		t.Errorf("read back: %v, %v", back, err)
	}
}
