// Package lab is the hand of the stories on the running lab: it finds the machines, stops and starts programs, and
// lends the stories a place on the network. It knows containers, addresses and certificates, and no service from inside.
package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Addresses of the lab, as in docker-compose.yml.
const (
	VIP     = "10.10.60.22"   // where clients connect
	Gateway = "192.168.60.99" // where the routers send what is for clients

	DirectorAPI  = "10.99.0.60:7401"
	Director2API = "10.99.0.61:7401"
	// The agents beside the directors.
	DirectorAgentAPI  = "10.99.0.60:7403"
	DirectorAgent2API = "10.99.0.61:7403"

	RouterAPI  = "10.99.0.22:7402"
	Router2API = "10.99.0.128:7402"
	AgentAPI   = "10.99.0.22:7403"
	Agent2API  = "10.99.0.128:7403"
	Sync1API   = "10.99.0.88:7404"
	Sync2API   = "10.99.0.99:7404"
	Forum1API  = "10.99.0.88:7405"
	Forum2API  = "10.99.0.99:7405"
)

// project is the compose project of the lab (see .env).
const project = "twotier"

// Root is the top folder of the checkout.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.work above the test")
	return ""
}

// Run runs a program on this host and returns what it printed; it fails the test when the program fails.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := TryRun(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryRun runs a program on this host and returns its standard output; the error carries its standard error. It is
// killed after two minutes.
func TryRun(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Container is the id of the container of a compose service, running or not.
func Container(t testing.TB, service string) string {
	t.Helper()
	out := strings.Fields(Run(t, "docker", "ps", "-aq",
		"--filter", "label=com.docker.compose.project="+project,
		"--filter", "label=com.docker.compose.service="+service,
		"--filter", "label=com.docker.compose.oneoff=False"))
	if len(out) != 1 {
		t.Fatalf("service %s has %d containers; is the lab up? (make up)", service, len(out))
	}
	return out[0]
}

// Stop stops a program of the lab as an operator would, and starts it again at the end of the test.
func Stop(t testing.TB, service string) {
	t.Helper()
	Run(t, "docker", "stop", "-t", "10", Container(t, service))
	t.Cleanup(func() { Start(t, service) })
}

// Kill ends a program of the lab with SIGKILL, and starts it again at the end of the test.
func Kill(t testing.TB, service string) {
	t.Helper()
	Run(t, "docker", "kill", Container(t, service))
	t.Cleanup(func() { Start(t, service) })
}

// Start starts a program of the lab that was stopped, and waits until it is healthy.
func Start(t testing.TB, service string) {
	t.Helper()
	Run(t, "docker", "start", Container(t, service))
	Healthy(t, service)
}

// Restart stops and starts a program of the lab and waits until it is healthy.
func Restart(t testing.TB, service string) {
	t.Helper()
	Run(t, "docker", "restart", "-t", "10", Container(t, service))
	Healthy(t, service)
}

// Healthy waits until the health check of a program has succeeded.
func Healthy(t testing.TB, service string) {
	t.Helper()
	id := Container(t, service)
	Within(t, time.Minute, service+" is healthy", func() error {
		out, err := TryRun("docker", "inspect", "-f", "{{.State.Health.Status}}", id)
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(out); got != "healthy" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// KillTogether ends programs of the lab with SIGKILL, all at once.
func KillTogether(t testing.TB, services ...string) {
	t.Helper()
	args := []string{"kill"}
	for _, service := range services {
		args = append(args, Container(t, service))
	}
	Run(t, "docker", args...)
}

// Pid is the process id, on this host, of the first process of a running program or machine.
func Pid(t testing.TB, service string) int {
	t.Helper()
	return On(t, service).pid
}

// Within asks again and again until the question is answered without an error, and fails the test when the time is
// up. The time is a promise to users, far above what is usual.
func Within(t testing.TB, limit time.Duration, what string, ask func() error) time.Duration {
	t.Helper()
	start := time.Now()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		err := ask()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-pause.C
	}
}

// Machine is a machine of the lab.
type Machine struct {
	Name string
	id   string
	pid  int
}

// On gives a machine of the lab.
func On(t testing.TB, name string) *Machine {
	t.Helper()
	return Is(t, name, Container(t, name))
}

// Is gives a container as a machine.
func Is(t testing.TB, name, id string) *Machine {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(Run(t, "docker", "inspect", "-f", "{{.State.Pid}}", id), &pid); err != nil || pid == 0 {
		t.Fatalf("%s does not run", name)
	}
	return &Machine{Name: name, id: id, pid: pid}
}

// Network runs a program of this host in the machine's network, for containers that hold no programs of that kind.
func (m *Machine) Network(t testing.TB, args ...string) string {
	t.Helper()
	enter := m.Enter()
	return Run(t, enter[0], append(enter[1:], args...)...)
}

// Enter is the beginning of a command line that runs a program of this host in the machine's network.
func (m *Machine) Enter() []string {
	return []string{"/usr/bin/nsenter", "-t", fmt.Sprint(m.pid), "-n", "--"}
}

// Exec runs a program on the machine and returns what it printed; it fails the test when the program fails.
func (m *Machine) Exec(t testing.TB, args ...string) string {
	t.Helper()
	return Run(t, "docker", append([]string{"exec", m.id}, args...)...)
}

// File is the path, on this host, of a file on the machine's disk.
func (m *Machine) File(path string) string {
	return filepath.Join("/proc", fmt.Sprint(m.pid), "root", path)
}

// Addresses are the IPv4 addresses of the machine.
func (m *Machine) Addresses(t testing.TB) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(m.Exec(t, "ip", "-4", "-o", "addr", "show")) {
		if fields := strings.Fields(line); len(fields) > 3 {
			address, _, _ := strings.Cut(fields[3], "/")
			out = append(out, address)
		}
	}
	return out
}

// Cut pulls all network cables of the machine out of their switches: not a word gets out from then on, also not that they
// are pulled. It returns what plugs them in again, which the end of the test does too.
func (m *Machine) Cut(t testing.TB) (plug func()) {
	t.Helper()
	var out, down, in []string
	for line := range strings.Lines(m.Exec(t, "sh", "-c", "cd /sys/class/net && for card in *; do [ $card = lo ] || cat $card/iflink; done")) {
		far := Run(t, "sh", "-c", "grep -lx "+strings.TrimSpace(line)+" /sys/class/net/*/ifindex | cut -d/ -f5") // the other end, on this host
		far = strings.TrimSpace(far)
		bridge, err := os.Readlink("/sys/class/net/" + far + "/master")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, "link set "+far+" nomaster")
		down = append(down, "link set "+far+" down")
		in = append(in, "link set "+far+" master "+filepath.Base(bridge), "link set "+far+" up")
	}
	do := func(lines []string) {
		t.Helper()
		Run(t, "sh", "-c", "printf '"+strings.Join(lines, "\\n")+"\\n' | ip -batch -")
	}
	t.Cleanup(func() { do(in) })
	do(append(out, down...))
	return func() { do(in) }
}

// DialContext connects from the machine, as a program on it would. The address has to be IP:PORT.
func (m *Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return m.dial(ctx, net.Dialer{}, network, address)
}

// DialFrom connects with TCP from one of the machine's own addresses.
func (m *Machine) DialFrom(ctx context.Context, from, address string) (net.Conn, error) {
	return m.dial(ctx, net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}, "tcp", address)
}

