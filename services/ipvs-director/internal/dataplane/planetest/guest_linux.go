package planetest

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

// Guest is a kernel that is started for a test: another than that of this machine.
type Guest struct {
	// Name of the kernel, for people.
	Name   string
	script string // in the folder scripts
}

// The guests.
var (
	// UML has IPVS and boots in seconds: one CPU, and no address translation by nf_tables.
	UML = Guest{"User Mode Linux", "uml-run"}
	// Stock is what most machines run: IPVS and nf_tables on two CPUs. They are emulated, so that all takes ten times as long.
	Stock = Guest{"Debian's kernel in qemu", "qemu-run"}
)

// insideVariable names the guest that a test binary runs under.
const insideVariable = "TWOTIER_GUEST"

// Long is the environment variable that, being 1, has the tests that are shortened in the daily run go on to their end.
const Long = "TWOTIER_LONG"

// Inside tells whether this process runs under the guest.
func (g Guest) Inside() bool { return os.Getenv(insideVariable) == g.script }

// Run runs tests of the running test binary once more under the guest, with nothing allowed to be missing there. The
// pattern is that of go test -run; environment is NAME=VALUE. The test fails when they fail, and when the guest panics or
// does not come to an end.
func (g Guest) Run(t *testing.T, pattern string, environment ...string) {
	t.Helper()
	g.Start(t, pattern, environment...)()
}

// Start is Run that does not wait: what it returns does. With t.Parallel between the two the guest runs beside the tests that follow.
func (g Guest) Start(t *testing.T, pattern string, environment ...string) (end func()) {
	t.Helper()
	command := g.command(t, pattern, environment...)
	var out []byte
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		out, err = command.CombinedOutput()
	}()
	t.Cleanup(func() { <-ended }) // the context, with which the guest ends, is over before this
	return func() {
		t.Helper()
		<-ended
		t.Logf("under %s:\n%s", g.Name, out)
		Collect(t, out)
		if err != nil {
			t.Fatalf("%s: %v", g.script, err)
		}
	}
}

// Together is Run for a package with many tests for a guest: with the first of them, all that go test was asked for run under it in one go.
type Together struct {
	once sync.Once
	out  []byte
	err  error
}

// Run gives the calling test what it has come to there. Tests that do not belong there have to see by Inside that they are.
func (o *Together) Run(t *testing.T, g Guest) {
	t.Helper()
	command := g.command(t, flag.Lookup("test.run").Value.String())
	o.once.Do(func() {
		o.out, o.err = command.CombinedOutput()
		Collect(t, o.out)
	})
	t.Logf("under %s:\n%s", g.Name, o.of(t.Name()))
	failed := bytes.Contains(o.out, []byte("--- FAIL: "))
	if o.err != nil && !failed || !bytes.Contains(o.out, []byte("\n--- PASS: "+t.Name()+" (")) {
		t.Fatalf("%s: %v; that is all it said:\n%s", g.script, o.err, o.out)
	}
}

// of is what a test has printed: from its beginning to that of the next one.
func (o *Together) of(name string) (lines []byte) {
	own := false
	for line := range bytes.Lines(o.out) {
		if _, begins, found := bytes.Cut(line, []byte("=== RUN   ")); found {
			begun, _, _ := strings.Cut(strings.TrimSpace(string(begins)), "/")
			own = begun == name
		}
		if own {
			lines = append(lines, line...)
		}
	}
	return lines
}

// command is what runs tests under the guest.
func (g Guest) command(t *testing.T, pattern string, environment ...string) *exec.Cmd {
	t.Helper()
	script := findScript(t, g.script)
	if out, err := exec.CommandContext(t.Context(), script, "-c").CombinedOutput(); err != nil {
		testreq.Missing(t, string(out))
	}
	var args []string
	for _, e := range append(environment, testreq.RequireAll+"=1", insideVariable+"="+g.script, Long+"="+os.Getenv(Long)) {
		args = append(args, "-e", e)
	}
	args = append(args, g.binary(t), "-test.run", pattern, "-test.v", "-test.timeout", "0")
	if os.Getenv(Long) == "1" {
		args = append([]string{"-t", "3600"}, args...)
	}
	return exec.CommandContext(t.Context(), script, args...)
}

// binary is the file of the tests that runs under the guest: the running one, but for User Mode Linux with the race detector, whose
// memory lies beyond the 512 GiB that a program has there (three levels of page tables). Then it is built once more without.
func (g Guest) binary(t *testing.T) string {
	t.Helper()
	if raced && g == UML {
		plain := filepath.Join(t.TempDir(), "plain.test")
		if out, err := exec.CommandContext(t.Context(), "go", "test", "-race=false", "-c", "-o", plain, ".").CombinedOutput(); err != nil {
			t.Fatalf("go test -c: %v\n%s", err, out)
		}
		return plain
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// findScript looks for a script upwards from the package's folder.
func findScript(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		script := filepath.Join(dir, "scripts", name)
		if _, err := os.Stat(script); err == nil {
			return script
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatalf("there is no scripts/%s above this folder", name)
		}
		dir = parent
	}
}
