package tree

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func file(path string, size, mtime int64) Entry {
	return Entry{Path: path, Type: File, Size: size, Mtime: mtime, Mode: 0o644}
}
func dir(path string) Entry { return Entry{Path: path, Type: Dir, Mode: 0o755} }
func link(path, to string) Entry {
	return Entry{Path: path, Type: Symlink, Target: to, Mode: 0o777}
}

func TestValidPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"a": true, "a/b": true, "\xff\xfe": true, "new\nline": true, "..a": true, ".hidden/x": true,
		strings.Repeat("n", 255): true, strings.Repeat("a/", 2047) + "a": true,
		"": false, ".": false, "..": false, "/a": false, "a/": false, "a//b": false, "a/../b": false, "./a": false,
		"a/.": false, "nul\x00": false, "a/.twotier-sync-1": false, strings.Repeat("n", 256): false, strings.Repeat("a/", 2048): false,
	} {
		if got := ValidPath(path); got != want {
			t.Errorf("ValidPath(%.40q) = %v, want %v", path, got, want)
		}
	}
}

func TestEntryValid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		e    Entry
		want bool
	}{
		"root":               {dir(Root), true},
		"root as a file":     {file(Root, 0, 0), false},
		"root gone":          {Gone(Root), false},
		"gone":               {Gone("a"), true},
		"gone with a size":   {Entry{Path: "a", Size: 1}, false},
		"file":               {file("a", 3, 1), true},
		"negative size":      {file("a", -1, 1), false},
		"symlink":            {link("a", "/etc"), true},
		"symlink to nothing": {link("a", ""), false},
		"unknown type":       {Entry{Path: "a", Type: 9}, false},
		"climbing":           {file("../a", 1, 1), false},
	} {
		if got := c.e.Valid(); got != c.want {
			t.Errorf("%s: Valid(%+v) = %v, want %v", name, c.e, got, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	owned := file("a", 1, 1)
	owned.UID = 33
	suid := file("a", 1, 1)
	suid.Mode = 0o4755
	plain := file("a", 1, 1)
	plain.Mode = 0o755
	hashed := func(b byte) Entry { e := file("a", 1, 1); e.Hash[0] = b; return e }
	for name, c := range map[string]struct {
		want, have Snapshot
		rules      Rules
		diff       Difference
	}{
		"equal": {want: Snapshot{dir(Root), file("a", 1, 1)}, have: Snapshot{dir(Root), file("a", 1, 1)}},
		"all is missing": {
			want: Snapshot{dir(Root), dir("d"), file("d/f", 1, 1), link("l", "d")},
			diff: Difference{Make: []Entry{dir(Root), dir("d"), link("l", "d")}, Content: []Entry{file("d/f", 1, 1)}},
		},
		"a whole directory is too much": {
			want: Snapshot{dir(Root)},
			have: Snapshot{dir(Root), dir("d"), file("d-x", 1, 1), dir("d/e"), file("d/e/f", 1, 1), file("z", 1, 1)},
			diff: Difference{Delete: []string{"d", "d-x", "z"}, Deletes: 5},
		},
		"size, then time": {
			want: Snapshot{file("a", 2, 1), file("b", 1, 2), file("c", 1, 1)},
			have: Snapshot{file("a", 1, 1), file("b", 1, 1), file("c", 1, 1)},
			diff: Difference{Content: []Entry{file("a", 2, 1), file("b", 1, 2)}},
		},
		"directory becomes file": {
			want: Snapshot{file("d", 1, 1)},
			have: Snapshot{dir("d"), file("d/f", 1, 1)},
			diff: Difference{Delete: []string{"d"}, Deletes: 2, Content: []Entry{file("d", 1, 1)}},
		},
		"file becomes symlink": {
			want: Snapshot{link("d", "/etc")},
			have: Snapshot{file("d", 1, 1)},
			diff: Difference{Delete: []string{"d"}, Deletes: 1, Make: []Entry{link("d", "/etc")}},
		},
		"symlink points elsewhere": {
			want: Snapshot{link("l", "b")}, have: Snapshot{link("l", "a")}, diff: Difference{Make: []Entry{link("l", "b")}},
		},
		"owners count":                         {want: Snapshot{owned}, have: Snapshot{file("a", 1, 1)}, rules: Rules{Owners: true}, diff: Difference{Meta: []Entry{owned}}},
		"owners do not count":                  {want: Snapshot{owned}, have: Snapshot{file("a", 1, 1)}},
		"setuid at the source does not travel": {want: Snapshot{suid}, have: Snapshot{plain}},
		"setuid at the target is mended":       {want: Snapshot{plain}, have: Snapshot{suid}, diff: Difference{Meta: []Entry{plain}}},
		"known hashes differ":                  {want: Snapshot{hashed(1)}, have: Snapshot{hashed(2)}, diff: Difference{Content: []Entry{hashed(1)}}},
		"one hash is not known":                {want: Snapshot{hashed(1)}, have: Snapshot{file("a", 1, 1)}},
	} {
		if got := Compare(c.want, c.have, c.rules); !reflect.DeepEqual(got, c.diff) {
			t.Errorf("%s:\n got  %+v\n want %+v", name, got, c.diff)
		}
	}
}

func TestSnapshotOrder(t *testing.T) {
	t.Parallel()
	s := Snapshot{file("b", 1, 1), file("a/x", 1, 1), file("a-", 1, 1), dir(Root), dir("a"), file("\x01", 1, 1)}
	if s.Sorted() {
		t.Error("an unsorted snapshot passes as sorted")
	}
	s.Sort()
	var paths []string
	for _, e := range s {
		paths = append(paths, e.Path)
	}
	if got, want := fmt.Sprintf("%q", paths), `["." "\x01" "a" "a-" "a/x" "b"]`; got != want || !s.Sorted() {
		t.Errorf("order: got %s, want %s, sorted %v", got, want, s.Sorted())
	}
	if (Snapshot{file("a", 1, 1), file("a", 1, 1)}).Sorted() {
		t.Error("a path that is there twice passes as sorted")
	}
}

func TestBrake(t *testing.T) {
	t.Parallel()
	b := Brake{MinEntries: 100}
	for name, c := range map[string]struct {
		deletes, total int
		watched        bool
		released       int
		want           bool
	}{
		"half":                     {50, 100, false, 0, false},
		"more than half":           {51, 100, false, 0, true},
		"small target":             {99, 99, false, 0, false},
		"deletes were seen":        {100, 100, true, 0, false},
		"released":                 {51, 100, false, 51, false},
		"more than was released":   {100, 100, false, 51, true},
		"everything, unseen":       {100000, 100000, false, 0, true},
		"nothing at all to delete": {0, 0, false, 0, false},
	} {
		if got := b.Holds(c.deletes, c.total, c.watched, c.released); got != c.want {
			t.Errorf("%s: Holds = %v, want %v", name, got, c.want)
		}
	}
}

func TestDirty(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(1000, 0)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	settle := Settle{Quiet: 100 * time.Millisecond, Limit: time.Second}

	t.Run("closed files are due at once, written ones when they rest", func(t *testing.T) {
		t.Parallel()
		d := NewDirty(10, settle)
		d.Mark("closed", true, at(0))
		d.Writing("open", at(0))
		got, next := d.Take(at(0), 10)
		if want := []Candidate{{Path: "closed", Content: true}}; !reflect.DeepEqual(got, want) || !next.Equal(at(100)) {
			t.Fatalf("Take(0) = %v, %v; want %v, %v", got, next, want, at(100))
		}
		d.Writing("open", at(90))
		if got, next := d.Take(at(100), 10); len(got) != 0 || !next.Equal(at(190)) {
			t.Fatalf("Take(100) = %v, %v; want nothing until %v", got, next, at(190))
		}
		d.Mark("open", false, at(120))
		if got, _ := d.Take(at(120), 10); len(got) != 1 || !got[0].Content {
			t.Fatalf("Take after close = %v; want open with its content", got)
		}
	})
	t.Run("a file that never rests is sent all the same", func(t *testing.T) {
		t.Parallel()
		d := NewDirty(10, settle)
		for ms := 0; ms < 1000; ms += 50 {
			d.Writing("log", at(ms))
			if got, _ := d.Take(at(ms), 10); len(got) != 0 {
				t.Fatalf("taken at %d ms", ms)
			}
		}
		if got, _ := d.Take(at(1000), 10); len(got) != 1 {
			t.Fatalf("Take at the limit = %v, want log", got)
		}
	})
	t.Run("too many paths become one comparison", func(t *testing.T) {
		t.Parallel()
		d := NewDirty(2, settle)
		d.Mark("a", true, at(0))
		d.Mark("b", true, at(0))
		d.Mark("a", true, at(0))
		if d.MustCompare() {
			t.Fatal("a path that is there already counts twice")
		}
		d.Mark("c", true, at(0))
		d.Mark("d", true, at(0))
		if got, _ := d.Take(at(0), 10); len(got) != 0 || !d.MustCompare() {
			t.Fatalf("after overflow: %v, compare %v", got, d.MustCompare())
		}
		d.Clear()
		if d.MustCompare() || d.Len() != 0 {
			t.Fatal("not clear")
		}
	})
	t.Run("a retry keeps what is known and never delays a newer change", func(t *testing.T) {
		t.Parallel()
		d := NewDirty(10, settle)
		d.Mark("a", false, at(0))
		d.Retry(Candidate{Path: "a", Content: true, Left: true, Tries: 2}, at(0), at(500))
		got, _ := d.Take(at(0), 10)
		if want := []Candidate{{Path: "a", Content: true, Left: true, Tries: 2}}; !reflect.DeepEqual(got, want) {
			t.Fatalf("Take = %v, want %v", got, want)
		}
		d.Retry(got[0], at(0), at(500))
		if got, next := d.Take(at(499), 10); len(got) != 0 || !next.Equal(at(500)) {
			t.Fatalf("Take(499) = %v, %v", got, next)
		}
	})
	t.Run("a portion at a time", func(t *testing.T) {
		t.Parallel()
		d := NewDirty(10, settle)
		for _, p := range []string{"a", "b", "c"} {
			d.Mark(p, true, at(0))
		}
		first, next := d.Take(at(0), 2)
		if len(first) != 2 || !next.Equal(at(0)) || d.Len() != 1 {
			t.Fatalf("Take = %v, %v, %d left", first, next, d.Len())
		}
	})
}
