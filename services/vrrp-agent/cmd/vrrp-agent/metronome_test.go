package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/warden"
)

const (
	// beating makes this test's program, started again, a metronome.
	beating = "TWOTIER_TEST_BEATING"
	// beat is its pause, and heldUp a pause that it tells of.
	beat   = time.Millisecond
	heldUp = 10 * time.Millisecond
)

// metronome does nothing but wake each beat at the agent's priority, and tell when it woke late: then the machine has held
// up everybody, the agent included. Where it stands still no longer than ever, the agent was held up by something of its own.
type metronome struct {
	*process
	steal string
}

// metronome starts one on the machine, in the name of the test, which calls keepBeat first.
func (m *machine) metronome(t *testing.T) *metronome {
	t.Helper()
	t.Setenv(beating, "1")
	return &metronome{m.run(t, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.timeout=0"), steal(t)}
}

// keepBeat does not come back in a metronome.
func keepBeat() {
	if os.Getenv(beating) == "" {
		return
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if !warden.AgentRealtime() {
		fmt.Println("no real-time priority")
		os.Exit(1)
	}
	longest, pause := time.Duration(0), unix.NsecToTimespec(beat.Nanoseconds())
	for last := time.Now(); ; {
		_ = unix.Nanosleep(&pause, nil) // when it is cut short it is late the next time
		now := time.Now()
		if gap := now.Sub(last); gap > longest || gap > heldUp {
			longest = max(longest, gap)
			fmt.Printf("%s: held up for %v, at the most %v\n", now.UTC().Format("15:04:05.000"), gap, longest)
		}
		last = now
	}
}

// end stops it and logs what it has seen.
func (m *metronome) end(t *testing.T) {
	t.Helper()
	m.kill()
	lines := strings.Split(strings.TrimSpace(m.output.String()), "\n")
	t.Logf("the metronome: %s; time stolen by the host, in ticks before: %s, after: %s", lines[len(lines)-1], m.steal, steal(t))
}

// steal is how long all processors of the machine were not at its disposal, in ticks (proc_stat(5)).
func steal(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	const field = 8 // behind the name
	fields := strings.Fields(string(text))
	if len(fields) <= field {
		t.Fatalf("/proc/stat: %.80q", text)
	}
	return fields[field]
}
