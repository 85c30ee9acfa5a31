package transfer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/file-sync/internal/plan"
	"github.com/twotier/twotier/services/file-sync/internal/spec"
	"github.com/twotier/twotier/services/file-sync/internal/transfer"
	"github.com/twotier/twotier/services/file-sync/internal/tree"
	"github.com/twotier/twotier/services/file-sync/internal/watch"
	"github.com/twotier/twotier/services/file-sync/internal/writer"
)

// targetProcess is set in the process that TestMain turns into a target, so that a test can kill one.
const targetProcess = "FILE_SYNC_TEST_TARGET"

func TestMain(m *testing.M) {
	if at := os.Getenv(targetProcess); at != "" {
		folder, address, _ := strings.Cut(at, "@")
		r := &rig{target: folder, address: netip.MustParseAddrPort(address)}
		t, err := transfer.NewTarget(context.Background(), r.targetConfig())
		if err == nil {
			err = t.Run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) issue(t testing.TB, node string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: node}, DNSNames: []string{node},
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

// rig is a pair over loopback, with real folders.
type rig struct {
	t              testing.TB
	source, target string
	address        netip.AddrPort
	allow          []netip.Prefix
	clientTLS      *tls.Config
	serverTLS      *tls.Config
	watch          watch.Config
	verify         time.Duration

	src *transfer.Source
	tgt *transfer.Target
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, source: filepath.Join(dir, "data"), target: filepath.Join(dir, "web"), address: freeAddress(t), verify: time.Hour}
	if err := os.Mkdir(r.source, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	r.clientTLS, r.serverTLS = ca.issue(t, "server2"), ca.issue(t, "server1")
	return r
}

// freeAddress is a port that nobody listens on, outside the range from which the kernel takes ports for connections.
func freeAddress(t testing.TB) netip.AddrPort {
	t.Helper()
	for {
		address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(20000+mathrand.IntN(12000)))
		if l, err := net.Listen("tcp", address.String()); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return address
		}
	}
}

func (r *rig) pair() spec.Pair {
	return spec.Pair{
		Name: "web", Source: spec.End{Node: "server2", Path: r.source}, Target: spec.End{Node: "server1", Path: r.target},
		Address: r.address, Allow: r.allow, Verify: r.verify,
	}
}

type target struct{ *writer.Writer }

func (t target) Create(e tree.Entry) (transfer.Incoming, error) {
	f, err := t.Writer.Create(e)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (r *rig) targetConfig() transfer.TargetConfig {
	return transfer.TargetConfig{
		Pair: r.pair(), TLS: r.serverTLS, Changed: func() {}, Brake: tree.Brake{MinEntries: 100},
		Open: func(path string) (transfer.Folder, error) {
			w, err := writer.Open(path, writer.Config{Owners: writer.MayChown()})
			if err != nil {
				return nil, err
			}
			return target{w}, nil
		},
	}
}

// runTarget runs a target until the returned function is called, or the test ends.
func (r *rig) runTarget() (stop func()) {
	r.t.Helper()
	tgt, err := transfer.NewTarget(context.Background(), r.targetConfig())
	if err != nil {
		r.t.Fatal(err)
	}
	r.tgt = tgt
	return r.background(tgt.Run)
}

func (r *rig) runSource() (stop func()) {
	r.t.Helper()
	src, err := transfer.NewSource(transfer.SourceConfig{
		Pair: r.pair(), TLS: r.clientTLS, Changed: func() {},
		Open: func(path string) (transfer.Watched, error) { return watch.Open(path, r.watch) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.src = src
	return r.background(src.Run)
}

func (r *rig) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = run(ctx) // the end of the context
	}()
	stop = func() {
		cancel()
		<-done
	}
	r.t.Cleanup(stop)
	return stop
}

// start runs both sides and waits until they are equal.
func (r *rig) start() {
	r.t.Helper()
	r.runTarget()
	r.runSource()
	r.equal()
}

// eventually waits for a condition.
func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			var states []string
			if r.src != nil {
				states = append(states, fmt.Sprintf("source: %+v", r.src.State()))
			}
			if r.tgt != nil {
				states = append(states, fmt.Sprintf("target: %+v", r.tgt.State()))
			}
			r.t.Fatalf("waited in vain: %s\n%s\ndifferences:\n%s", what, strings.Join(states, "\n"), r.differences())
		}
	}
}

