package recall

import (
	"os"
	"testing"
)

func TestFolder(t *testing.T) {
	t.Parallel()
	folder := Folder(t.TempDir())
	drained := func(want bool) {
		t.Helper()
		if got, err := folder.Drained(); got != want || err != nil {
			t.Errorf("got %v %v, want %v", got, err, want)
		}
	}
	drained(false)
	for _, on := range []bool{false, true, true, false, true} {
		if err := folder.SetDrained(on); err != nil {
			t.Fatal(err)
		}
		drained(on)
	}
	if err := os.RemoveAll(string(folder)); err != nil {
		t.Fatal(err)
	}
	if err := folder.SetDrained(true); err == nil {
		t.Error("kept in a folder that is not there")
	}
	folder = ""
	drained(false)
	if err := folder.SetDrained(false); err != nil {
		t.Error(err)
	}
	if err := folder.SetDrained(true); err != errNowhere {
		t.Error(err)
	}
}
