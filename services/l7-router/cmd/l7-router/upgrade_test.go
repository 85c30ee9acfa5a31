package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/l7-router/internal/handover"
)

// TestMain lets the test's own program be the router: TestUpgrade needs processes.
func TestMain(m *testing.M) {
	if os.Getenv("TWOTIER_TEST_ROUTER") != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is a router in a process of its own.
type process struct {
	*exec.Cmd
	t     *testing.T
	mu    sync.Mutex
	log   bytes.Buffer // guarded by mu
	ended chan error
}

// startRouter starts one on a number of processors, that is, loops.
func startRouter(t *testing.T, processors int, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], args...), t: t, ended: make(chan error, 1)}
	p.Env = append(os.Environ(), "TWOTIER_TEST_ROUTER=1", fmt.Sprintf("GOMAXPROCS=%d", processors))
	p.Stderr = p
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.Wait() }()
	t.Cleanup(func() {
		_ = p.Process.Kill() // it may have ended
		if t.Failed() {
			t.Logf("process %d:\n%s", p.Process.Pid, p.read())
		}
	})
	return p
}

// Write takes what the process logs.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) read() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// await waits until the process has ended well.
func (p *process) await() {
	p.t.Helper()
	select {
	case err := <-p.ended:
		p.ended <- err
		if err != nil {
			p.t.Fatalf("process %d: %v", p.Process.Pid, err)
		}
	case <-time.After(60 * time.Second):
		p.t.Fatalf("process %d does not end", p.Process.Pid)
	}
}

// takesOver waits until the process would hand its sockets over.
func (p *process) takesOver(s *stage) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if pid, err := handover.Who(s.socket); err == nil && pid == p.Process.Pid {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("process %d is not the one that serves", p.Process.Pid)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// stage is where the routers of a test run.
type stage struct {
	clear, secure string // addresses
	socket        string // for the hand-over
	trust         *tls.Config
	args          []string
}

func newStage(t *testing.T, server string, more ...string) *stage {
	t.Helper()
	s := &stage{}
	for _, address := range []*string{&s.clear, &s.secure} {
		l, err := net.Listen("tcp", "127.73.61.22:0")
		if err != nil {
			t.Fatal(err)
		}
		*address = l.Addr().String()
		_ = l.Close()
	}
	ca := certtest.New(t)
	cert, key := ca.Issue(t, "localhost", "")
	text, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	s.trust = &tls.Config{RootCAs: roots, ServerName: "localhost"}
	folder := t.TempDir()
	file := filepath.Join(folder, "desired.yaml")
	yaml := fmt.Sprintf("kind: backend\nname: web\nservers:\n- {name: s1, address: %q}\n---\nkind: frontend\nname: main\nbind: [%q]\nbind_tls: [%q]\ntls: {certificates: [{cert_file: %q, key_file: %q}]}\ndefault_backend: web\n",
		server, s.clear, s.secure, cert, key)
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	s.socket = filepath.Join(folder, "state", "l7-router-upgrade.sock")
	s.args = append([]string{"--desired", file, "--state-dir", filepath.Join(folder, "state"), "--grpc-listen", "unix:" + filepath.Join(folder, "grpc.sock"),
		"--metrics-listen", "unix:" + filepath.Join(folder, "metrics.sock")}, more...)
	return s
}

// dial connects, over TLS if wanted.
func (s *stage) dial(secured bool) (net.Conn, error) {
	if secured {
		return tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", s.secure, s.trust)
	}
	return net.DialTimeout("tcp", s.clear, 20*time.Second)
}

// sentOnce is a body that is not sent again once its sending has begun: a request that is lost shows, whatever the client
// would do about it. One that the client has not begun to send, because its connection takes no new ones, goes by another.
type sentOnce struct {
	io.Reader
	begun atomic.Bool
}

func (s *sentOnce) Read(b []byte) (int, error) {
	s.begun.Store(true)
	return s.Reader.Read(b)
}

func (s *sentOnce) Close() error { return nil }

func (s *sentOnce) again() (io.ReadCloser, error) {
	if s.begun.Load() {
		return nil, errors.New("a request whose sending had begun was lost")
	}
	return s, nil
}

// TestUpgrade: routers take each other's place under load, with more and with fewer loops, and no client notices: neither
// those that keep their connections, whose requests may not be repeated, nor those that make new ones, nor those that speak HTTP/2.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	t.Cleanup(origin.Close)
	s := newStage(t, origin.Listener.Addr().String())
	old := startRouter(t, 2, s.args...)
	old.takesOver(s)

	var stop atomic.Bool
	var group sync.WaitGroup
	const plain, multiplexed = 8, 4 // clients of HTTP/1.1, and of HTTP/2, which share connections
	workers := make([]atomic.Int64, plain+multiplexed)
	for i := range plain {
		secured, keeps := i%2 == 1, i%4 < 2
		group.Go(func() {
			var conn net.Conn
			var in *bufio.Reader
			for n := 0; !stop.Load(); n++ {
				if err := func() (err error) {
					if conn == nil {
						if conn, err = s.dial(secured); err != nil {
							return err
						}
						in = bufio.NewReader(conn)
					}
					_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
					want, field := fmt.Sprintf("worker %d request %d", i, n), ""
					if !keeps {
						field = "Connection: close\r\n"
					}
					if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", field, len(want), want); err != nil {
						return err
					}
					r, err := http.ReadResponse(in, nil)
					if err != nil {
						return err
					}
					body, err := io.ReadAll(r.Body)
					if err != nil || r.StatusCode != 200 || string(body) != want {
						return fmt.Errorf("%d %q, want %q: %w", r.StatusCode, body, want, err)
					}
					if r.Close {
						err, conn = conn.Close(), nil
					}
					return err
				}(); err != nil {
					t.Errorf("worker %d, TLS %t, keeps its connection %t: request %d: %v", i, secured, keeps, n, err)
					return
				}
				workers[i].Add(1)
			}
			if conn != nil {
				_ = conn.Close()
			}
		})
	}
	shared := &http.Transport{TLSClientConfig: s.trust.Clone(), ForceAttemptHTTP2: true}
	defer shared.CloseIdleConnections()
	for i := plain; i < len(workers); i++ {
		group.Go(func() {
			client := http.Client{Transport: shared, Timeout: 20 * time.Second}
			for n := 0; !stop.Load(); n++ {
				want := fmt.Sprintf("worker %d request %d", i, n)
				request, err := http.NewRequest(http.MethodPost, "https://"+s.secure+"/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				once := &sentOnce{Reader: strings.NewReader(want)}
				request.Body, request.GetBody, request.ContentLength = once, once.again, int64(len(want))
				r, err := client.Do(request)
				var body []byte
				if err == nil {
					body, err = io.ReadAll(r.Body)
					_ = r.Body.Close()
				}
				if err != nil || r.ProtoMajor != 2 || r.StatusCode != 200 || string(body) != want {
					t.Errorf("worker %d, HTTP/2: request %d: %v %q %v", i, n, r, body, err)
					return
				}
				workers[i].Add(1)
			}
		})
	}
	advance := func() {
		for i := range workers {
			for from := workers[i].Load(); workers[i].Load() < from+3 && !t.Failed(); {
				runtime.Gosched()
			}
		}
	}
	for round := range 10 {
		advance()
		next := startRouter(t, 1+round%3, s.args...)
		old.await()
		next.takesOver(s)
		old = next
	}
	advance()
	stop.Store(true)
	group.Wait()
	if err := old.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	old.await()
	total := int64(0)
	for i := range workers {
		total += workers[i].Load()
	}
	t.Logf("%d requests, 10 upgrades", total)
}

