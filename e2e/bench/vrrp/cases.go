package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	health1 "google.golang.org/grpc/health/grpc_health_v1"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
)

// kase is one case.
type kase struct {
	name string
	// ours and theirs are lines of the configuration of both.
	ourConfig, theirConfig string
	// ours and reference do what the case is about.
	ours, reference func(*pair) error
	// least is how many probes are looked at; every: as many as the run has for cases in which none may be lost.
	least int
	every bool
	// gap, lost and two are the goals.
	gap, lost, two float64
	// tracked: a service is looked after.
	tracked bool
	// stays: the first machine keeps the address.
	stays bool
}

// waitMost is how long is waited for the address.
const waitMost = 30 * time.Second

// keepalived as the tutorial has it, and at our intervals.
const (
	theirDefault = "version 2\n    advert_int 1\n    authentication {\n        auth_type PASS\n        auth_pass 1111\n    }\n"
	theirs30     = "version 3\n    advert_int 0.03\n"
	theirs10     = "version 3\n    advert_int 0.01\n"
)

var cases = []kase{
	{name: "node-loss-default", theirConfig: theirDefault, ours: lose, reference: lose, gap: 120, lost: 120},
	{name: "node-loss-30ms", ourConfig: "advert_interval: 0.03s", theirConfig: theirs30, ours: lose, reference: lose, gap: 120, lost: 120},
	{name: "node-loss-10ms", ourConfig: "advert_interval: 0.01s", theirConfig: theirs10, ours: lose, reference: lose, gap: 36, lost: 36},
	{name: "service-dies", theirConfig: theirDefault, ours: serviceDies, reference: serviceDies, tracked: true, gap: 150, lost: 150, two: 5},
	{name: "graceful", theirConfig: theirDefault, ours: stopFirst, reference: stopFirst, every: true, two: 5},
	{name: "handover", theirConfig: theirDefault, ours: handover, reference: stopFirst, every: true, two: 5},
	{name: "vip-deleted", theirConfig: theirDefault, ours: deleteVIP, reference: deleteVIP, stays: true, least: 500, gap: 5, lost: 5},
	{name: "sigkill", theirConfig: theirDefault, ours: killAgent, reference: killKeepalived, least: 5000, gap: 150, lost: 150, two: 50},
	{name: "blocked", theirConfig: theirDefault, ours: block, reference: block, stays: true, least: 5000},
}

// pair is a rival on both machines.
type pair struct {
	bench     *bench
	kase      kase
	processes [2]*process
	services  [2]*process
	lost      bool
	blocked   bool
}

func lose(p *pair) error {
	p.lost = true
	return p.bench.net.lose()
}

// stopFirst stops the program on the first machine in an orderly way.
func stopFirst(p *pair) error { return p.processes[0].end() }

func deleteVIP(p *pair) error {
	_, err := sh("ip", "-n", p.bench.net.machines[0].name, "address", "del", vip+"/32", "dev", "eth0")
	return err
}

func serviceDies(p *pair) error {
	_ = p.services[0].command.Process.Kill() // it is there
	<-p.services[0].exited
	return nil
}

// killAgent kills the agent, not its warden: what the kernel does when memory runs out.
func killAgent(p *pair) error { return killChild(p.processes[0]) }

// killKeepalived kills the process that speaks VRRP, and its parent, which would start it again.
func killKeepalived(p *pair) error {
	children, err := childrenOf(p.processes[0].command.Process.Pid)
	for _, pid := range append([]int{p.processes[0].command.Process.Pid}, children...) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone is as good
	}
	return err
}

func killChild(p *process) error {
	children, err := childrenOf(p.command.Process.Pid)
	if err != nil {
		return err
	}
	if len(children) != 1 {
		return fmt.Errorf("want one child of the warden, got %v", children)
	}
	return syscall.Kill(children[0], syscall.SIGKILL)
}

func childrenOf(pid int) (all []int, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			all = append(all, child)
		}
	}
	return all, nil
}

// block keeps multicast from passing between the machines, as a switch does that has lost the group.
func block(p *pair) error {
	p.blocked = true
	for _, m := range p.bench.net.machines {
		for _, words := range [][]string{
			{"nft", "add", "table", "ip", "bench"},
			{"nft", "add", "chain", "ip", "bench", "in", "{ type filter hook input priority 0; }"},
			{"nft", "add", "rule", "ip", "bench", "in", "ip", "daddr", "224.0.0.18", "drop"},
		} {
			if _, err := m.in(words...); err != nil {
				return err
			}
		}
	}
	return nil
}

