package loaded

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/twotier/twotier/services/internal/netnsmark"
)

func TestFile(t *testing.T) {
	t.Parallel()
	mark, err := netnsmark.Own()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules")
	holds := func(what, want string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if string(text) != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %q, %v; want %q", what, text, err, want)
		}
	}
	set := func(loaded bool) {
		t.Helper()
		if err := File(path).Set(loaded); err != nil {
			t.Fatal(err)
		}
	}
	set(false)
	holds("nothing to take away", "")
	set(true)
	holds("loaded", mark)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	set(true)
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was written again: %v", err)
	}
	if err := os.WriteFile(path, []byte("of another namespace\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set(true)
	holds("left by another one", mark)
	set(false)
	holds("taken away", "")
	if err := File("").Set(true); err != nil {
		t.Error(err)
	}
	if err := File(filepath.Join(path, "no folder")).Set(true); err == nil {
		t.Error("a file without a folder was written")
	}
}