// TestUpgradeLetsConnectionsEnd: what takes long goes on in the process that began it, as long as --upgrade-drain allows.
func TestUpgradeLetsConnectionsEnd(t *testing.T) {
	t.Parallel()
	for _, patient := range []bool{true, false} {
		release := make(chan struct{})
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
				_, _ = io.WriteString(w, " and ended")
			case <-r.Context().Done():
			}
		}))
		t.Cleanup(origin.Close)
		drain := "1m"
		if !patient {
			drain = "300ms"
		}
		s := newStage(t, origin.Listener.Addr().String(), "--upgrade-drain", drain)
		old := startRouter(t, 2, s.args...)
		old.takesOver(s)
		conn, err := s.dial(false)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		in := bufio.NewReader(conn)
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		next := startRouter(t, 2, s.args...)
		if patient {
			next.takesOver(s)
			close(release)
		}
		body, err := io.ReadAll(r.Body)
		if patient && (err != nil || string(body) != "begun and ended") || !patient && err == nil {
			t.Errorf("patient %t: %q %v", patient, body, err)
		}
		_ = conn.Close() // or it would be waited for until it has been idle for too long
		old.await()
		if err := next.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		next.await()
	}
}

// TestFailedUpgrade: a successor that cannot begin changes nothing.
func TestFailedUpgrade(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "here") }))
	t.Cleanup(origin.Close)
	s := newStage(t, origin.Listener.Addr().String())
	old := startRouter(t, 2, s.args...)
	get := func() error {
		conn, err := s.dial(false)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err
	}
	old.takesOver(s)
	bad := startRouter(t, 2, append(s.args, "--metrics-listen", "192.0.2.1:1")...)
	if err := <-bad.ended; err == nil {
		t.Error("a router without its metrics has ended well")
	}
	killed := startRouter(t, 2, append(s.args, "--desired", filepath.Join(t.TempDir(), "nothing"))...)
	_ = killed.Process.Kill()
	<-killed.ended
	for range 20 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	good := startRouter(t, 1, s.args...)
	old.await()
	if err := errors.Join(get(), good.Process.Signal(os.Interrupt)); err != nil {
		t.Error(err)
	}
	good.await()
}

// TestWithoutUpgrades: a router that cannot offer its sockets, on a disk that has become read-only for instance, serves all the same;
// by then the one before has let go of the addresses.
func TestWithoutUpgrades(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "here") }))
	t.Cleanup(origin.Close)
	s := newStage(t, origin.Listener.Addr().String())
	if err := os.MkdirAll(s.socket, 0o700); err != nil { // which no socket can take the place of
		t.Fatal(err)
	}
	router := startRouter(t, 1, s.args...)
	for end := time.Now().Add(30 * time.Second); !strings.Contains(router.read(), "no other binary can take over"); {
		select {
		case err := <-router.ended:
			t.Fatalf("it has ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("it does not say that no other binary can take over")
		}
	}
	conn, err := s.dial(false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // the read says why it cannot be
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if r, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || r.StatusCode != 200 {
		t.Fatalf("%v %v", r, err)
	}
	if err := router.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	router.await()
}
