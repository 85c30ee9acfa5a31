package recall

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

func TestWhatIsSavedIsLoaded(t *testing.T) {
	t.Parallel()
	f := File{Folder: t.TempDir()}
	if m, err := f.Load(); err != nil || !reflect.DeepEqual(m, steer.Memory{}) {
		t.Errorf("before anything was saved: %+v, %v", m, err)
	}
	vip, real := spec.MustParseVIP("10.10.60.22:53/udp"), netip.MustParseAddrPort("192.168.60.78:80")
	want := steer.Memory{
		Leaving: map[steer.Key]steer.Leave{{VIP: vip, Real: real}: {Until: time.Date(2026, 11, 26, 12, 0, 0, 5, time.UTC), Reset: true}},
		Lost:    map[spec.VIP]bool{vip: true},
		Manners: map[spec.VIP]steer.Manner{vip: {Timeout: time.Minute}},
	}
	for range 2 {
		if err := f.Save(want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := f.Load(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if left, err := os.ReadDir(f.Folder); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func TestDamagedFile(t *testing.T) {
	t.Parallel()
	f := File{Folder: t.TempDir()}
	for _, text := range []string{"", "{", `{"leaving":{"x":{}}}`, `{"leaving":[]}`} {
		if err := os.WriteFile(filepath.Join(f.Folder, FileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := f.Load(); err == nil || !reflect.DeepEqual(m, steer.Memory{}) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}

func TestNowhereToKeep(t *testing.T) {
	t.Parallel()
	if err := (File{}).Save(steer.Memory{}); err != nil {
		t.Error(err)
	}
	if err := (File{Folder: "/nonexistent"}).Save(steer.Memory{}); err == nil {
		t.Error("no folder, and no error")
	}
}
