package transfer

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

func samples() map[string]message {
	file := tree.Entry{Path: "a/\xff\nb", Type: tree.File, Size: 1 << 40, Mtime: -1, Mode: 0o1777, UID: 33, GID: 1<<32 - 2}
	return map[string]message{
		"hello":    hello{version: Version, pair: "web", node: "server2"},
		"welcome":  welcome{},
		"refuse":   refuse{why: "no such pair"},
		"entries":  entries{[]tree.Entry{{Path: tree.Root, Type: tree.Dir, Mode: 0o755}, file, {Path: "l", Type: tree.Symlink, Target: "/etc"}}},
		"listed":   listed{watched: true},
		"need":     need{[]string{"a", "b/c"}},
		"compared": compared{deletes: 5},
		"held":     held{deletes: 5, total: 6},
		"released": released{},
		"put gone": put{seq: 1, entry: tree.Gone("a")},
		"put dir":  put{seq: 1 << 40, entry: tree.Entry{Path: "d", Type: tree.Dir, Mode: 0o700}, final: true},
		"file":     fileBegin{seq: 7, entry: file},
		"content":  content{[]byte("some bytes")},
		"fileEnd":  fileEnd{good: true, sum: [32]byte{1, 2, 3}},
		"ack":      ack{seq: 7, result: resultError, text: "no space left on device"},
		"finish":   finish{seq: 9},
		"ping":     ping{waiting: 300},
		"pong":     pong{},
	}
}

func TestMessagesComeBackEqual(t *testing.T) {
	t.Parallel()
	var stream []byte
	var want []message
	for _, m := range samples() {
		stream = appendMessage(stream, m)
		want = append(want, m)
	}
	r := bytes.NewReader(stream)
	for _, w := range want {
		got, err := readMessage(r)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("got %#v, %v; want %#v", got, err, w)
		}
	}
	if _, err := readMessage(r); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestReadMessageRefuses(t *testing.T) {
	t.Parallel()
	frame := func(k kind, payload string) []byte {
		return append([]byte{byte(k), 0, 0, byte(len(payload) >> 8), byte(len(payload))}, payload...)
	}
	bad := func(e tree.Entry) []byte { return appendMessage(nil, put{seq: 1, entry: e}) }
	for name, in := range map[string][]byte{
		"unknown kind":           frame(99, ""),
		"too long":               {byte(kindContent), 0xff, 0xff, 0xff, 0xff},
		"left over":              frame(kindWelcome, "x"),
		"no content":             frame(kindContent, ""),
		"wrong magic":            frame(kindHello, "GET / HTTP/1.1"),
		"long form of a number":  frame(kindFinish, "\x80\x00"),
		"length beyond the end":  frame(kindNeed, "\x05ab"),
		"bool that is 2":         frame(kindListed, "\x02"),
		"path that climbs":       appendMessage(nil, need{[]string{"../etc/passwd"}}),
		"absolute path":          bad(tree.Gone("/etc/passwd")),
		"deletes the root":       bad(tree.Gone(tree.Root)),
		"setuid":                 bad(tree.Entry{Path: "a", Type: tree.File, Mode: 0o4755}),
		"owner that means leave": bad(tree.Entry{Path: "a", Type: tree.File, UID: 1<<32 - 1}),
		"name of ours":           bad(tree.Gone(tree.TempPrefix + "x")),
		"symlink with a zero":    bad(tree.Entry{Path: "a", Type: tree.Symlink, Target: "a\x00b"}),
		"file that is none":      appendMessage(nil, fileBegin{seq: 1, entry: tree.Entry{Path: "d", Type: tree.Dir}}),
		"too much text":          appendMessage(nil, refuse{strings.Repeat("x", maxText+1)}),
	} {
		if m, err := readMessage(bytes.NewReader(in)); !errors.Is(err, errMalformed) {
			t.Errorf("%s: got %#v, %v; want malformed", name, m, err)
		}
	}
	if _, err := readMessage(bytes.NewReader(frame(kindContent, "abc")[:6])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
}

// What can be decoded has one form only: written again, it is the same bytes.
func FuzzReadMessage(f *testing.F) {
	for _, m := range samples() {
		f.Add(appendMessage(nil, m))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := readMessage(bytes.NewReader(in))
		if err != nil {
			return
		}
		if out := appendMessage(nil, m); !bytes.Equal(out, in[:len(out)]) {
			t.Errorf("%x decodes to %#v, which is %x", in, m, out)
		}
	})
}
