package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestKernelSecondAgent starts an agent where another one is at work, by mistake, with a port and a folder of its own. It says
// who is there, leaves all as it is and ends. One that has died, or whose warden is not done with it, is in nobody's way.
func TestKernelSecondAgent(t *testing.T) {
	t.Parallel()
	a := newLAN(t).machine(t, "haproxy", "192.168.60.22/24")
	desired := version3(t, "virtual_mac: true")
	onA := a.agent(t, desired)
	await(t, "started", map[*machine]string{a: both})
	before := master(t, onA, "VI_1").GetTransitions()
	cards := a.Exec(t, "ip", "-o", "link", "show", "type", "macvlan")

	refused := func(what string, says string) {
		t.Helper()
		second := a.agent(t, desired)
		awaitThat(t, what, func() string {
			select {
			case <-second.exited:
				return ""
			default:
				return "the second agent runs"
			}
		})
		log := second.output.String()
		if second.command.ProcessState.ExitCode() != 1 || !strings.Contains(log, "another agent is at work in this network namespace") || !strings.Contains(log, says) {
			t.Errorf("%s: it ended with %v, want 1 and a word of %q", what, second.command.ProcessState, says)
		}
		if strings.Contains(log, "left by an earlier run") {
			t.Errorf("%s: it took away what is the other one's", what)
		}
	}
	refused("beside one that runs", fmt.Sprintf("process %d, node haproxy, control API at unix:", onA.inner(t)))
	if got := a.Exec(t, "ip", "-o", "link", "show", "type", "macvlan"); got != cards {
		t.Errorf("the second agent has changed the cards from\n%s to\n%s", cards, got)
	}
	if i := master(t, onA, "VI_1"); i.GetTransitions() != before || strings.Contains(onA.output.String(), "put back") {
		t.Errorf("the second agent was noticed: %v", i)
	}
	onA.signal(t, syscall.SIGSTOP)
	refused("beside one that is frozen", fmt.Sprintf("process %d, which does not answer", onA.inner(t)))
	onA.signal(t, syscall.SIGCONT)

	onA.kill(t)
	next := a.agent(t, desired)
	await(t, "started at once after the end of both", map[*machine]string{a: both})
	master(t, next, "VI_1")

	// The warden does not come to bury its agent before the next one is at work.
	inner := next.inner(t)
	next.process.signal(syscall.SIGSTOP)
	_ = syscall.Kill(inner, syscall.SIGKILL) // gone is as good
	last := a.agent(t, desired)
	master(t, last, "VI_1")
	master(t, last, "VI_3")
	cards = a.Exec(t, "ip", "-o", "link", "show", "type", "macvlan")
	next.process.signal(syscall.SIGCONT)
	<-next.exited
	await(t, "started before the warden was done", map[*machine]string{a: both})
	if got := a.Exec(t, "ip", "-o", "link", "show", "type", "macvlan"); got != cards {
		t.Errorf("the warden of the dead one has changed the cards from\n%s to\n%s", cards, got)
	}
	last.stop(t)
}

// TestKernelPlaceOfAStranger: anybody on the machine can take the name by which a second agent is noticed. That keeps no
// agent from its work.
func TestKernelPlaceOfAStranger(t *testing.T) {
	t.Parallel()
	a := newLAN(t).machine(t, "haproxy", "192.168.60.22/24")
	stranger := a.run(t, "setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "/usr/bin/python3", "-uc",
		`import signal, socket; s = socket.socket(socket.AF_UNIX); s.bind("\0twotier/vrrp-agent"); s.listen(); print("taken"); signal.pause()`)
	awaitThat(t, "the name is taken", func() string {
		if text := stranger.output.String(); text != "taken\n" {
			return "the stranger says " + text
		}
		return ""
	})
	onA := a.agent(t, version3(t, ""))
	await(t, "started", map[*machine]string{a: both})
	if log := onA.output.String(); !strings.Contains(log, "a second agent in this network namespace will not be noticed") || !strings.Contains(log, `"user":65534`) {
		t.Error("nothing was said of it")
	}
	onA.stop(t)
}
