package relay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/media"
	"github.com/twotier/twotier/services/forum-backend/internal/relay"
)

// pair is an upload origin and a server that passes uploads on to it.
type pair struct {
	originPath, replicaPath string
	origin, replica         *relay.Files
	server                  *httptest.Server
	handler                 http.Handler
	seen                    []*http.Request // that reached the origin
}

const limit = 1 << 20

func newPair(t *testing.T, originKey, replicaKey string) *pair {
	t.Helper()
	p := &pair{originPath: t.TempDir(), replicaPath: t.TempDir()}
	disk := func(path string, writing bool) *media.Folder {
		f, err := media.Open(path, writing)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	originDisk := disk(p.originPath, true)
	p.handler = relay.NewHandler(originDisk, []byte(originKey), limit, zaptest.NewLogger(t))
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.seen = append(p.seen, r)
		p.handler.ServeHTTP(w, r)
	}))
	t.Cleanup(p.server.Close)
	p.origin = relay.New(originDisk, []byte(originKey), "")
	p.replica = relay.New(disk(p.replicaPath, false), []byte(replicaKey), p.server.Listener.Addr().String())
	t.Cleanup(p.replica.Close)
	return p
}

func read(t *testing.T, f *relay.Files, file forum.File) ([]byte, relay.Source, error) {
	t.Helper()
	o, err := f.Open(t.Context(), file)
	if err != nil {
		return nil, "", err
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	return b, o.Source, err
}

func TestUploadIsPassedOnAndReadBack(t *testing.T) {
	t.Parallel()
	p := newPair(t, "key", "key")
	if err := p.replica.Available(t.Context()); err != nil {
		t.Errorf("available: %v", err)
	}
	for _, size := range []int{0, 1, 5000, limit} {
		content := bytes.Repeat([]byte("\x89PNG\r\n\x1a\n衡"), size/11+1)[:size]
		file, err := p.replica.Save(t.Context(), bytes.NewReader(content), limit)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if file.Size != int64(size) || file.SHA256 != sha256.Sum256(content) {
			t.Errorf("%d bytes: got %+v", size, file)
		}
		for name, c := range map[string]struct {
			files *relay.Files
			want  relay.Source
		}{"origin": {p.origin, relay.Local}, "replica": {p.replica, relay.Origin}} {
			if got, source, err := read(t, c.files, file); err != nil || source != c.want || !bytes.Equal(got, content) {
				t.Errorf("%d bytes read on the %s: got %d bytes from %s, %v", size, name, len(got), source, err)
			}
		}
		// The file sync brings it.
		copyFile(t, filepath.Join(p.originPath, file.Path), filepath.Join(p.replicaPath, file.Path))
		if got, source, err := read(t, p.replica, file); err != nil || source != relay.Local || !bytes.Equal(got, content) {
			t.Errorf("%d bytes read after the sync: got %d bytes from %s, %v", size, len(got), source, err)
		}
		if err := p.replica.Remove(t.Context(), file.Path); err != nil {
			t.Errorf("remove: %v", err)
		}
		if _, _, err := read(t, p.origin, file); !errors.Is(err, forum.ErrNotFound) {
			t.Errorf("removed: got %v, want ErrNotFound", err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTamperedFileIsNotGivenOut(t *testing.T) {
	t.Parallel()
	p := newPair(t, "key", "key")
	file, err := p.origin.Save(t.Context(), strings.NewReader(strings.Repeat("x", 700_000)), limit)
	if err != nil {
		t.Fatal(err)
	}
	there, here := filepath.Join(p.originPath, file.Path), filepath.Join(p.replicaPath, file.Path)
	copyFile(t, there, here)
	if err := os.WriteFile(here, []byte("short and wrong"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, source, err := read(t, p.replica, file); err != nil || source != relay.Origin || len(got) != 700_000 {
		t.Errorf("wrong here, right at the origin: got %d bytes from %q, %v", len(got), source, err)
	}
	if err := os.WriteFile(there, append(bytes.Repeat([]byte("x"), 699_999), 'y'), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*relay.Files{"origin": p.origin, "replica": p.replica} {
		if got, _, err := read(t, f, file); !errors.Is(err, forum.ErrTampered) || len(got) >= 700_000 {
			t.Errorf("wrong everywhere, read on the %s: got %d bytes, %v, want ErrTampered before the end", name, len(got), err)
		}
	}
}

func TestOriginAway(t *testing.T) {
	t.Parallel()
	p := newPair(t, "key", "key")
	file, err := p.origin.Save(t.Context(), strings.NewReader("x"), limit)
	if err != nil {
		t.Fatal(err)
	}
	p.server.Close()
	if _, err := p.replica.Save(t.Context(), strings.NewReader("x"), limit); !errors.Is(err, forum.ErrUploadsAway) {
		t.Errorf("save: got %v, want ErrUploadsAway", err)
	}
	if _, _, err := read(t, p.replica, file); !errors.Is(err, forum.ErrUploadsAway) {
		t.Errorf("read: got %v, want ErrUploadsAway", err)
	}
	if err := p.replica.Available(t.Context()); !errors.Is(err, forum.ErrUploadsAway) {
		t.Errorf("available: got %v, want ErrUploadsAway", err)
	}
}

func TestBadUploadsLeaveNothing(t *testing.T) {
	t.Parallel()
	broken := errors.New("the browser went away")
	for name, c := range map[string]struct {
		key   string
		from  io.Reader
		limit int64 // here; the origin has its own
		want  error
	}{
		"too large":      {"key", strings.NewReader(strings.Repeat("x", limit+1)), limit, forum.ErrTooLarge},
		"too large here": {"key", strings.NewReader(strings.Repeat("x", 1001)), 1000, forum.ErrTooLarge},
		"broken off":     {"key", io.MultiReader(strings.NewReader(strings.Repeat("x", 50_000)), iotest.ErrReader(broken)), limit, broken},
		"another's key":  {"other", strings.NewReader("x"), limit, forum.ErrUploadsAway},
	} {
		p := newPair(t, "key", c.key)
		_, err := p.replica.Save(t.Context(), c.from, c.limit)
		// A door that is closed looks like one that is not there.
		if !errors.Is(err, c.want) && !(c.key != "key" && errors.Is(err, forum.ErrNotFound)) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		p.server.Close() // waits for the origin to be done
		for _, root := range []string{p.originPath, p.replicaPath} {
			if err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					t.Errorf("%s: left behind %s", name, path)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestStrangersFindNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, "key", "key")
	file, err := p.replica.Save(t.Context(), strings.NewReader("secret"), limit)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(t, p.replica, file); err != nil {
		t.Fatal(err)
	}
	good := p.seen[1].Header.Get("Authorization")
	for name, c := range map[string]struct{ method, path, authorization string }{
		"nothing shown":   {"GET", relay.Prefix + "/" + file.Path, ""},
		"shown again":     {"GET", relay.Prefix + "/" + file.Path, good},
		"another method":  {"DELETE", relay.Prefix + "/" + file.Path, good},
		"another path":    {"GET", relay.Prefix + "/attachment/forum/202601/02/0304050123456789abcdef.png", good},
		"another nonce":   {"GET", relay.Prefix + "/" + file.Path, strings.Replace(good, " ", " 9", 1)},
		"an upload":       {"POST", relay.Prefix, good},
		"nonsense":        {"GET", relay.Prefix, "Twotier-Forum x y z"},
		"too many fields": {"GET", relay.Prefix, good + " x"},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader("x"))
		r.Header.Set("Authorization", c.authorization)
		w := httptest.NewRecorder()
		p.handler.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", name, w.Code)
		}
	}
	if _, _, err := read(t, p.origin, file); err != nil {
		t.Errorf("the file afterwards: %v", err)
	}
}

// A stranger between the servers changes the bytes of an upload, which no header tells about.
func TestUploadChangedOnTheWay(t *testing.T) {
	t.Parallel()
	p := newPair(t, "key", "key")
	inner := p.handler
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		r.Body = io.NopCloser(io.MultiReader(body, strings.NewReader("!")))
		inner.ServeHTTP(w, r)
	})
	if _, err := p.replica.Save(t.Context(), strings.NewReader("x"), limit); !errors.Is(err, forum.ErrUploadsAway) {
		t.Errorf("got %v, want ErrUploadsAway", err)
	}
	if matches, err := filepath.Glob(filepath.Join(p.originPath, "attachment/forum/2*/*/*")); err != nil || len(matches) != 0 {
		t.Errorf("the origin kept %v %v", matches, err)
	}
}
