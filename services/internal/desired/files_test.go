package desired

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

var routerKinds = []Kind{
	{Name: "backend", New: func() proto.Message { return new(routerv1.Backend) }},
	{Name: "frontend", New: func() proto.Message { return new(routerv1.Frontend) }},
}

const goodFile = `# the tutorial's
kind: frontend
name: main
bind: ["*:80"]
default_backend: webservers
timeoutClient: 30s
---
kind: backend
name: webservers
servers:
  - {name: s1, address: 172.16.0.99:80, weight: 2}
---
# nothing more
`

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name string
		text string
		want []string // objects, then "field: description" of what is wrong
	}{
		{"good", goodFile, []string{"frontend/main", "backend/webservers"}},
		{"not YAML", "kind: backend\n\tname: x\n", []string{"f.yaml: line 2: found a tab character that violates indentation"}},
		{"cut off", "kind: backend\nname: x\nservers: [{name: s1", []string{"f.yaml: line 2: did not find expected ',' or '}'"}},
		{"unknown field, with its line", "kind: backend\nname: x\nservers:\n- name: s1\n  colour: red\n", []string{`backend/x.servers[0].colour: f.yaml:5: unknown field "colour"`}},
		{"wrong type", "kind: backend\nname: x\nservers: 7\n", []string{`backend/x.servers: f.yaml:3: unexpected token 7`}},
		{"wrong number", "kind: backend\nname: x\nservers:\n- {name: s1, weight: 1}\n- name: s2 \u00fc\n  address: b:1\n  weight: \"abc\"\n",
			[]string{`backend/x.servers[1].weight: f.yaml:7: invalid value for uint32 field weight: "abc"`}},
		{"wrong duration", "kind: frontend\nbind: [a]\ntimeout_client: fast\nname: x\n",
			[]string{`frontend/x.timeout_client: f.yaml:3: invalid google.protobuf.Duration value "fast"`}},
		{"wrong by an anchor", "kind: frontend\nname: x\nbind: &a 7\nrules: *a\n", []string{`frontend/x.bind: f.yaml:3: unexpected token 7`}},
		{"unknown kind", "kind: backend\nname: x\n---\nkind: cake\n", []string{"backend/x", `f.yaml:4: kind: want one of backend, frontend, got "cake"`}},
		{"no kind", "name: x\n", []string{`f.yaml:1: kind: want one of backend, frontend, got ""`}},
		{"no name", "kind: backend\n", []string{"f.yaml:1: backend: want a name"}},
		{"twice", "kind: backend\nname: x\n---\nkind: backend\nname: x\n", []string{"backend/x", "backend/x: f.yaml:4: there is another of this name"}},
		{"a list", "- kind: backend\n", []string{"f.yaml:1: want a document of fields, the first of them kind"}},
		{"a key twice", "kind: backend\nname: x\nname: y\n", []string{`f.yaml:1: unmarshal errors:   line 3: mapping key "name" already defined at line 2`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d documents
			d.parse("f.yaml", []byte(test.text), routerKinds)
			var got []string
			for _, o := range d.objects {
				got = append(got, key(o.Kind, o.Name))
			}
			for _, v := range d.violations {
				got = append(got, v.Field+": "+v.Description)
			}
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("%s\ngot\n%s\nwant\n%s", test.text, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte("a: &a [*a, *a]\nkind: backend"))
	f.Add([]byte("? [1]\n: 2\n---\n{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var d documents
		d.parse("f.yaml", text, routerKinds)
		for _, o := range d.objects {
			if NameOf(o.Message) != o.Name {
				t.Errorf("object %s has the name %s", o.Name, NameOf(o.Message))
			}
		}
	})
}

// watchFiles is a store that reads from path, in the time of synctest.
func watchFiles(t *testing.T, path, stateDir string) *Store {
	t.Helper()
	s, err := Open(Config{Service: "l7-router", Kinds: routerKinds, Path: path, StateDir: stateDir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func printed(s *Store) string {
	snapshot, ok := s.Newest()
	if !ok {
		return "nothing yet"
	}
	words := []string{fmt.Sprintf("%s@%d", strings.TrimPrefix(snapshot.Origin.String(), "ORIGIN_"), snapshot.Revision)}
	for _, o := range snapshot.Objects {
		words = append(words, key(o.Kind, o.Name))
	}
	for _, v := range snapshot.Violations {
		words = append(words, "!"+filepath.Base(v.Field))
	}
	if !s.Describe(0, nil).SourceAvailable {
		words = append(words, "away")
	}
	return strings.Join(words, " ")
}

func expect(t *testing.T, s *Store, want string) {
	t.Helper()
	synctest.Wait()
	if got := printed(s); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "desired.yaml")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, "kind: backend\nname: a\n")
		s := watchFiles(t, path, "")
		expect(t, s, "FILE@1 backend/a")

		write(t, path, "kind: backend\nname: a\n---\nkind: backend\nname: bcd\n")
		time.Sleep(FilePoll + time.Millisecond) // in the time of synctest
		expect(t, s, "FILE@1 backend/a")        // it may still be being written
		time.Sleep(FilePoll)                    // in the time of synctest
		expect(t, s, "FILE@2 backend/a backend/bcd")

		write(t, path, "")       // what an editor or a full disk leaves for a moment, or for good
		time.Sleep(3 * FilePoll) // in the time of synctest
		expect(t, s, "FILE@3 !desired.yaml")
		write(t, path, "{}\n")
		time.Sleep(3 * FilePoll) // in the time of synctest
		expect(t, s, "FILE@4")

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * FilePoll) // in the time of synctest
		expect(t, s, "FILE@5 !desired.yaml away")

		var readOnly *ReadOnlyError
		if _, err := s.Put(t.Context(), "backend", &routerv1.Backend{Name: "a"}, ""); !errors.As(err, &readOnly) || readOnly.Path != path {
			t.Errorf("Put: %v, want ReadOnlyError", err)
		}
		if err := s.Delete(t.Context(), "backend", "a", ""); !errors.As(err, &readOnly) {
			t.Errorf("Delete: %v, want ReadOnlyError", err)
		}
	})
}

