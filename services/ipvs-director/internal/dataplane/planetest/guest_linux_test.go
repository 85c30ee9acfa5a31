package planetest

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// A kernel that panics or hangs under a test is a failure of the test, and its last words are told.
func TestKernelGuestThatFails(t *testing.T) {
	script := findScript(t, Stock.script)
	if out, err := exec.CommandContext(t.Context(), script, "-c").CombinedOutput(); err != nil {
		testreq.Missing(t, string(out))
	}
	cases := []struct {
		name, command string
		code          int
		words         string
	}{
		{"panic", "echo before; echo c >/proc/sysrq-trigger; sleep 1000", 125, "Kernel panic - not syncing: sysrq triggered crash"},
	}
	if os.Getenv(Long) == "1" {
		cases = append(cases, []struct {
			name, command string
			code          int
			words         string
		}{
			{"hang", "echo before; sleep 1000", 124, "not done after 60 s"},
			{"failure", "echo before; exit 7", 7, ""},
			{"no failure", "echo before", 0, ""},
		}...)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out, words strings.Builder
			command := exec.CommandContext(t.Context(), script, "-t", "60", "sh", "-c", c.command)
			command.Stdout, command.Stderr = &out, &words
			err := command.Run()
			var exit *exec.ExitError
			code := 0
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code || out.String() != "before\n" || !strings.Contains(words.String(), c.words) {
				t.Errorf("exit code %d, want %d; it printed %q and said\n%s\nwant %q", code, c.code, out.String(), words.String(), c.words)
			}
		})
	}
}
