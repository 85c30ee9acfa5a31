package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inner returns the process of the agent itself, which is the only child of the warden, which is the process that the
// test has started.
func (p *process) inner(t *testing.T) int {
	t.Helper()
	agent := 0
	awaitThat(t, "the warden has started the agent", func() string {
		children := childrenOf(p.command.Process.Pid)
		if len(children) == 0 {
			return fmt.Sprintf("process %d has no children", p.command.Process.Pid)
		}
		agent = children[0]
		return ""
	})
	return agent
}

// kill ends agent and warden without giving either a chance.
func (a *agent) kill(t *testing.T) {
	t.Helper()
	inner := a.inner(t)
	a.process.signal(syscall.SIGSTOP)        // so that it cannot help
	_ = syscall.Kill(inner, syscall.SIGKILL) // gone is as good
	a.process.kill()
}

// killAlone kills the agent, and waits until its warden has buried it.
func (a *agent) killAlone(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(a.inner(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-a.exited
}

// signal reaches agent and warden, the one that could help first.
func (a *agent) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	inner := a.inner(t)
	a.process.signal(s)
	_ = syscall.Kill(inner, s) // gone is as good
}

// childrenOf returns the children of a process.
func childrenOf(pid int) (all []int) {
	for _, thread := range tasks(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, thread))
		if err != nil {
			continue // a thread that has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func tasks(pid int) []string {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// rounds is how often a drill is repeated: a few times in CI, as often as TWOTIER_ROUNDS says in its long form.
func rounds(t *testing.T, short int) int {
	t.Helper()
	text := os.Getenv("TWOTIER_ROUNDS")
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("TWOTIER_ROUNDS: want a number of rounds, got %q", text)
	}
	return n
}

// Limits of the time with two owners, in questions of a census, which are milliseconds on an idle machine.
const (
	twoWithWarden    = 50
	twoWithoutWarden = 1200
)

// TestKernelWarden kills and freezes a master's agent and lets it run out of memory, round after round, with its warden alive
// and with it. The other node takes over after 0.11 s; how long two answer for the address is counted every millisecond.
func TestKernelWarden(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	c := n.machine(t, "witness", "192.168.60.1/24").census(t, "eth0", vip1)
	s := scarce(t)
	desired := version3(t, "profile: PROFILE_FAST")
	onA, onB := a.agent(t, desired), b.agent(t, desired)
	await(t, "both started", map[*machine]string{a: vip1, b: vip3})
	send := func(signal syscall.Signal) {
		if err := syscall.Kill(onA.inner(t), signal); err != nil {
			t.Fatal(err)
		}
	}
	for _, drill := range []struct {
		name   string
		strike func()
		mend   func() // nil: it is dead
		most   int
	}{
		{name: "killed", most: twoWithWarden, strike: func() { send(syscall.SIGKILL) }},
		{name: "out of memory", most: twoWithWarden, strike: func() { s.strike(t, a, onA.inner(t)) }},
		{name: "frozen", most: twoWithWarden, strike: func() { send(syscall.SIGSTOP) }, mend: func() { send(syscall.SIGCONT) }},
		{name: "killed with its warden", most: twoWithoutWarden, strike: func() { onA.kill(t) }},
		{name: "out of memory with its warden", most: twoWithoutWarden, strike: func() { s.strike(t, a, onA.inner(t), onA.command.Process.Pid) }},
		{name: "frozen with its warden", most: twoWithoutWarden,
			strike: func() { onA.signal(t, syscall.SIGSTOP) }, mend: func() { onA.signal(t, syscall.SIGCONT) }},
	} {
		for round := range rounds(t, 2) {
			c.await(t, a.mac(t, "eth0"))
			since := c.mark()
			drill.strike()
			c.await(t, b.mac(t, "eth0"))
			if drill.mend != nil {
				drill.mend()
			} else {
				<-onA.exited
				onA = a.agent(t, desired)
			}
			c.await(t, a.mac(t, "eth0"))
			got := c.count(since)
			t.Logf("%s, round %d: %v", drill.name, round+1, got)
			if got.two > drill.most {
				t.Errorf("%s: two owners in %d answers, want %d at most", drill.name, got.two, drill.most)
			}
		}
	}
	onA.stop(t)
	onB.stop(t)
}

// TestKernelWardenKilled: an agent whose warden is killed resigns and ends.
func TestKernelWardenKilled(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a := n.machine(t, "haproxy", "192.168.60.22/24")
	w := n.machine(t, "witness", "192.168.60.1/24").watch(t, "eth0")
	onA := a.agent(t, version3(t, "profile: PROFILE_FAST"))
	await(t, "started", map[*machine]string{a: both})
	inner := onA.inner(t)
	onA.process.kill()
	awaitThat(t, "the agent ends", func() string {
		if syscall.Kill(inner, 0) == nil {
			if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", inner)); err == nil && !strings.Contains(string(state), ") Z") {
				return "it lives"
			}
		}
		return ""
	})
	await(t, "resigned", map[*machine]string{a: ""})
	if w.count(0, "advert 53 priority 0") != 1 {
		t.Error("the agent did not resign")
	}
}
