// Package etcdtest runs a real etcd for a test.
package etcdtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/testreq"
)

// startTimeout is how long etcd may take to become ready; it is generous because machines that test are busy.
const startTimeout = 60 * time.Second

// Etcd is one etcd on the loopback, with its data in the test's folder.
type Etcd struct {
	t          testing.TB
	binary     string
	folder     string
	generation int // counts the wiped ones
	token      string
	client     string // host:port
	peer       string

	command *exec.Cmd
	log     *tail
	ended   chan struct{}
}

// Start runs an etcd until the test ends. The program is dist/tools/etcd, made by scripts/tools; for Save and
// Restore etcdctl and etcdutl are beside it.
func Start(t testing.TB) *Etcd {
	t.Helper()
	e := &Etcd{t: t, binary: tool(t, "etcd"), folder: t.TempDir(), token: "etcdtest"}
	t.Cleanup(e.kill)
	// Between choosing a free port and using it, somebody else may take it.
	for attempt := 1; ; attempt++ {
		e.client, e.peer = freePort(t), freePort(t)
		err := e.launch()
		if err == nil {
			return e
		}
		e.kill()
		if attempt == 3 {
			t.Fatalf("start etcd: %v", err)
		}
		e.Wipe()
	}
}

// Endpoints are for a client's configuration. They stay the same whatever happens to the etcd behind them.
func (e *Etcd) Endpoints() []string { return []string{"http://" + e.client} }

// Stop kills it, as a crash would. Its data stays.
func (e *Etcd) Stop() { e.kill() }

// Start runs it again, at the same address.
func (e *Etcd) Start() {
	e.t.Helper()
	if err := e.launch(); err != nil {
		e.t.Fatalf("start etcd again: %v", err)
	}
}

// Wipe forgets the data of a stopped etcd. Started again it has the same cluster id, because that follows from its name,
// addresses and token, and its revision begins anew.
func (e *Etcd) Wipe() {
	e.t.Helper()
	e.mustBeStopped()
	e.generation++
}

// Replace forgets the data of a stopped etcd, and makes the one that is started next another cluster.
func (e *Etcd) Replace() {
	e.t.Helper()
	e.Wipe()
	e.token = fmt.Sprintf("etcdtest-%d", e.generation)
}

// Save makes a backup, as an operator would, and returns its file.
func (e *Etcd) Save() string {
	e.t.Helper()
	file := filepath.Join(e.t.TempDir(), "backup.db")
	e.run("etcdctl", "--endpoints="+e.client, "snapshot", "save", file)
	return file
}

// Restore puts a backup in the place of the data of a stopped etcd, as an operator would.
func (e *Etcd) Restore(file string) {
	e.t.Helper()
	e.Wipe()
	e.run("etcdutl", append([]string{"snapshot", "restore", file}, e.identity()...)...)
}

// identity is what an etcd and a restored backup have to agree on.
func (e *Etcd) identity() []string {
	return []string{
		"--name=test",
		"--data-dir=" + filepath.Join(e.folder, fmt.Sprintf("data-%d", e.generation)),
		"--initial-advertise-peer-urls=http://" + e.peer,
		"--initial-cluster=test=http://" + e.peer, "--initial-cluster-token=" + e.token,
	}
}

// run runs one of the tools of etcd.
func (e *Etcd) run(name string, args ...string) {
	e.t.Helper()
	if out, err := exec.Command(tool(e.t, name), args...).CombinedOutput(); err != nil {
		e.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// Signal sends a signal to the process: SIGSTOP makes it hang without closing a connection, SIGCONT lets it go on.
func (e *Etcd) Signal(signal syscall.Signal) {
	e.t.Helper()
	if err := e.command.Process.Signal(signal); err != nil {
		e.t.Fatalf("signal etcd: %v", err)
	}
}

func (e *Etcd) mustBeStopped() {
	e.t.Helper()
	if e.command != nil {
		e.t.Fatal("etcdtest: stop it first")
	}
}

// launch runs it and waits until it serves clients, which it says in its log.
func (e *Etcd) launch() error {
	e.mustBeStopped()
	e.command = exec.Command(e.binary, append(e.identity(),
		"--listen-client-urls=http://"+e.client, "--advertise-client-urls=http://"+e.client,
		"--listen-peer-urls=http://"+e.peer,
		"--unsafe-no-fsync", // a test does not cut the power
	)...)
	e.command.Env = append(os.Environ(), "GOMAXPROCS=1")
	// A test that is killed takes its etcd along.
	e.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := e.command.StderrPipe()
	if err == nil {
		err = e.command.Start()
	}
	if err != nil {
		e.command = nil
		return err
	}
	ready := make(chan struct{})
	e.log, e.ended = &tail{}, make(chan struct{})
	go func(command *exec.Cmd, log *tail, ended chan struct{}) {
		defer close(ended)
		var once sync.Once
		lines := bufio.NewScanner(output)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			log.add(lines.Text())
			if strings.Contains(lines.Text(), "serving client traffic") {
				once.Do(func() { close(ready) })
			}
		}
		_ = command.Wait() // it is killed; how it ends says nothing
	}(e.command, e.log, e.ended)
	select {
	case <-ready:
		return nil
	case <-e.ended:
		return fmt.Errorf("it ended:\n%s", e.log)
	case <-time.After(startTimeout):
		return fmt.Errorf("not ready after %v:\n%s", startTimeout, e.log)
	}
}

func (e *Etcd) kill() {
	if e.command == nil {
		return
	}
	_ = e.command.Process.Kill() // it may have ended already
	<-e.ended
	e.command = nil
}

// tool finds a program that scripts/tools has built, from the folder of the test upwards.
func tool(t testing.TB, name string) string {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		candidate := filepath.Join(folder, "dist", "tools", name)
		if _, err := os.Stat(candidate); err == nil {
			return candidate
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			testreq.Missing(t, "dist/tools/"+name+": run scripts/tools "+name)
		}
		folder = parent
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // nobody has connected
	return listener.Addr().String()
}

// tail keeps the last lines of the log, for a test that fails.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (l *tail) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines = append(l.lines, line); len(l.lines) > 30 {
		l.lines = l.lines[1:]
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
