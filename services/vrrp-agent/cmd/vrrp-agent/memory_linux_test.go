package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// scarcity is a control group of Linux, of version 1 or 2, whose members have little memory together.
type scarcity struct {
	folder string
	events string // the file with the line oom_kill, which counts whom the kernel has ended for want of memory
}

// enough memory for a while, so that whoever takes it all is not ended at its start.
const enough = "33554432"

// scarce makes one, without a member.
func scarce(t *testing.T) *scarcity {
	t.Helper()
	for _, version := range []struct {
		root, events string
		settings     [][2]string // in this order; the second is of kernels that can swap
	}{
		{"/sys/fs/cgroup", "memory.events", [][2]string{{"memory.max", enough}, {"memory.swap.max", "0"}}},
		{"/sys/fs/cgroup/memory", "memory.oom_control", [][2]string{{"memory.limit_in_bytes", enough}, {"memory.swappiness", "0"}}},
	} {
		// In version 2 a group hands memory on only if it is told to. Version 1 has no such file.
		_ = set(filepath.Join(version.root, "cgroup.subtree_control"), "+memory") // the limit below tells whether it is so
		folder, err := os.MkdirTemp(version.root, "vrrp-agent-test-")
		if err != nil {
			continue
		}
		s := &scarcity{folder: folder, events: filepath.Join(folder, version.events)}
		t.Cleanup(func() {
			awaitThat(t, "the control group is empty", func() string {
				if err := os.Remove(folder); err != nil {
					return err.Error()
				}
				return ""
			})
		})
		for n, setting := range version.settings {
			if err := set(filepath.Join(folder, setting[0]), setting[1]); err != nil && (n == 0 || !errors.Is(err, fs.ErrNotExist)) {
				s = nil
				break
			}
		}
		if s != nil {
			t.Logf("memory runs out in %s", folder)
			return s
		}
	}
	testreq.Missing(t, "a control group with a limit of memory, of version 1 or 2, which this process may make")
	return nil
}

// set writes to a file that is there.
func set(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// strike makes the processes members, those that the kernel chooses first, lets memory run out, and waits until the kernel
// has ended them.
func (s *scarcity) strike(t *testing.T, hub *machine, pids ...int) {
	t.Helper()
	before := s.ended(t)
	for _, pid := range pids {
		for file, text := range map[string]string{
			fmt.Sprintf("/proc/%d/oom_score_adj", pid): "1000",
			filepath.Join(s.folder, "cgroup.procs"):    strconv.Itoa(pid),
		} {
			if err := set(file, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What has no line end, tail keeps. It is the last to be ended.
	hog := hub.run(t, "sh", "-c", `echo $$ >"$0"/cgroup.procs && exec tail /dev/zero`, s.folder)
	<-hog.exited
	if got := s.ended(t); got < before+len(pids)+1 {
		t.Fatalf("the kernel has ended %d processes for want of memory, want %d and the one that took it; it said %v\n%s",
			got-before, len(pids), hog.command.ProcessState, hog.output)
	}
}

// ended is how many of the members the kernel has ended.
func (s *scarcity) ended(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(s.events)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if count, found := strings.CutPrefix(line, "oom_kill "); found {
			n, err := strconv.Atoi(strings.TrimSpace(count))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s does not count: %s", s.events, text)
	return 0
}
