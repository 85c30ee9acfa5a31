package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The proxies share one core, everything else the other. On a machine with one core there is only that.
var proxyCore, loadCore = "0", strconv.Itoa(min(1, runtime.NumCPU()-1))

// largeBody is the size of the answer to /large.
const largeBody = 256 << 20

// prepare looks for the programs, and makes room for the connections that are held.
func (b *bench) prepare() (err error) {
	if b.wrk, err = exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("%w (scripts/preflight bench)", err)
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin"); err != nil {
		return err
	}
	version, err := exec.Command("haproxy", "-v").Output()
	if err != nil {
		return fmt.Errorf("%w (scripts/preflight bench)", err)
	}
	b.referenceIs = "haproxy"
	if words := strings.Fields(string(version)); len(words) > 2 {
		number, _, _ := strings.Cut(words[2], "-")
		b.referenceIs += " " + number
	}
	// An idle connection is one descriptor, in a proxy as in the load. Only root may raise the hard limit.
	want := uint64(b.idle + 1000)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < want {
		raised := unix.Rlimit{Cur: want, Max: want}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			limit = raised
		}
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur < want {
		b.idle = int(limit.Cur) - 1000
		fmt.Fprintf(os.Stderr, "bench-router: only %d idle connections: ulimit -n is %d\n", b.idle, limit.Cur)
	}
	return nil
}

// process is a program that the bench has started.
type process struct {
	command *exec.Cmd
	words   bytes.Buffer
	address string
	stopped bool
}

// start runs a program on one core and waits until it takes connections at address.
func start(core, address string, words ...string) (*process, error) {
	p := &process{command: exec.Command("taskset", append([]string{"-c", core}, words...)...), address: address}
	p.command.Stdout, p.command.Stderr = &p.words, &p.words
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return p, nil
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("%s does not answer: %w: %s", words[0], err, p.words.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stop kills; doing it twice does no harm.
func (p *process) stop() {
	if !p.stopped {
		p.stopped = true
		_ = p.command.Process.Kill() // it may have ended by itself
		_ = p.command.Wait()         // it was killed
	}
}

// cpu is the processor time that the process has used so far, all threads, in user and kernel mode.
func (p *process) cpu() (time.Duration, error) {
	fields, err := p.stat()
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on every architecture that Go runs on
}

// rss is the memory of the process in bytes.
func (p *process) rss() (int64, error) {
	fields, err := p.stat()
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(fields[21], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// stat returns the fields of /proc/PID/stat from the third on: those after the name, which may hold anything.
func (p *process) stat() ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return nil, err
	}
	_, rest, found := bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(rest))
	if !found || len(fields) < 22 {
		return nil, errors.New("cannot read /proc/PID/stat")
	}
	return fields, nil
}

// freeAddress is a loopback address at which nothing listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startRivals runs both with the same servers behind them.
func (b *bench) startRivals(servers ...string) (rivals [2]*rival, stop func(), err error) {
	stop = func() {
		for _, r := range rivals {
			if r != nil {
				r.stop()
			}
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for who, start := range []func(string, []string) (*process, error){b.startOurs, b.startHAProxy} {
		address, err := freeAddress()
		if err != nil {
			return rivals, stop, err
		}
		p, err := start(address, servers)
		if err != nil {
			return rivals, stop, err
		}
		rivals[who] = &rival{process: p, address: address}
	}
	return rivals, stop, nil
}

func (b *bench) startOurs(address string, servers []string) (*process, error) {
	var text strings.Builder
	text.WriteString("kind: backend\nname: b\n")
	if len(servers) > 1 {
		text.WriteString("cookie: {name: SRV, nocache: true, indirect: true}\n")
	}
	text.WriteString("servers:\n")
	for i, server := range servers {
		fmt.Fprintf(&text, "- {name: s%d, address: %q", i, server)
		if len(servers) > 1 {
			fmt.Fprintf(&text, ", cookie: s%d", i)
		}
		text.WriteString("}\n")
	}
	fmt.Fprintf(&text, "---\nkind: frontend\nname: f\n%smaxconn: %d\ndefault_backend: b\n", b.secure.bind(address), b.idle+200)
	folder, err := os.MkdirTemp(b.folder, "ours")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(folder, "router.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return nil, err
	}
	words := append([]string{b.router, "--desired", file, "--state-dir", filepath.Join(folder, "state"), "--grpc-listen", "unix:" + filepath.Join(folder, "grpc.sock")}, b.options...)
	return start(proxyCore, address, words...)
}

// haproxyConfig is the reference: what a careful administrator writes, with one thread, because it gets one core. HAProxy
// counts two descriptors for each connection and would not start where the second, which no idle one has, is not allowed.
const haproxyConfig = `global
 maxconn %d
 no strict-limits
 nbthread 1
defaults
 mode http
 option forwardfor
 option redispatch
 retries 3
 timeout connect 3s
 timeout client 60s
 timeout server 60s
 timeout http-request 10s
 timeout http-keep-alive 60s
%sfrontend f
 bind %s
 default_backend b
backend b
 balance roundrobin
`

func (b *bench) startHAProxy(address string, servers []string) (*process, error) {
	return b.startHAProxyWith(address, servers, b.idle+200, "")
}

// startHAProxySplicing runs an HAProxy that moves bodies by splice(2), both ways. Its pipes count against the limit of
// descriptors, so it is given few connections.
func (b *bench) startHAProxySplicing(server string) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return b.startHAProxyWith(address, []string{server}, 100, " option splice-request\n option splice-response\n")
}

func (b *bench) startHAProxyWith(address string, servers []string, maxconn int, options string) (*process, error) {
	var text strings.Builder
	fmt.Fprintf(&text, haproxyConfig, maxconn, options, b.secure.haproxyBind(address))
	if len(servers) > 1 {
		text.WriteString(" cookie SRV insert nocache indirect\n")
	}
	for i, server := range servers {
		fmt.Fprintf(&text, " server s%d %s", i, server)
		if len(servers) > 1 {
			fmt.Fprintf(&text, " cookie s%d", i)
		}
		text.WriteString("\n")
	}
	return b.haproxy(proxyCore, address, text.String())
}

// startSmallOrigin runs this program as a server of 100 bytes.
func (b *bench) startSmallOrigin() (*process, error) { return startSelf("-small-origin") }

func (b *bench) haproxy(core, address, config string) (*process, error) {
	file, err := os.CreateTemp(b.folder, "haproxy")
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(file, config)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return start(core, address, "haproxy", "-db", "-q", "-f", file.Name())
}

// startOrigin runs this program as a server of large bodies.
func (b *bench) startOrigin(name string) (*process, error) {
	return startSelf("-name", name, "-origin")
}

// startSelf runs this program with these words and an address.
func startSelf(words ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return start(loadCore, address, append(append([]string{self}, words...), address)...)
}

// serveOrigin answers /large with largeBody bytes out of the page cache, everything else with a name.
func serveOrigin(address, name string) error {
	file, err := os.CreateTemp("", "bench-router")
	if err != nil {
		return err
	}
	if err := os.Remove(file.Name()); err != nil { // it goes with the process
		return err
	}
	if err := file.Truncate(largeBody); err != nil {
		return err
	}
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/large" {
			_, _ = io.WriteString(w, name) // a client that has gone needs no answer
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(largeBody))
		// A file with an offset of its own; sendfile(2) moves it.
		if again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err == nil {
			defer again.Close()
			_, _ = io.Copy(w, again) // as above
		}
	}))
}