func handover(p *pair) error {
	conn, err := p.bench.dial(0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = vrrpv1.NewAgentAdminClient(conn).Handover(ctx, &vrrpv1.HandoverRequest{Instance: "VI_1"})
	return errors.Join(err, conn.Close())
}

func (b *bench) socket(machine int) string {
	return filepath.Join(b.folder, fmt.Sprintf("control%d.sock", machine))
}
func (b *bench) health(machine int) string {
	return filepath.Join(b.folder, fmt.Sprintf("service%d.sock", machine))
}

func (b *bench) dial(machine int) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+b.socket(machine), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

var names = [2]string{"haproxy", "haproxy2"}

// startServices starts what is looked after.
func (p *pair) startServices() error {
	if !p.kase.tracked {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i, m := range p.bench.net.machines {
		_ = os.Remove(p.bench.health(i)) // of the last round
		if p.services[i], err = m.start(self, "-health", p.bench.health(i)); err != nil {
			return err
		}
	}
	return nil
}

// startAgents starts our program on both machines.
func (p *pair) startAgents() error {
	if err := p.startServices(); err != nil {
		return err
	}
	text := fmt.Sprintf(`kind: instance
name: VI_1
virtual_router_id: %d
virtual_addresses: [%q]
profile: PROFILE_FAST
members:
  - {node: haproxy, priority: 105}
  - {node: haproxy2, priority: 99}
%s
`, router, vip, p.kase.ourConfig)
	if p.kase.tracked {
		text += fmt.Sprintf("trackers: [{name: service, interval: 0.02s, grpc_health: {address: {haproxy: 'unix:%s', haproxy2: 'unix:%s'}}}]\n",
			p.bench.health(0), p.bench.health(1))
	}
	file := filepath.Join(p.bench.folder, "desired.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	for i, m := range p.bench.net.machines {
		_ = os.Remove(p.bench.socket(i)) // of the last round
		var err error
		p.processes[i], err = m.start(p.bench.agent, "--node", names[i], "--desired", file, "--grpc-listen", "unix:"+p.bench.socket(i),
			"--state-dir", filepath.Join(p.bench.folder, "state"+names[i]))
		if err != nil {
			return err
		}
	}
	return nil
}

// settle waits until our agents know each other. keepalived has nothing to wait for.
func (p *pair) settle() error {
	if _, err := os.Stat(p.bench.socket(0)); err != nil {
		return nil // keepalived
	}
	conn, err := p.bench.dial(0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startMost)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		answer, err := vrrpv1.NewAgentClient(conn).ListInstances(ctx, &vrrpv1.ListInstancesRequest{})
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		if i := answer.GetInstances(); len(i) == 1 && len(i[0].GetAgents()) == 1 && i[0].GetAgents()[0].GetReady() {
			return conn.Close()
		}
		<-ticker.C
	}
}

// startKeepalived starts keepalived on both machines.
func (p *pair) startKeepalived() error {
	for i := range 2 {
		_ = os.Remove(p.bench.socket(i)) // of our last round
	}
	if err := p.startServices(); err != nil {
		return err
	}
	for i, m := range p.bench.net.machines {
		text := "global_defs {\n    enable_script_security\n    script_user root\n}\n"
		track := ""
		if p.kase.tracked {
			// As the tutorial looks, once every 2 s; its weight of -5 would never move the address, so here it is a fault.
			text += fmt.Sprintf("vrrp_script service {\n    script \"/usr/bin/pgrep -f health.%s\"\n    interval 2\n    fall 2\n    rise 2\n}\n", p.bench.health(i))
			track = "    track_script {\n        service\n    }\n"
		}
		text += fmt.Sprintf("vrrp_instance VI_1 {\n    state %s\n    interface eth0\n    virtual_router_id %d\n    priority %d\n    %s%s    virtual_ipaddress {\n        %s\n    }\n}\n",
			[2]string{"MASTER", "BACKUP"}[i], router, [2]int{105, 99}[i], p.kase.theirConfig, track, vip)
		folder := filepath.Join(p.bench.folder, names[i])
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		file := filepath.Join(folder, "keepalived.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		var err error
		p.processes[i], err = m.start("keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", file,
			"--pid", filepath.Join(folder, "pid"), "--vrrp_pid", filepath.Join(folder, "vrrp-pid"))
		if err != nil {
			return err
		}
	}
	return nil
}

// stop ends everything and puts the network right.
func (p *pair) stop() (err error) {
	if p.lost {
		err = errors.Join(err, p.bench.net.find())
	}
	for i, m := range p.bench.net.machines {
		for _, x := range []*process{p.processes[i], p.services[i]} {
			if x != nil {
				err = errors.Join(err, x.end())
			}
		}
		if p.blocked {
			_, e := m.in("nft", "delete", "table", "ip", "bench")
			err = errors.Join(err, e)
		}
		_, _ = sh("ip", "-n", m.name, "address", "del", vip+"/32", "dev", "eth0") // what a killed one has left
	}
	return err
}

// words are what the programs printed.
func (p *pair) words() string {
	all := ""
	for _, x := range p.processes {
		if x != nil {
			_ = x.end() // nobody reads while it writes
			all += x.out.String()
		}
	}
	return all
}

// serveHealth is the service that is looked after.
func serveHealth(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server, state := grpc.NewServer(), health.NewServer()
	health1.RegisterHealthServer(server, state)
	return server.Serve(listener)
}
