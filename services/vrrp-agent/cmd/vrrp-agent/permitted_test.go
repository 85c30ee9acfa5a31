package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestKernelWithoutCapabilities: an agent that may not do its work says which capability it lacks, and ends.
func TestKernelWithoutCapabilities(t *testing.T) {
	t.Parallel()
	a := newLAN(t).machine(t, "haproxy", "192.168.60.22/24")
	desired := version3(t, "")
	file, err := agentFile()
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{
		"-all":            "CAP_NET_ADMIN (addresses, routes) and CAP_NET_RAW",
		"-all,+net_admin": "lacks CAP_NET_RAW",
		"-all,+net_raw":   "lacks CAP_NET_ADMIN (addresses, routes), and",
	} {
		p := a.run(t, "setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set="+given, file, "--node", "haproxy",
			"--grpc-listen", "unix:"+filepath.Join(t.TempDir(), "control.sock"), "--desired", desired, "--state-dir", t.TempDir())
		awaitThat(t, given, func() string {
			select {
			case <-p.exited:
				return ""
			default:
				return "the agent runs"
			}
		})
		if log := p.output.String(); p.command.ProcessState.ExitCode() != 1 || !strings.Contains(log, want) {
			t.Errorf("%s: it ended with %v, want 1 and a word of %q in\n%s", given, p.command.ProcessState, want, log)
		}
	}
}
