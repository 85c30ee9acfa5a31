package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/testreq"
)

// policies tells under which policy each thread of a process runs.
func policies(t *testing.T, pid int) map[string]uint32 {
	t.Helper()
	all := map[string]uint32{}
	for _, thread := range tasks(pid) {
		tid, err := strconv.Atoi(thread)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := unix.SchedGetAttr(tid, 0); err == nil { // else it has ended
			all[thread] = a.Policy
		}
	}
	return all
}

// buries tells which thread of a process waits for the end of a child, "" for none.
func buries(pid int) string {
	for _, thread := range tasks(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pid, thread))
		if err == nil && strings.HasPrefix(string(text), strconv.Itoa(unix.SYS_WAITID)+" ") {
			return thread
		}
	}
	return ""
}

// TestKernelPriority: all threads of agent and warden take turns at real-time priority, but the one that buries the
// agent, which must not go before the last threads of the agent, nor before those who look at it in /proc.
func TestKernelPriority(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a := n.machine(t, "haproxy", "192.168.60.22/24")
	onA := a.agent(t, version3(t, "profile: PROFILE_FAST"))
	await(t, "started", map[*machine]string{a: both})
	if strings.Contains(onA.output.String(), "no real-time priority") {
		testreq.Missing(t, "real-time priority (CAP_SYS_NICE)")
	}
	wardens := onA.process.command.Process.Pid
	for thread, policy := range policies(t, onA.inner(t)) {
		if policy != unix.SCHED_RR {
			t.Errorf("thread %s of the agent has policy %d", thread, policy)
		}
	}
	awaitThat(t, "the warden waits for the end of the agent at ordinary priority", func() string {
		burier := buries(wardens)
		if burier == "" {
			return "nobody waits"
		}
		for thread, policy := range policies(t, wardens) {
			want := uint32(unix.SCHED_RR)
			if thread == burier {
				want = unix.SCHED_NORMAL
			}
			if policy != want {
				return fmt.Sprintf("thread %s has policy %d, want %d", thread, policy, want)
			}
		}
		return ""
	})
	onA.stop(t)
}

// TestKernelBuried kills two agents at once while others look at all that is theirs in /proc: their wardens end too, and
// do not take the processors for themselves.
func TestKernelBuried(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	desired := version3(t, "profile: PROFILE_FAST")
	for range rounds(t, 3) {
		onA, onB := a.agent(t, desired), b.agent(t, desired)
		await(t, "both started", map[*machine]string{a: vip1, b: vip3})
		agents := []int{onA.inner(t), onB.inner(t)}
		for _, pid := range agents {
			policies(t, pid)
			for _, thread := range tasks(pid) { // what has been looked at is taken out when the thread ends
				_, _ = os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread)) // it may have ended
				_, _ = os.ReadDir(fmt.Sprintf("/proc/%d/task/%s/fd", pid, thread))    // the same
			}
		}
		for _, pid := range agents {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		for _, g := range []*agent{onA, onB} {
			<-g.exited
			if code := g.command.ProcessState.ExitCode(); code != 128+int(syscall.SIGKILL) {
				t.Errorf("the warden ended with %v", g.command.ProcessState)
			}
		}
	}
}
