package stricttest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Fence is the target of requests that only show that everything before them is through.
const Fence = "/fence"

var (
	update   = flag.Bool("update", false, "write golden files anew")
	requests = flag.Int("differential.requests", 1000, "requests to make and compare")
	seed     = flag.Uint64("differential.seed", 1, "the first of them")
)

// Amount is how many requests the differential test makes, and the seed of the first.
func Amount() (n int, first uint64) { return *requests, *seed }

// place is a file of this room's testdata, for the tests of the rooms beside it too: a test runs in the folder of its package.
func place(name string) string { return filepath.Join("..", "stricttest", "testdata", name) }

// Golden compares text with a file in this room's testdata; with -update it writes the file.
func Golden(t testing.TB, name, got string) {
	t.Helper()
	file := place(name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines, wanted := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i, line := range lines {
		if i >= len(wanted) || line != wanted[i] {
			t.Errorf("%s:%d differs (renew it with -update)\ngot  %.500s\nwant %.500s", name, i+1, line, wanted[min(i, len(wanted)-1)])
			return
		}
	}
	if len(lines) != len(wanted) {
		t.Errorf("%s has %d lines, want %d (renew it with -update)", name, len(wanted), len(lines))
	}
}
