package planetest

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ReportFile is the name of the environment variable with a file to which Run adds a line for each case, plane and kernel.
const ReportFile = "TWOTIER_CONFORMANCE_REPORT"

// reportMark begins a line of the report in the output of a test.
const reportMark = "conformance\t"

// Passed says that a test beside the suite, of a plane together with what is above it, has shown something, unless it has
// failed before.
func Passed(t *testing.T, name, plane string, n *Network) {
	t.Helper()
	result := "passed, with the program"
	if t.Failed() {
		result = "failed"
	}
	report(t, name, World{Plane: plane, Network: n}, result)
}

// report says what became of a case, in the output and in the file of the report, if there is one.
func report(t *testing.T, name string, w World, result string) {
	t.Helper()
	where := "no kernel"
	if w.Network != nil {
		var kernel unix.Utsname
		if err := unix.Uname(&kernel); err != nil {
			t.Error(err)
		}
		where = "Linux " + unix.ByteSliceToString(kernel.Release[:])
	}
	line := strings.Join([]string{name, w.Plane, where, result}, "\t")
	t.Log(reportMark + line)
	addToReport(t, line)
}

// Collect adds what a test in another kernel has reported to the file of the report: that kernel may not write it.
func Collect(t testing.TB, output []byte) {
	t.Helper()
	for line := range bytes.Lines(output) {
		if _, reported, found := bytes.Cut(line, []byte(reportMark)); found {
			addToReport(t, strings.TrimSpace(string(reported)))
		}
	}
}

func addToReport(t testing.TB, line string) {
	t.Helper()
	path := os.Getenv(ReportFile)
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := fmt.Fprintln(file, line); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}
