package warden

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/testreq"
)

// spinning makes this test's program, started again, run for ever at real-time priority.
const spinning = "TWOTIER_TEST_SPINNING"

// TestKernelLongestRun: the kernel ends a process at real-time priority that never waits.
func TestKernelLongestRun(t *testing.T) {
	t.Parallel()
	if os.Getenv(spinning) != "" {
		if !AgentRealtime() {
			os.Exit(3)
		}
		for n := 0; ; {
			n++
		}
	}
	command := exec.Command("/proc/self/exe", "-test.run=^TestKernelLongestRun$", "-test.timeout=1m")
	command.Env = append(os.Environ(), spinning+"=1", "GOMAXPROCS=1")
	err := command.Run()
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		t.Fatal(err)
	}
	if ended.ExitCode() == 3 {
		testreq.Missing(t, "real-time priority (CAP_SYS_NICE)")
	}
	if s := ended.Sys().(syscall.WaitStatus); s.Signal() != unix.SIGKILL {
		t.Errorf("ended with %v", ended)
	}
}