// equal waits until both folders are equal in every respect and both sides say so.
func (r *rig) equal() {
	r.t.Helper()
	r.eventually("the folders are equal and in sync", func() bool {
		return r.src.State().InSync && (r.tgt == nil || r.tgt.State().InSync) && r.differences() == ""
	})
}

func (r *rig) differences() string {
	a, b := describe(r.source), describe(r.target)
	var out strings.Builder
	for path, is := range a {
		if b[path] != is {
			fmt.Fprintf(&out, "%q: source %s, target %s\n", path, is, b[path])
		}
	}
	for path, is := range b {
		if _, ok := a[path]; !ok {
			fmt.Fprintf(&out, "%q: only in the target: %s\n", path, is)
		}
	}
	return out.String()
}

// describe is a folder in words: for each path what it is, mode, owner, time of change, and content.
func describe(root string) map[string]string {
	all := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%d bytes, %.40q", len(b), b)
			if len(b) > 40 {
				content += fmt.Sprintf(" %x", sum(b))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		mode := info.Mode() &^ (fs.ModeSetuid | fs.ModeSetgid) // these do not travel
		all[strings.TrimPrefix(path, root)] = fmt.Sprintf("%v %d:%d %d %s", mode, st.Uid, st.Gid, info.ModTime().UnixNano(), content)
		return nil
	})
	if err != nil {
		all["error"] = err.Error()
	}
	return all
}

