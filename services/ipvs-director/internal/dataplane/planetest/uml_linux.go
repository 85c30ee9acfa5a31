package planetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// InUML runs tests of the running test binary once more under User Mode Linux, whose kernel has IPVS, with nothing
// allowed to be missing there. The pattern is that of go test -run; environment is NAME=VALUE. The test fails when
// they fail.
func InUML(t *testing.T, pattern string, environment ...string) {
	t.Helper()
	script, err := findScript()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), script, "-c").CombinedOutput(); err != nil {
		testreq.Missing(t, string(out))
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, e := range append(environment, testreq.RequireAll+"=1") {
		args = append(args, "-e", e)
	}
	args = append(args, binary, "-test.run", pattern, "-test.v")
	out, err := exec.CommandContext(t.Context(), script, args...).CombinedOutput()
	t.Logf("under User Mode Linux:\n%s", out)
	Collect(t, out)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
}

// findScript looks for scripts/uml-run upwards from the package's folder.
func findScript() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		script := filepath.Join(dir, "scripts", "uml-run")
		if _, err := os.Stat(script); err == nil {
			return script, nil
		}
		if parent := filepath.Dir(dir); parent != dir {
			dir = parent
			continue
		}
		return "", os.ErrNotExist
	}
}
