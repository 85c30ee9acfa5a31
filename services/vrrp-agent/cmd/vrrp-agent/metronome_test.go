package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/warden"
)

const (
	// beating makes this test's program, started again, a metronome on the processor of that number.
	beating = "TWOTIER_TEST_BEATING"
	// beat is its pause, and heldUp a pause that it tells of.
	beat   = time.Millisecond
	heldUp = 10 * time.Millisecond
)

// metronome does nothing but wake each beat at the agent's priority, and tell when it woke late: then the machine has held
// up everybody, the agent included. When none is late, the agent was held up by something of its own. There is one on each
// processor, because one may stand still alone, with whoever was on it last.
type metronome struct {
	processors []*process
	steal      string
}

// metronome starts them on the machine, in the name of the test, which calls keepBeat first.
func (m *machine) metronome(t *testing.T) *metronome {
	t.Helper()
	all := &metronome{steal: steal(t)}
	for processor := range runtime.NumCPU() {
		t.Setenv(beating, strconv.Itoa(processor))
		all.processors = append(all.processors, m.run(t, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.timeout=0"))
	}
	return all
}

// keepBeat does not come back in a metronome.
func keepBeat() {
	text := os.Getenv(beating)
	if text == "" {
		return
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	processor, err := strconv.Atoi(text)
	if err == nil {
		var only unix.CPUSet
		only.Set(processor)
		err = unix.SchedSetaffinity(0, &only)
	}
	if err != nil || !warden.AgentRealtime() {
		fmt.Println("no metronome on processor", text, err)
		os.Exit(1)
	}
	longest, pause := time.Duration(0), unix.NsecToTimespec(beat.Nanoseconds())
	for last := time.Now(); ; {
		_ = unix.Nanosleep(&pause, nil) // when it is cut short it is late the next time
		now := time.Now()
		if gap := now.Sub(last); gap > longest || gap > heldUp {
			longest = max(longest, gap)
			fmt.Printf("%s: held up for %v, "+atMost+"%v\n", now.UTC().Format("15:04:05.000"), gap, longest)
		}
		last = now
	}
}

// atMost is the end of the last line that a metronome prints.
const atMost = "at the most "

// end stops them, logs what they have seen, and returns the longest time for which a processor was held up.
func (m *metronome) end(t *testing.T) (longest time.Duration) {
	t.Helper()
	for n, p := range m.processors {
		p.kill()
		lines := strings.Split(strings.TrimSpace(p.output.String()), "\n")
		last := lines[len(lines)-1]
		t.Logf("the metronome on processor %d: %s", n, last)
		_, text, _ := strings.Cut(last, atMost)
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("the metronome on processor %d printed\n%s", n, p.output)
		}
		longest = max(longest, d)
	}
	t.Logf("time stolen by the host, in ticks before: %s, after: %s", m.steal, steal(t))
	return longest
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
