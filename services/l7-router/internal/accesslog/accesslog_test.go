package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

const ms = int64(time.Millisecond)

var clock = time.Date(2009, 2, 6, 12, 14, 14, 0, time.UTC)

func entry() *Entry {
	e := &Entry{}
	e.Record = stats.Record{
		Begun: 655 * ms, Head: 665 * ms, Assigned: 665 * ms, Connected: 695 * ms, Responded: 764 * ms, Status: 200, BytesOut: 2750, BytesIn: 80,
		Cause: stats.CauseNone, Phase: stats.PhaseNone, CookieIn: '-', CookieOut: '-',
	}
	e.End = 764 * ms
	e.Client, e.Port, e.Frontend, e.Backend, e.Server, e.Choice = "10.0.1.2", 33317, "http-in", "static", "srv1", "cookie"
	e.FrontendConns, e.BackendConns, e.ServerConns = 1, 1, 1
	e.SetStart([]byte("GET"), []byte("/index.html?secret=1"), 1, false)
	return e
}

// TestHTTPLog compares with the examples of HAProxy's manual, section 8.2.3, and with what 8.5 and 8.6 say.
func TestHTTPLog(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		edit func(*Entry)
		want string
	}{
		{"manual", func(*Entry) {}, `10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "GET /index.html?secret=1 HTTP/1.1"`},
		{"no server", func(e *Entry) {
			e.Server, e.Assigned, e.Connected, e.Responded, e.Status = "", 0, 0, 0, 503
			e.Record.End(stats.CauseServer, stats.PhaseConnect)
		}, `10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/<NOSRV> 10/-1/-1/-1/109 503 2750 - - SC-- 1/1/1/1/0 0/0 "GET /index.html?secret=1 HTTP/1.1"`},
		{"bad request", func(e *Entry) {
			e.Reset()
			e.Backend, e.Server, e.Head, e.Assigned, e.Connected, e.Responded, e.Status = "", "", 0, 0, 0, 0, 400
			e.Record.End(stats.CauseProxy, stats.PhaseRequest)
		}, `10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in http-in/<NOSRV> -1/-1/-1/-1/109 400 2750 - - PR-- 1/1/1/1/0 0/0 "<BADREQ>"`},
		{"gone", func(e *Entry) {
			e.Responded, e.Status = 0, 0
			e.Record.End(stats.CauseClient, stats.PhaseHeaders)
		}, `10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/srv1 10/0/30/-1/109 -1 2750 - - CH-- 1/1/1/1/0 0/0 "GET /index.html?secret=1 HTTP/1.1"`},
		{"redispatched, TLS", func(e *Entry) { e.Retries, e.Redispatched, e.CookieIn, e.CookieOut, e.TLS = 1, true, 'D', 'I', true },
			`10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in~ static/srv1 10/0/30/69/109 200 2750 - - --DI 1/1/1/1/+1 0/0 "GET /index.html?secret=1 HTTP/1.1"`},
		{"odd bytes", func(e *Entry) { e.SetStart([]byte("GET"), []byte("/\"\n{é|}#"), 0, false) },
			`10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "GET /#22#0A#7B#C3#A9#7C#7D#23 HTTP/1.0"`},
		{"hidden query", func(e *Entry) { e.SetStart([]byte("GET"), []byte("/a?secret"), 1, true) },
			`10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "GET /a HTTP/1.1"`},
	}
	for _, test := range tests {
		e := entry()
		test.edit(e)
		if got := string(e.appendHTTPLog(nil, clock, 1)); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, got, test.want)
		}
	}
	e := entry()
	e.SetStart([]byte("GET"), bytes.Repeat([]byte("x"), 3*MaxLine), 1, false)
	if got := len(e.Line()); got != MaxLine {
		t.Errorf("a long line has %d bytes, want %d", got, MaxLine)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	e := entry()
	e.Rule = 3
	want := `{"time":"2009-02-06T12:14:14.655000Z","client":"10.0.1.2","port":33317,"frontend":"http-in","rule":3,"backend":"static","server":"srv1","choice":"cookie",` +
		`"method":"GET","target":"/index.html?secret=1","protocol":"HTTP/1.1","status":200,"bytes_in":80,"bytes_out":2750,` +
		`"request_ms":10,"queue_ms":0,"connect_ms":30,"response_ms":69,"total_ms":109,"ended":"----"}`
	if got := string(e.appendJSON(nil, clock)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	e.SetStart([]byte("G\"T"), []byte("/\xff\x00\n"), 1, false)
	if text := e.appendJSON(nil, clock); !json.Valid(text) || bytes.ContainsAny(text, "\n\x00") {
		t.Errorf("odd bytes: %q", text)
	}
}

// run runs the logs until the test or stop ends them.
func run(t *testing.T) (l *Logs, stop func()) {
	t.Helper()
	l = New(zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = l.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return l, stop
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func lines(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

// TestFile: what is put is written, also after the file was moved away, and what is left at the end is written too.
func TestFile(t *testing.T) {
	t.Parallel()
	l, stop := run(t)
	file := filepath.Join(t.TempDir(), "log")
	log := l.Want(spec.AccessLog{Kind: spec.LogFile, Target: file, Sample: 1})
	log.Put(0, entry())
	until(t, "the first line", func() bool { return lines(t, file) == 1 })
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	put := 0
	until(t, "a line in the new file", func() bool { log.Put(put, entry()); put++; return lines(t, file) > 0 })
	for range 100 {
		log.Put(put, entry())
		put++
	}
	stop()
	if got := lines(t, file) + lines(t, file+".1"); got != put+1 || l.Dropped() != 0 {
		t.Errorf("%d lines of %d, %d dropped", got, put+1, l.Dropped())
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("%v %v: others may read it", info.Mode(), err)
	}
}

// TestLinkIsNotFollowed: a log is not written to where somebody else has pointed it.
func TestLinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	l, stop := run(t)
	folder := t.TempDir()
	victim, link := filepath.Join(folder, "victim"), filepath.Join(folder, "log")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	l.Want(spec.AccessLog{Kind: spec.LogFile, Target: link}).Put(0, entry())
	stop()
	if _, err := os.Stat(victim); !os.IsNotExist(err) || l.Dropped() != 1 {
		t.Errorf("%v, %d dropped", err, l.Dropped())
	}
}

// TestSyslog: each line is a datagram with a priority.
func TestSyslog(t *testing.T) {
	t.Parallel()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "log.sock")
	unix, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		conn net.PacketConn
		s    spec.AccessLog
		pri  string
	}{
		{udp, spec.AccessLog{Kind: spec.LogUDP, Target: udp.LocalAddr().String(), Sample: 1, Facility: 16}, "<134>"},
		{unix, spec.AccessLog{Kind: spec.LogUnix, Target: socket, Sample: 1, Facility: 3, JSON: true}, "<30>"},
	} {
		defer test.conn.Close()
		l, _ := run(t)
		log := l.Want(test.s)
		for range 3 {
			log.Put(0, entry())
		}
		_ = test.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		for range 3 {
			buffer := make([]byte, 4096)
			n, _, err := test.conn.ReadFrom(buffer)
			text := string(buffer[:n])
			if err != nil || !strings.HasPrefix(text, test.pri) || !strings.Contains(text, fmt.Sprintf(" l7-router[%d]: ", os.Getpid())) || strings.HasSuffix(text, "\n") {
				t.Errorf("%v %q", err, text)
			}
		}
	}
}

// TestDrops: without anybody who writes, requests go on and what is lost is counted.
func TestDrops(t *testing.T) { // not parallel: it counts allocations
	l := New(zap.NewNop())
	file := filepath.Join(t.TempDir(), "log")
	log := l.Want(spec.AccessLog{Kind: spec.LogFile, Target: file})
	e := entry()
	for range ringSize + 7 {
		log.Put(0, e)
	}
	if got := l.Dropped(); got != 7 {
		t.Errorf("%d dropped, want 7", got)
	}
	l.write(time.Now())
	if got := lines(t, file); got != ringSize {
		t.Errorf("%d lines, want %d", got, ringSize)
	}
	if allocs := testing.AllocsPerRun(100, func() { log.Put(1, e) }); allocs != 0 {
		t.Errorf("%v allocations for an entry, want none", allocs)
	}
}

// TestSampling: one in so many, and all that ended badly.
func TestSampling(t *testing.T) {
	t.Parallel()
	l := New(zap.NewNop())
	log := l.Want(spec.AccessLog{Kind: spec.LogStdout, Sample: 10})
	wanted := 0
	for range 100 {
		if log.Wants(entry()) {
			wanted++
		}
	}
	bad := entry()
	bad.Status = 502
	cut := entry()
	cut.Record.End(stats.CauseServer, stats.PhaseData)
	if wanted != 10 || !log.Wants(bad) || !log.Wants(cut) {
		t.Errorf("%d of 100, bad %t, cut %t", wanted, log.Wants(bad), log.Wants(cut))
	}
}

// TestKeep: frontends share a target, and what nobody wants is forgotten later.
func TestKeep(t *testing.T) {
	t.Parallel()
	l := New(zap.NewNop())
	a, b := spec.AccessLog{Kind: spec.LogStdout, Sample: 1}, spec.AccessLog{Kind: spec.LogStdout, Sample: 1, JSON: true}
	first := l.Want(a)
	if l.Want(spec.AccessLog{}) != nil || l.Want(a) != first || l.Want(a) == l.Want(b) || l.Want(a).out != l.Want(b).out {
		t.Error("logs are not shared as they should")
	}
	l.Keep([]spec.AccessLog{a})
	if out := l.outputs["1 "]; out == nil || !out.unused.IsZero() {
		t.Errorf("the target that is still wanted: %+v", l.outputs)
	}
	l.Keep(nil)
	out := l.outputs["1 "]
	if out == nil || out.unused.IsZero() {
		t.Fatal("the target that nobody wants counts as wanted")
	}
	out.unused = out.unused.Add(-2 * keepUnused)
	if left := l.all(); len(left) != 0 || len(l.outputs) != 0 {
		t.Errorf("still there: %v", left)
	}
}

func BenchmarkPut(b *testing.B) {
	l := New(zap.NewNop())
	log := l.Want(spec.AccessLog{Kind: spec.LogStdout, Sample: 1})
	e := entry()
	b.ReportAllocs()
	for b.Loop() {
		log.Put(0, e)
		log.out.rings[0].head.Store(log.out.rings[0].tail.Load())
	}
}
