package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"
)

const (
	vip1 = "192.168.60.78"
	vip3 = "192.168.60.55"
)

// buildFolder is where agentFile builds; it lives as long as the tests do.
var buildFolder string

// agentFile is the agent, built once, when a test needs it.
var agentFile = sync.OnceValues(func() (string, error) {
	file := filepath.Join(buildFolder, "vrrp-agent")
	if out, err := exec.Command("go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return file, nil
})

// atOnce is how many tests run at the same time for each processor: they wait for most of their time.
const atOnce = 2

func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel").Value; parallel.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // the default
		if err := parallel.Set(strconv.Itoa(atOnce * runtime.NumCPU())); err != nil {
			panic(err) // it is a number
		}
	}
	folder, err := os.MkdirTemp("", "vrrp-agent-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildFolder = folder
	code := m.Run()
	_ = os.RemoveAll(folder) // what is left is in the temporary folder
	os.Exit(code)
}

// lan is a switch in a namespace of its own, with the machines of the tutorial's dispatch network around it.
type lan struct {
	hub *netnstest.NS
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	netnstest.Require(t)
	for _, program := range []string{"ip", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			testreq.Missing(t, program)
		}
	}
	n := &lan{hub: netnstest.New(t)}
	netnstest.Bridge(t, n.hub, "switch")
	return n
}

// machine is a namespace on the network.
type machine struct {
	*netnstest.NS
	lan  *lan
	name string
}

func (n *lan) machine(t *testing.T, name, prefix string) *machine {
	t.Helper()
	m := &machine{NS: netnstest.New(t), lan: n, name: name}
	m.plug(t, "eth0", prefix)
	return m
}

// plug lays a cable from the machine to the switch.
func (m *machine) plug(t *testing.T, device, prefix string) {
	t.Helper()
	netnstest.Veth(t, m.NS, device, prefix, m.lan.hub, m.name, "")
	m.lan.hub.Exec(t, "ip", "link", "set", m.name, "master", "switch")
}

// family is one of the two families of addresses, with the pair's instance in it.
type family struct {
	instance string
	vips     []string
	members  [2]string // own addresses of haproxy and haproxy2
	flag     string    // of ip
	single   *regexp.Regexp
}

var (
	family4 = family{"VI_1", []string{vip1}, [2]string{"192.168.60.22", "192.168.60.128"}, "-4", regexp.MustCompile(`inet (\S+)/32 `)}
	family6 = family{"VI_6", []string{vip6Link, vip6}, [2]string{"2001:db8:60::22", "2001:db8:60::128"}, "-6",
		regexp.MustCompile(`inet6 (\S+)/128 (?:metric \d+ )?scope [gl]`)} // not that of lo
)

// all is what the master of the instance holds, as held says it.
func (f family) all() string { return strings.Join(slices.Sorted(slices.Values(f.vips)), " ") }

// held returns the single addresses on the machine's cards.
func (f family) held(t *testing.T, m *machine) string {
	t.Helper()
	var all []string
	for _, match := range f.single.FindAllStringSubmatch(m.Exec(t, "ip", f.flag, "-o", "address"), -1) {
		all = append(all, match[1])
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// await waits until the machines hold what is wanted: pairs of machine and addresses.
func (f family) await(t *testing.T, what string, want map[*machine]string) {
	t.Helper()
	awaitThat(t, what, func() string {
		var wrong []string
		for m, addresses := range want {
			if got := f.held(t, m); got != addresses {
				wrong = append(wrong, fmt.Sprintf("%s holds [%s], want [%s]", m.name, got, addresses))
			}
		}
		slices.Sort(wrong)
		return strings.Join(wrong, "; ")
	})
}

// desired is the pair's instance as desired state, with more lines.
func (f family) desired(t *testing.T, priority int, more string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "desired.yaml")
	write(t, file, fmt.Sprintf("kind: instance\nname: %s\nvirtual_router_id: 53\nvirtual_addresses: [%s]\nmembers:\n"+
		"  - {node: haproxy, priority: %d, addresses: [%q]}\n  - {node: haproxy2, priority: 100, addresses: [%q]}\n%s\n",
		f.instance, `"`+strings.Join(f.vips, `", "`)+`"`, priority, f.members[0], f.members[1], more))
	return file
}

// held is that of IPv4.
func (m *machine) held(t *testing.T) string {
	t.Helper()
	return family4.held(t, m)
}

// await is that of IPv4.
func await(t *testing.T, what string, want map[*machine]string) {
	t.Helper()
	family4.await(t, what, want)
}

// patience is how long a test waits for what must come; far longer than it takes.
const patience = 30 * time.Second

// awaitThat waits until wrong returns nothing.
func awaitThat(t *testing.T, what string, wrong func() string) {
	t.Helper()
	awaitEach(t, 50*time.Millisecond, what, wrong)
}

// awaitEach looks with that pause.
func awaitEach(t *testing.T, pause time.Duration, what string, wrong func() string) {
	t.Helper()
	awaitLonger(t, pause, time.After(patience), what, wrong)
}

// awaitUntil waits longer than usual.
func awaitUntil(t *testing.T, deadline time.Time, what string, wrong func() string) {
	t.Helper()
	awaitLonger(t, 100*time.Millisecond, time.After(time.Until(deadline)), what, wrong)
}

func awaitLonger(t *testing.T, pause time.Duration, deadline <-chan time.Time, what string, wrong func() string) {
	t.Helper()
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		last := wrong()
		if last == "" {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("%s: %s", what, last)
		}
	}
}

