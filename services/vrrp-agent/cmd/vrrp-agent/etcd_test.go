package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/etcdtest"
	"github.com/twotier/twotier/services/internal/testreq"
)

// reach makes an address of etcd, which listens on the loopback of the test, to be had on the loopback of the machine: a
// network of its own that no cut touches. What passes can be held at the gate; nil: nothing is.
func (m *machine) reach(t *testing.T, etcd string, g *gate) (endpoint string) {
	t.Helper()
	var listener net.Listener
	var err error
	m.Do(t, func() { listener, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	ended := make(chan struct{})
	t.Cleanup(func() {
		close(ended)
		_ = listener.Close() // ends Accept
		open.Wait()
	})
	open.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer func() { _ = near.Close() }()
				far, err := net.Dial("tcp", etcd)
				if err != nil {
					return
				}
				defer func() { _ = far.Close() }()
				done := make(chan struct{}, 2) // room for both ends
				go func() { _, _ = io.Copy(far, g.reader(near)); done <- struct{}{} }()
				go func() { _, _ = io.Copy(near, g.reader(far)); done <- struct{}{} }()
				select {
				case <-done:
				case <-ended:
				}
			})
		}
	})
	return "http://" + listener.Addr().String()
}

// beside starts an agent with its desired state in etcd, which it reaches through the gate.
func (m *machine) beside(t *testing.T, etcd *etcdtest.Etcd, g *gate) *agent {
	t.Helper()
	return m.agentWith(t, "--etcd", m.reach(t, strings.TrimPrefix(etcd.Endpoints()[0], "http://"), g), "--state-dir", t.TempDir())
}

// inEtcd starts both agents with their desired state in etcd; between that and the second one is the gate.
func (p *pair) inEtcd(t *testing.T, etcd *etcdtest.Etcd, i *vrrpv1.Instance, g *gate) {
	t.Helper()
	p.onA, p.onB = p.a.beside(t, etcd, nil), p.b.beside(t, etcd, g)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	awaitThat(t, "the instance is applied", func() string {
		_, err := vrrpv1.NewAgentAdminClient(p.onA.conn).Apply(ctx, &vrrpv1.ApplyRequest{
			Object: &vrrpv1.Object{Kind: &vrrpv1.Object_Instance{Instance: i}},
		}, grpc.WaitForReady(true))
		if err != nil {
			return err.Error()
		}
		return ""
	})
	p.census.await(t, p.a.mac(t, "eth0"))
	p.acquainted(t)
}

// lastingEtcd starts an etcd, which ends with the thread that has started it, on a thread that nobody takes away.
func lastingEtcd(t *testing.T) *etcdtest.Etcd {
	t.Helper()
	runtime.LockOSThread() // and never let go: it is the test's
	return etcdtest.Start(t)
}

// witnessed is VI_1 with an interval that leaves a busy machine time for an answer through etcd.
func witnessed() *vrrpv1.Instance {
	return &vrrpv1.Instance{
		Name: "VI_1", VirtualRouterId: 53, VirtualAddresses: []string{vip1}, AdvertInterval: durationpb.New(300 * time.Millisecond),
		Members: []*vrrpv1.Member{{Node: "haproxy", Priority: 105}, {Node: "haproxy2", Priority: 99}},
	}
}

// TestKernelWitness cuts all networks between two agents but the one that leads to etcd. The master, which answers there,
// stays the only owner, and the other one raises the alarm. With an etcd that hangs the address is taken over when the
// master dies.
func TestKernelWitness(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	etcd := lastingEtcd(t)
	p := newMachines(t)
	p.inEtcd(t, etcd, witnessed(), nil)

	since := p.census.mark()
	p.a.cut(t, "all")
	awaitThat(t, "take-overs prevented through etcd", func() string {
		if i := p.onB.instances(t)["VI_1"]; !i.GetMasterUnheard() || i.GetTakeoversPrevented() < 5 {
			return fmt.Sprint(i)
		}
		return ""
	})
	got := p.census.count(since)
	t.Logf("all cut but etcd: %v", got)
	if got.two > 0 || p.onB.instances(t)["VI_1"].GetState() != vrrpv1.State_STATE_BACKUP {
		t.Errorf("all cut but etcd: %v", got)
	}

	etcd.Signal(syscall.SIGSTOP)
	defer etcd.Signal(syscall.SIGCONT)
	p.onA.kill(t)
	since = p.census.mark()
	p.census.await(t, p.b.mac(t, "eth0"))
	t.Logf("the master killed, etcd hangs: %v", p.census.count(since))
}

