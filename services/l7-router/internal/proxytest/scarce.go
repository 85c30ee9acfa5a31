package proxytest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
)

// alone runs the calling test in a process of its own, because it changes or counts what belongs to the whole process.
// It reports whether this is that process.
func alone(t *testing.T) bool {
	t.Helper()
	const marker = "TWOTIER_TEST_ALONE"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	child.Env = append(os.Environ(), marker+"="+t.Name())
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// testStreamWithoutDescriptors: when no pipe can be had, bodies are copied.
func testStreamWithoutDescriptors(t *testing.T, open Open) {
	if !alone(t) {
		return
	}
	const n = 4 << 20
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.Header().Set("Content-Length", fmt.Sprint(n))
			_, _ = io.Copy(w, noise(1, n))
		}
	})
	w := newWorld(t, open, backend("web", server("a", addressOf(s))))
	c := dial(t, w.address())
	c.get("/") // every connection is there now
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	want := sum(t, noise(1, n))
	if r, body := c.get("/large"); r.StatusCode != 200 || sum(t, strings.NewReader(body)) != want {
		t.Errorf("%d and another hash than went in", r.StatusCode)
	}
}

// testQuietTunnelsHoldNoPipes: what waits for a message, perhaps for hours, holds its two connections only.
func testQuietTunnelsHoldNoPipes(t *testing.T, open Open) {
	if !alone(t) {
		return
	}
	address := rawOrigin(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, onlyReader{c}) // or package net would hold a pipe
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	const tunnels = 50
	for range tunnels {
		c := dial(t, w.address())
		c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != 101 {
			t.Fatalf("%v %v", r, err)
		}
		for range 3 {
			c.send("hello")
			if _, err := io.ReadFull(c.in, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	pipes := 0
	for _, fd := range all {
		if target, _ := os.Readlink(fd); strings.HasPrefix(target, "pipe:") {
			pipes++
		}
	}
	if pipes > tunnels/2 {
		t.Errorf("%d ends of pipes are open beside %d quiet tunnels", pipes, tunnels)
	}
}

// testNoDescriptorsIsToldSeldom: while there are no descriptors the log does not grow with each client that comes.
func testNoDescriptorsIsToldSeldom(t *testing.T, open Open) {
	if !alone(t) {
		return
	}
	const (
		clients = 400
		most    = 100 // pauses grow from 5 ms to 1 s, so this is enough for a minute of two loops
	)
	core, logs := observer.New(zap.WarnLevel)
	s := origin(t, func(w http.ResponseWriter, r *http.Request) {})
	w := newWorld(t, func(t testing.TB, p *pool.Pool, _ *zap.Logger) Driver { return open(t, p, zap.New(core)) }, backend("web", server("a", addressOf(s))))
	kept := dial(t, w.address())
	kept.get("/") // its connections are there now
	to := netip.MustParseAddrPort(w.address())
	fds := make([]int, clients)
	for i := range fds {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := limit
	limit.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			t.Fatal(err)
		}
		if r, _ := kept.get("/"); r.StatusCode != 200 { // by which a loop has noticed each of its share alone
			t.Fatalf("got %d", r.StatusCode)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		_ = syscall.Close(fd) // nothing to be saved
	}
	if r, _ := dial(t, w.address()).get("/"); r.StatusCode != 200 {
		t.Errorf("got %d when there are descriptors again", r.StatusCode)
	}
	if n := logs.FilterMessage("accept").Len(); n == 0 || n > most {
		t.Errorf("%d lines in the log for %d clients, want 1 to %d", n, clients, most)
	}
}