func sum(b []byte) (h uint64) { // FNV-1a
	h = 14695981039346656037
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func (r *rig) in(parts ...string) string {
	return filepath.Join(append([]string{r.source}, parts...)...)
}

func (r *rig) write(path, content string) {
	r.t.Helper()
	r.must(os.WriteFile(r.in(path), []byte(content), 0o644))
}

func (r *rig) mkdir(path string) {
	r.t.Helper()
	r.must(os.MkdirAll(r.in(path), 0o755))
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// fill makes a folder with more members than the brake lets go.
func (r *rig) fill() {
	r.t.Helper()
	for i := range 120 {
		r.mkdir(fmt.Sprintf("d%d", i/20))
		r.write(fmt.Sprintf("d%d/f%d", i/20, i), fmt.Sprint(i))
	}
}

func TestFirstCopy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mkdir("a/b/c")
	r.write("a/b/c/file", "content")
	r.write("empty", "")
	r.write("not\xff UTF-8\n", "bytes")
	r.must(os.Symlink("/etc/passwd", r.in("link")))
	r.must(os.Symlink("gone", r.in("dangling")))
	r.must(os.Link(r.in("empty"), r.in("second name")))
	r.must(os.WriteFile(r.in("suid"), []byte("x"), 0o755))
	r.must(os.Chmod(r.in("suid"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	r.must(os.Chmod(r.in("a/b"), 0o1777|fs.ModeSticky))
	r.must(os.Chtimes(r.in("a/b/c"), time.Time{}, time.Unix(1, 123456789)))
	r.must(syscall.Mkfifo(r.in("pipe"), 0o644))
	if os.Geteuid() == 0 {
		r.must(os.Lchown(r.in("empty"), 33, 34))
		r.must(os.Lchown(r.in("link"), 33, 34))
	}
	// What the target has already: something to delete, something of another type, something changed by hand.
	r.must(os.MkdirAll(filepath.Join(r.target, "a", "b", "extra", "deep"), 0o700))
	r.must(os.MkdirAll(filepath.Join(r.target, "empty"), 0o700))
	r.must(os.WriteFile(filepath.Join(r.target, "a", "b", "c"), []byte("file in place of a directory"), 0o600))
	r.must(os.WriteFile(filepath.Join(r.target, tree.TempPrefix+"left"), []byte("half"), 0o600))
	r.runTarget()
	r.runSource()
	r.eventually("all but the pipe is equal", func() bool {
		return r.src.State().InSync && strings.HasPrefix(r.differences(), `"/pipe": source p`) && strings.Count(r.differences(), "\n") == 1
	})
	info, err := os.Stat(filepath.Join(r.target, "suid"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("a setuid file arrives as %v, %v; want -rwxr-xr-x", info.Mode(), err)
	}
	if st := r.src.State(); st.Skipped != 1 || st.Files != 5 {
		t.Errorf("state %+v, want 1 skipped and 5 files", st)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		before func(r *rig)
		change func(r *rig)
	}{
		{"touch", nil, func(r *rig) { r.write("new", "") }},
		{"write", nil, func(r *rig) { r.write("new", "some words") }},
		{"append", func(r *rig) { r.write("log", "one\n") }, func(r *rig) {
			f, err := os.OpenFile(r.in("log"), os.O_APPEND|os.O_WRONLY, 0)
			r.must(err)
			_, err = f.WriteString("two\n")
			r.must(err)
			r.must(f.Close())
		}},
		{"written and not closed", nil, func(r *rig) {
			f, err := os.Create(r.in("open"))
			r.must(err)
			r.t.Cleanup(func() { _ = f.Close() })
			_, err = f.WriteString("half a line")
			r.must(err)
		}},
		{"truncate", func(r *rig) { r.write("f", "long content") }, func(r *rig) { r.must(os.Truncate(r.in("f"), 4)) }},
		{"only the time", func(r *rig) { r.write("f", "x") }, func(r *rig) { r.must(os.Chtimes(r.in("f"), time.Time{}, time.Unix(5, 7))) }},
		{"mode of a file", func(r *rig) { r.write("f", "x") }, func(r *rig) { r.must(os.Chmod(r.in("f"), 0o600)) }},
		{"mode of a directory", func(r *rig) { r.mkdir("d") }, func(r *rig) { r.must(os.Chmod(r.in("d"), 0o711)) }},
		{"mode of the folder", nil, func(r *rig) { r.must(os.Chmod(r.source, 0o750)) }},
		{"mv into the folder", nil, func(r *rig) {
			outside := filepath.Join(r.t.TempDir(), "dir")
			r.must(os.MkdirAll(filepath.Join(outside, "deep"), 0o755))
			r.must(os.WriteFile(filepath.Join(outside, "deep", "f"), []byte("x"), 0o600))
			r.must(os.Rename(outside, r.in("moved")))
		}},
		{"mv of a file", func(r *rig) { r.mkdir("d"); r.write("a", "x") }, func(r *rig) { r.must(os.Rename(r.in("a"), r.in("d/b"))) }},
		{"mv of a tree, then a change in it", func(r *rig) { r.mkdir("a/b/c"); r.write("a/b/c/f", "1") }, func(r *rig) {
			r.must(os.Rename(r.in("a"), r.in("z")))
			r.write("z/b/c/f", "22")
			r.write("z/b/c/g", "3")
		}},
		{"mv of a tree out and in again", func(r *rig) { r.mkdir("a/b"); r.write("a/b/f", "1") }, func(r *rig) {
			outside := filepath.Join(r.t.TempDir(), "a")
			r.must(os.Rename(r.in("a"), outside))
			r.must(os.WriteFile(filepath.Join(outside, "b", "f"), []byte("changed outside"), 0o644))
			r.must(os.Rename(outside, r.in("a")))
		}},
		{"swap of two files", func(r *rig) { r.write("a", "1"); r.write("b", "22") }, func(r *rig) {
			r.must(os.Rename(r.in("a"), r.in("t")))
			r.must(os.Rename(r.in("b"), r.in("a")))
			r.must(os.Rename(r.in("t"), r.in("b")))
		}},
		{"swap of two directories", func(r *rig) { r.mkdir("a/x"); r.write("a/x/1", "1"); r.mkdir("b"); r.write("b/2", "2") }, func(r *rig) {
			r.must(os.Rename(r.in("a"), r.in("t")))
			r.must(os.Rename(r.in("b"), r.in("a")))
			r.must(os.Rename(r.in("t"), r.in("b")))
		}},
		{"mv of a directory, and another in its place", func(r *rig) { r.mkdir("a/x"); r.write("a/x/1", "1"); r.write("a/2", "2") }, func(r *rig) {
			r.must(os.Rename(r.in("a"), r.in("old")))
			r.mkdir("a/y")
			r.write("a/2", "3")
		}},
		{"rm -rf", func(r *rig) { r.mkdir("a/b/c"); r.write("a/b/c/f", "1"); r.write("keep", "") }, func(r *rig) { r.must(os.RemoveAll(r.in("a"))) }},
		{"mkdir -p and a write at once", nil, func(r *rig) { r.mkdir("a/b/c"); r.write("a/b/c/f", "x") }},
		{"symlink", nil, func(r *rig) { r.must(os.Symlink("x", r.in("l"))) }},
		{"symlink points elsewhere", func(r *rig) { r.must(os.Symlink("x", r.in("l"))) }, func(r *rig) {
			r.must(os.Symlink("y", r.in("t")))
			r.must(os.Rename(r.in("t"), r.in("l")))
		}},
		{"directory becomes file", func(r *rig) { r.mkdir("d/e"); r.write("d/e/f", "") }, func(r *rig) {
			r.must(os.RemoveAll(r.in("d")))
			r.write("d", "file")
		}},
		{"file becomes directory", func(r *rig) { r.write("d", "file") }, func(r *rig) {
			r.must(os.Remove(r.in("d")))
			r.mkdir("d/e")
			r.write("d/e/f", "")
		}},
		{"directory becomes symlink to a full one", func(r *rig) { r.mkdir("d"); r.mkdir("e"); r.write("d/f", "1"); r.write("e/f", "2") }, func(r *rig) {
			r.must(os.RemoveAll(r.in("d")))
			r.must(os.Symlink("e", r.in("d")))
		}},
		{"2,000 small files", nil, func(r *rig) {
			r.mkdir("many")
			for i := range 2000 {
				r.write(fmt.Sprintf("many/%d", i), strings.Repeat("x", i%50))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if c.before != nil {
				c.before(r)
			}
			r.start()
			c.change(r)
			r.equal()
		})
	}
}

func TestLargeFileIsByteExact(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	b := make([]byte, 64<<20)
	for i := range b {
		b[i] = byte(i * 2654435761 >> 13)
	}
	r.must(os.WriteFile(r.in("large"), b, 0o644))
	r.equal()
	got, err := os.ReadFile(filepath.Join(r.target, "large"))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes arrived, %v; want the %d that were sent", len(got), err, len(b))
	}
}

// A source may ship any symlink. Nothing that is then said to be beneath it may arrive outside.
func TestSymlinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside := filepath.Join(filepath.Dir(r.target), "outside")
	r.must(os.MkdirAll(outside, 0o755))
	r.must(os.WriteFile(filepath.Join(outside, "victim"), []byte("untouched"), 0o600))
	r.must(os.Symlink(outside, r.in("way")))
	r.start()
	before := describe(outside)
	r.must(os.Remove(r.in("way")))
	r.mkdir("way")
	r.write("way/victim", "overwritten")
	r.equal()
	// The other way round: somebody puts a symlink into the target, in place of a directory.
	r.must(os.RemoveAll(filepath.Join(r.target, "way")))
	r.must(os.Symlink(outside, filepath.Join(r.target, "way")))
	r.write("way/victim", "overwritten again")
	r.must(os.Chmod(r.in("way/victim"), 0o777))
	r.write("way/new", "x")
	r.eventually("the symlink has given way to the directory", func() bool { return r.differences() == "" })
	r.must(os.RemoveAll(filepath.Join(r.target, "way")))
	r.must(os.Symlink(outside, filepath.Join(r.target, "way")))
	r.must(os.RemoveAll(r.in("way")))
	r.equal()
	if after := describe(outside); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("outside the target:\n before %v\n after  %v", before, after)
	}
}

func TestSourceRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill()
	r.runTarget()
	stop := r.runSource()
	r.equal()
	stop()
	r.write("d0/f0", "changed while nobody watched")
	r.must(os.Remove(r.in("d0/f1")))
	r.write("new", "x")
	r.runSource()
	r.equal()
}

func TestTargetAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill()
	stop := r.runTarget()
	r.runSource()
	r.equal()
	stop()
	// More than half goes while the target is away. The watch sees it, so it is an order.
	for i := range 5 {
		r.must(os.RemoveAll(r.in(fmt.Sprintf("d%d", i))))
	}
	r.write("new", "x")
	r.must(os.WriteFile(filepath.Join(r.target, "foreign"), []byte("x"), 0o644))
	r.runTarget()
	r.equal()
}

func TestVerifyRepairsTheTarget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a", "x")
	r.mkdir("d")
	r.verify = 300 * time.Millisecond
	r.start()
	r.must(os.WriteFile(filepath.Join(r.target, "a"), []byte("defaced"), 0o644))
	r.must(os.WriteFile(filepath.Join(r.target, "d", "foreign"), nil, 0o644))
	r.must(os.Chmod(filepath.Join(r.target, "d"), 0o777|fs.ModeSetgid))
	r.equal()
}

func TestSourceFolderMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("a", "x")
	r.start()
	before := fmt.Sprint(describe(r.target))
	r.must(os.Rename(r.source, r.source+".away"))
	r.eventually("the source reports that its folder is gone", func() bool {
		st := r.src.State()
		return !st.InSync && !st.Connected && st.Error != ""
	})
	if after := fmt.Sprint(describe(r.target)); after != before {
		t.Errorf("the target changed:\n before %s\n after  %s", before, after)
	}
	r.must(os.Rename(r.source+".away", r.source))
	r.write("b", "y")
	r.equal()
}

func TestEmptiedSourceIsHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill()
	r.start()
	before := fmt.Sprint(describe(r.target))
	// As after a reboot without the mount: another, empty directory is at the path.
	r.must(os.Rename(r.source, r.source+".away"))
	r.must(os.Mkdir(r.source, 0o755))
	r.write("new", "x")
	r.eventually("both sides say that they are held", func() bool {
		return r.src.State().Held && r.tgt.State().Held && strings.Contains(r.src.State().Error, "held")
	})
	if after := fmt.Sprint(describe(r.target)); after != before {
		t.Errorf("the target changed:\n before %s\n after  %s", before, after)
	}
	r.tgt.Release()
	r.equal()
	if r.src.State().Held || r.tgt.State().Held {
		t.Error("still held after the release")
	}
}