// TestKernelEtcdKey moves the address by a key in etcd, and lets etcd go away, which changes nothing.
func TestKernelEtcdKey(t *testing.T) {
	t.Parallel()
	etcd := lastingEtcd(t)
	p := newMachines(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: etcd.Endpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }() // nothing hangs on it
	set := func(node, value string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := client.Put(ctx, "/ops/in-service/"+node, value); err != nil {
			t.Fatal(err)
		}
	}
	set("haproxy", "yes")
	set("haproxy2", "yes")
	i := witnessed()
	i.Trackers = []*vrrpv1.Tracker{{Name: "in-service", EtcdKey: &vrrpv1.EtcdKey{Key: "/ops/in-service/{node}", Value: new("yes")}}}
	p.inEtcd(t, etcd, i, nil)
	set("haproxy", "no")
	p.census.await(t, p.b.mac(t, "eth0"))
	if reason := p.onA.instances(t)["VI_1"].GetReason(); reason != `tracker in-service failed: key /ops/in-service/haproxy is "no", want "yes"` {
		t.Error(reason)
	}
	set("haproxy", "yes")
	p.census.await(t, p.a.mac(t, "eth0"))
	set("haproxy2", "no")
	awaitThat(t, "haproxy2 in fault", func() string {
		if i := p.onB.instances(t)["VI_1"]; i.GetState() != vrrpv1.State_STATE_FAULT {
			return fmt.Sprint(i)
		}
		return ""
	})
	etcd.Stop()
	since := p.census.mark()
	awaitThat(t, "three thousand questions without etcd", func() string {
		if p.census.mark() < since+3000 {
			return "not yet"
		}
		return ""
	})
	if got := p.census.count(since); got.nobody > 10 || got.two > 0 {
		t.Errorf("without etcd: %v", got)
	}
	if i := p.onB.instances(t)["VI_1"]; i.GetState() != vrrpv1.State_STATE_FAULT {
		t.Errorf("without etcd: %v", i)
	}
}

// TestKernelDrainLasts restarts the agent of a drained node: it stays drained until that is ended.
func TestKernelDrainLasts(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired, state := version3(t, ""), t.TempDir()
	start := func() *agent { return a.agentWith(t, "--desired", desired, "--state-dir", state) }
	onA, onB := start(), b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	drain := func(end bool) {
		t.Helper()
		answer, err := vrrpv1.NewAgentAdminClient(onA.conn).Drain(t.Context(), &vrrpv1.DrainRequest{End: end}, grpc.WaitForReady(true))
		if err != nil || len(answer.GetKept()) > 0 {
			t.Fatalf("%v %v", answer, err)
		}
	}
	awaitThat(t, "the other node would take over", func() string {
		i := onA.instances(t)["VI_1"]
		if all := i.GetAgents(); len(all) != 1 || !all[0].GetReady() {
			return fmt.Sprint(i)
		}
		return ""
	})
	drain(false)
	await(t, "drained", map[*machine]string{a: "", b: both})
	for _, end := range []func(){func() { onA.stop(t) }, func() { onA.kill(t) }} {
		end()
		onA = start()
		awaitThat(t, "started again", func() string {
			if i := onA.instances(t)["VI_1"]; i.GetState() != vrrpv1.State_STATE_BACKUP || !i.GetDrained() || i.GetMasterAddress() == "" {
				return fmt.Sprint(i)
			}
			return ""
		})
		await(t, "started again", map[*machine]string{a: "", b: both})
	}
	drain(true)
	await(t, "no longer drained", map[*machine]string{a: vip1, b: vip3})
	onA.stop(t)
	onA = start()
	await(t, "started without a drain", map[*machine]string{a: vip1, b: vip3})
	onA.stop(t)
	onB.stop(t)
}
