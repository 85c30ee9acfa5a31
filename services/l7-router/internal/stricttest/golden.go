package stricttest

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Fence is the target of requests that only show that everything before them is through.
const Fence = "/fence"

var update = flag.Bool("update", false, "write golden files anew")

// Golden compares text with a file in this room's testdata; with -update it writes the file.
func Golden(t testing.TB, name, got string) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	file := filepath.Join(filepath.Dir(here), "testdata", name)
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
	if string(want) != got {
		t.Errorf("%s differs (renew it with -update); got\n%s", name, got)
	}
}