// A ConfigMap is a folder of links through the link ..data, which is replaced as a whole.
func TestFolderThatIsSwappedThroughALink(t *testing.T) {
	dir := t.TempDir()
	for version, text := range map[string]string{"v1": "kind: backend\nname: a\n", "v2": "kind: backend\nname: b\n"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "desired.yaml"), text)
		write(t, filepath.Join(dir, version, "notes.txt"), "not ours")
	}
	link := func(target, name string) {
		t.Helper()
		temporary := filepath.Join(dir, "temporary")
		if err := os.Symlink(target, temporary); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "..data")
	link("..data/desired.yaml", "desired.yaml")
	synctest.Test(t, func(t *testing.T) {
		s := watchFiles(t, dir, "")
		expect(t, s, "FILE@1 backend/a")
		link("v2", "..data")
		time.Sleep(3 * FilePoll) // in the time of synctest
		expect(t, s, "FILE@2 backend/b")
	})
}

func TestBrokenFileAtStartLeavesTheLastGoodCopy(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, "kind: backend\nname: a\n")
	synctest.Test(t, func(t *testing.T) {
		s := watchFiles(t, dir, state)
		snapshot, _ := s.Snapshot()
		if err := s.Accept(snapshot); err != nil {
			t.Fatal(err)
		}
	})
	write(t, path, "kind: [")
	synctest.Test(t, func(t *testing.T) {
		s := watchFiles(t, dir, state)
		newest, ok := s.Snapshot()
		if !ok || len(newest.Violations) != 1 {
			t.Errorf("first: %v %v, want what is wrong", newest, ok)
		}
		s.Describe(0, newest.Violations) // the loop reports
		good, ok := s.Snapshot()
		if !ok || good.Origin != commonv1.Origin_ORIGIN_LAST_GOOD || len(good.Objects) != 1 {
			t.Errorf("then: %v %v, want the copy", good, ok)
		}
		expect(t, s, "FILE@2 !a.yaml")
	})
	// The copy of a file says nothing about an etcd.
	s, err := Open(Config{Service: "l7-router", Kinds: routerKinds, Etcd: []string{"http://127.0.0.1:1"}, StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	if snapshot, ok := s.Snapshot(); ok {
		t.Errorf("a file's copy served for etcd: %v", snapshot)
	}
	if err := s.source.close(); err != nil {
		t.Error(err)
	}
}

func TestSourceIsOneOrTheOther(t *testing.T) {
	for _, cfg := range []Config{{}, {Etcd: []string{"http://127.0.0.1:1"}, Path: "x"}} {
		if s, err := Open(cfg); err == nil {
			t.Errorf("%+v: opened %v", cfg, s)
		}
	}
}