func (m *Machine) dial(ctx context.Context, dialer net.Dialer, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// A socket belongs to the namespace of the thread that makes it. The thread is not given back: it ends with
		// this goroutine, because it stays locked.
		runtime.LockOSThread()
		conn, err := m.dialHere(ctx, dialer, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func (m *Machine) dialHere(ctx context.Context, dialer net.Dialer, network, address string) (net.Conn, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }() // only read from
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the network of %s: %w", m.Name, err)
	}
	dialer.FallbackDelay = -1 // one address, dialled on this thread
	return dialer.DialContext(ctx, network, address)
}

// API connects to a control API with the certificate of a role (admin or viewer); "" shows none.
func API(t testing.TB, address, role string) *grpc.ClientConn {
	t.Helper()
	state := filepath.Join(Root(t), "deploy", "lab", "state")
	ca, err := os.ReadFile(filepath.Join(state, "viewer", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	config.RootCAs.AppendCertsFromPEM(ca)
	if role != "" {
		cert, err := tls.LoadX509KeyPair(filepath.Join(state, role, "tls.crt"), filepath.Join(state, role, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is lost with it
	return conn
}

// Grpcurl runs grpcurl against a control API with the certificate of a role; "" shows none.
func Grpcurl(t testing.TB, role string, args ...string) (string, error) {
	t.Helper()
	state := filepath.Join(Root(t), "deploy", "lab", "state")
	line := []string{"-max-time", "10", "-cacert", filepath.Join(state, "viewer", "ca.crt")}
	if role != "" {
		line = append(line, "-cert", filepath.Join(state, role, "tls.crt"), "-key", filepath.Join(state, role, "tls.key"))
	}
	return TryRun(filepath.Join(Root(t), "dist", "tools", "grpcurl"), append(line, args...)...)
}
