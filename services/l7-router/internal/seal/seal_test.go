package seal

import (
	"bytes"
	"strings"
	"testing"
)

var (
	oldKey = strings.Repeat("o", MinKey)
	newKey = strings.Repeat("n", MinKey)
)

func keys(t testing.TB, lines ...string) *Keys {
	t.Helper()
	k, err := Parse([]byte("# keys\n\n" + strings.Join(lines, "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSeal(t *testing.T) {
	t.Parallel()
	before, both, after, other := keys(t, oldKey), keys(t, newKey, oldKey), keys(t, newKey), keys(t, strings.Repeat("x", MinKey))
	old := before.Append([]byte("SRV=s1"), "SRV", 4)
	if !bytes.HasPrefix(old, []byte("SRV=s1.")) || len(old) != len("SRV=s1.")+22 {
		t.Fatalf("sealed: %s", old)
	}
	old = old[4:]
	fresh := both.Append([]byte("s1|abcde"), "SRV", 0)
	for _, test := range []struct {
		name  string
		keys  *Keys
		value string
		want  string // empty: refused
	}{
		{"the same key", before, string(old), "s1"},
		{"rotated, the old one still counts", both, string(old), "s1"},
		{"rotated out", after, string(old), ""},
		{"new ones are made with the first", after, string(fresh), "s1|abcde"},
		{"somebody else's", other, string(old), ""},
		{"unsealed", before, "s1", ""},
		{"empty", before, "", ""},
		{"the seal alone", before, string(old[2:]), ""},
		{"another value", before, "s2" + string(old[2:]), ""},
		{"a longer value", before, "s" + string(old), ""},
		{"not base64", before, "s1." + strings.Repeat("!", 22), ""},
		{"bits that do not count", before, string(old[:len(old)-1]) + "_", ""},
		{"cut", before, string(old[:len(old)-1]), ""},
		{"too long", before, strings.Repeat("s", MaxValue) + string(old[2:]), ""},
	} {
		got, ok := test.keys.Open("SRV", []byte(test.value))
		if ok != (test.want != "") || ok && string(got) != test.want {
			t.Errorf("%s: %q %t, want %q", test.name, got, ok, test.want)
		}
	}
	if _, ok := before.Open("OTHER", old); ok {
		t.Error("a value of one cookie counts under the name of another")
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "# only\n", "short", strings.Repeat("x", MaxKey+1), strings.Repeat(oldKey+"\n", MaxKeys+1)} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.40q is taken", bad)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	k := keys(t, newKey, oldKey)
	buf := make([]byte, 0, 100)
	sealed := keys(t, oldKey).Append([]byte("s1"), "SRV", 0)
	if n := testing.AllocsPerRun(100, func() {
		buf = k.Append(append(buf[:0], "s1"...), "SRV", 0)
		if _, ok := k.Open("SRV", sealed); !ok {
			t.Fatal("refused")
		}
	}); n > 0 {
		t.Logf("%v allocations", n) // under the race detector sync.Pool throws things away on purpose
	}
}

func BenchmarkOpen(b *testing.B) {
	k := keys(b, newKey, oldKey)
	sealed := k.Append([]byte("s1"), "SRV", 0)
	b.ReportAllocs()
	for b.Loop() {
		k.Open("SRV", sealed)
	}
}

func FuzzOpen(f *testing.F) {
	k := keys(f, oldKey)
	f.Add(k.Append([]byte("s1"), "SRV", 0))
	f.Add([]byte("s1"))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		value, ok := k.Open("SRV", sealed)
		if ok && !bytes.Equal(k.Append(bytes.Clone(value), "SRV", 0), sealed) {
			t.Errorf("%q is taken for %q", sealed, value)
		}
	})
}