// process is a program that runs on a machine.
type process struct {
	command *exec.Cmd
	output  *output
	exited  chan struct{}
}

// output collects what a program prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// run starts a program. What it printed is shown when the test fails.
func (m *machine) run(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(name, args...), output: &output{}, exited: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = p.output, p.output
	var err error
	m.Do(t, func() { err = p.command.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s on %s printed\n%s", filepath.Base(name), m.name, p.output)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.command.Process.Signal(s) } // gone is as good

// kill ends the process without giving it a chance.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// stop asks the process to end and checks that it ends well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("process %d does not end", p.command.Process.Pid)
	}
	if code := p.command.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("process ended with %v", p.command.ProcessState)
	}
}

// agent is a running vrrp-agent.
type agent struct {
	*process
	conn *grpc.ClientConn
}

// agent starts the agent with desired state from a file.
func (m *machine) agent(t *testing.T, desired string) *agent {
	t.Helper()
	return m.agentWith(t, "--desired", desired, "--state-dir", t.TempDir())
}

// agentWith starts the agent with what the lab gives it: uid 0, three capabilities, no way to more.
func (m *machine) agentWith(t *testing.T, flags ...string) *agent {
	t.Helper()
	file, err := agentFile()
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(t.TempDir(), "control.sock")
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing hangs on it
	args := []string{"--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin,+net_raw,+sys_nice",
		file, "--node", m.name, "--grpc-listen", socket}
	return &agent{conn: conn, process: m.run(t, "setpriv", append(args, flags...)...)}
}

// instances asks the agent for its instances.
func (a *agent) instances(t *testing.T) map[string]*vrrpv1.InstanceState {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := vrrpv1.NewAgentClient(a.conn).ListInstances(ctx, &vrrpv1.ListInstancesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*vrrpv1.InstanceState{}
	for _, i := range answer.GetInstances() {
		all[i.GetName()] = i
	}
	return all
}

// tutorial writes the tutorial's two instances as desired state. more is added to each.
func tutorial(t *testing.T, more string) string {
	t.Helper()
	folder := t.TempDir()
	for name, password := range map[string]string{"VI_1": "2222\n", "VI_3": "1111\n"} {
		if err := os.WriteFile(filepath.Join(folder, name+".pass"), []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := `
kind: instance
name: VI_1
virtual_router_id: 53
virtual_addresses: ["` + vip1 + `"]
members:
  - {node: haproxy, priority: 105}
  - {node: haproxy2, priority: 99}
authentication: {password_file: ` + folder + `/VI_1.pass}
` + more + `
---
kind: instance
name: VI_3
virtual_router_id: 56
virtual_addresses: ["` + vip3 + `"]
members:
  - {node: haproxy, priority: 99}
  - {node: haproxy2, priority: 105}
authentication: {password_file: ` + folder + `/VI_3.pass}
` + more
	file := filepath.Join(folder, "desired.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

var authentication = regexp.MustCompile(`(?m)^authentication:.*$`)

// version3 is tutorial without passwords, which version 3 has not.
func version3(t *testing.T, more string) string {
	t.Helper()
	file := tutorial(t, more)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(authentication.ReplaceAll(text, nil)))
	return file
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts another text in the place of one that is in the file.
func replace(t *testing.T, file, old, text string) {
	t.Helper()
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(all), old) {
		t.Fatalf("%s does not say %q", file, old)
	}
	write(t, file, strings.Replace(string(all), old, text, 1))
}

var ether = regexp.MustCompile(`link/ether (\S+)`)

// mac returns the Ethernet address of a card.
func (m *machine) mac(t *testing.T, device string) string {
	t.Helper()
	match := ether.FindStringSubmatch(m.Exec(t, "ip", "-o", "link", "show", "dev", device))
	if match == nil {
		t.Fatalf("%s has no Ethernet address", device)
	}
	return match[1]
}
