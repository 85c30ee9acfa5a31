package wholefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/twotier/twotier/services/internal/wholefile"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "state.json")
	for _, text := range []string{"one\n", "", "another, longer\n"} {
		if err := wholefile.Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	wantOnly(t, folder, "state.json")
}

func TestReplaceFails(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := wholefile.Replace(filepath.Join(folder, "none", "file"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
	taken := filepath.Join(folder, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := wholefile.Replace(taken, []byte("text")); err == nil {
		t.Error("a folder was replaced")
	}
	wantOnly(t, folder, "taken") // nothing is left beside it
}

func wantOnly(t *testing.T, folder, name string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("the folder holds %v, %v; want %s alone", entries, err, name)
	}
}

// TestErrorNamesTheFile and not the one beside it, which has another name each time: who compares errors would take each for a
// new one.
func TestErrorNamesTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "nowhere", "state.json")
	err := wholefile.Replace(path, nil)
	if want := "open " + path + ": no such file or directory"; err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %s", err, want)
	}
}