func TestLostEventsAreHealed(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]watch.Config{
		"paths":  {Paths: 3},
		"events": {Events: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.fill()
			r.watch = limits
			r.start()
			r.must(os.RemoveAll(r.in("d1")))
			for i := range 100 {
				r.mkdir(fmt.Sprintf("new%d/sub", i))
				r.write(fmt.Sprintf("new%d/sub/f", i), "x")
			}
			r.equal()
			r.write("new5/sub/later", "still watched")
			r.equal()
		})
	}
}

// A file that changes all the time is sent all the same, and in the end as it is.
func TestBusyFile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	f, err := os.Create(r.in("log"))
	r.must(err)
	defer f.Close()
	line := strings.Repeat("x", 1000) + "\n"
	r.eventually("a prefix arrives while it is written", func() bool {
		_, err := f.WriteString(line)
		r.must(err)
		info, err := os.Stat(filepath.Join(r.target, "log"))
		return err == nil && info.Size() > 0
	})
	r.must(f.Close())
	r.equal()
}

func TestPeersAreRefused(t *testing.T) {
	t.Parallel()
	other := newAuthority(t)
	for name, c := range map[string]struct {
		spoil func(r *rig, ca *authority)
		want  string
	}{
		"address not allowed": {func(r *rig, _ *authority) { r.allow = []netip.Prefix{netip.MustParsePrefix("172.16.0.99/32")} }, "not in target.allow"},
		"another authority":   {func(r *rig, _ *authority) { r.clientTLS.Certificates = other.issue(r.t, "server2").Certificates }, "unknown authority"},
		"another node":        {func(r *rig, ca *authority) { r.clientTLS.Certificates = ca.issue(r.t, "haproxy").Certificates }, "want node server2"},
		"no certificate":      {func(r *rig, _ *authority) { r.clientTLS.Certificates = nil }, "certificate"},
		"no TLS":              {func(r *rig, _ *authority) { r.clientTLS = nil }, "TLS handshake"},
		"TLS 1.2":             {func(r *rig, _ *authority) { r.serverTLS.MaxVersion = tls.VersionTLS12 }, "TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			ca := newAuthority(t)
			r.clientTLS, r.serverTLS = ca.issue(t, "server2"), ca.issue(t, "server1")
			r.write("a", "secret")
			c.spoil(r, ca)
			r.runTarget()
			r.runSource()
			r.eventually("the target refuses: "+c.want, func() bool {
				st := r.tgt.State()
				return st.Refused > 0 && strings.Contains(st.Error, c.want)
			})
			if st := r.src.State(); st.InSync || st.Files > 0 {
				t.Errorf("source state %+v", st)
			}
			if entries, err := os.ReadDir(r.target); err != nil || len(entries) > 0 {
				t.Errorf("in the target: %v, %v", entries, err)
			}
		})
	}
	t.Run("the target is another node", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		ca := newAuthority(t)
		r.clientTLS, r.serverTLS = ca.issue(t, "server2"), ca.issue(t, "haproxy")
		r.write("a", "secret")
		r.runTarget()
		r.runSource()
		r.eventually("the source refuses", func() bool { return strings.Contains(r.src.State().Error, "server1") })
		if st := r.src.State(); st.Connected || st.Files > 0 {
			t.Errorf("source state %+v", st)
		}
	})
	t.Run("no certificates over a network", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		r.address = netip.MustParseAddrPort("172.16.0.88:8730")
		config := r.targetConfig()
		config.TLS = nil
		if _, err := transfer.NewTarget(t.Context(), config); err == nil {
			t.Error("a target listens without certificates")
		}
		if _, err := transfer.NewSource(transfer.SourceConfig{Pair: r.pair()}); err == nil {
			t.Error("a source connects without certificates")
		}
	})
}

// A target that is killed while a file arrives leaves nothing under the file's name, and what it leaves is removed.
func TestTargetKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.clientTLS, r.serverTLS = nil, nil // the other process has no certificates; loopback may do without
	r.mkdir("d")
	const size = 32 << 20
	run := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s@%s", targetProcess, r.target, r.address))
		cmd.Stderr = os.Stderr
		r.must(cmd.Start())
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill() // it may have been killed already
		_ = cmd.Wait()
	}
	cmd := run()
	defer func() { kill(cmd) }()
	r.runSource()
	r.equal()
	caught := 0
	for i := range 4 {
		name := fmt.Sprintf("d/large%d", i)
		// Made elsewhere and moved in: a file that is still being written at the source may well arrive as it is then.
		made := filepath.Join(filepath.Dir(r.source), "made")
		r.must(os.WriteFile(made, bytes.Repeat([]byte{byte(i + 1)}, size), 0o644))
		r.must(os.Rename(made, r.in(name)))
		r.eventually("the file begins to arrive", func() bool { return temps(r.target) > 0 || exists(filepath.Join(r.target, name)) })
		kill(cmd)
		caught += temps(r.target)
		if info, err := os.Stat(filepath.Join(r.target, name)); err == nil && info.Size() != size {
			t.Fatalf("a partial file is visible: %d bytes", info.Size())
		}
		cmd = run()
		r.equal()
		if n := temps(r.target); n != 0 {
			t.Errorf("%d half-written files are left", n)
		}
	}
	if caught == 0 {
		t.Error("no kill came while a file arrived; the test shows nothing")
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func temps(root string) (n int) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), tree.TempPrefix) {
			n++
		}
		return nil
	})
	return n
}

func TestStateNamesItsSide(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	if s, g := r.src.State().Side, r.tgt.State().Side; s.Role != plan.Source || g.Role != plan.Target || s.Pair.Name != "web" {
		t.Errorf("sides %v, %v", s, g)
	}
}
