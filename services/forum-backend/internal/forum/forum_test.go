package forum_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

func fields(ps []forum.Problem) string {
	var fs []string
	for _, p := range ps {
		fs = append(fs, p.Field)
	}
	return strings.Join(fs, " ")
}

func TestCheckUser(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ name, email, password, want string }{
		"good":                {"alice", "alice@example.com", "correct horse", ""},
		"chinese":             {"张三丰", "zhang@example.com", "密码密码密码密码", ""},
		"everything empty":    {"", "", "", "name email password"},
		"one character":       {"a", "a@example.com", "12345678", "name"},
		"31 characters":       {strings.Repeat("张", 31), "a@example.com", "12345678", "name"},
		"space at the end":    {"bob ", "a@example.com", "12345678", "name"},
		"line break":          {"bo\nb", "a@example.com", "12345678", "name"},
		"direction override":  {"bob\u202egnp", "a@example.com", "12345678", "name"},
		"zero-width space":    {"bo\u200bb", "a@example.com", "12345678", "name"},
		"two words":           {"bob x", "a@example.com", "12345678", ""},
		"two spaces":          {"bob  x", "a@example.com", "12345678", "name"},
		"another space":       {"bob\u00a0x", "a@example.com", "12345678", "name"},
		"filler":              {"bob\u3164", "a@example.com", "12345678", "name"},
		"nothing but fillers": {"\u115f\u2800", "a@example.com", "12345678", "name"},
		"not UTF-8":           {"bo\xffb", "a@example.com", "12345678", "name"},
		"no at sign":          {"bob", "example.com", "12345678", "email"},
		"display name":        {"bob", "Bob <bob@example.com>", "12345678", "email"},
		"long address":        {"bob", strings.Repeat("a", 190) + "@example.com", "12345678", "email"},
		"header in address":   {"bob", "a@example.com\r\nBcc: b@example.com", "12345678", "email"},
		"password too short":  {"bob", "b@example.com", "1234567", "password"},
		"password too long":   {"bob", "b@example.com", strings.Repeat("x", 201), "password"},
		"password not UTF-8":  {"bob", "b@example.com", "12345678\xff", "password"},
		"password any symbol": {"bob", "b@example.com", "\" ' <>\t&;", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := fields(forum.CheckUser(c.name, c.email, c.password, forum.MinPassword)); got != c.want {
				t.Errorf("CheckUser(%q, %q, %q): got %q, want %q", c.name, c.email, c.password, got, c.want)
			}
		})
	}
}

func TestCheckThread(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ title, body, want string }{
		"good":           {"hello", "world", ""},
		"chinese":        {"负载均衡", "第一行\n第二行\t👍🏽 👨‍👩‍👧", ""},
		"empty":          {"", "", "title body"},
		"only spaces":    {"  ", " \n ", "title body"},
		"only a filler":  {"\u3164", "x", "title"},
		"filler in body": {"a", "\u3164", ""},
		"two lines":      {"a\nb", "x", "title"},
		"long title":     {strings.Repeat("均", 121), "x", "title"},
		"longest title":  {strings.Repeat("均", 120), "x", ""},
		"long body":      {"a", strings.Repeat("衡", 20001), "body"},
		"longest body":   {"a", strings.Repeat("衡", 20000), ""},
		"NUL in body":    {"a", "x\x00y", "body"},
		"body not UTF-8": {"a", "\xc3\x28", "body"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := fields(forum.CheckThread(c.title, c.body)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCleanFileName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"photo.png":                       "photo.png",
		"../../etc/passwd":                "passwd",
		`C:\Users\me\图片.JPG`:              "图片.JPG",
		"..":                              "file",
		"":                                "file",
		"a\r\nSet-Cookie: x=1":            "a__Set-Cookie_ x=1",
		"evil\u202egnp.exe":               "evil_gnp.exe",
		`a"b.txt`:                         "a_b.txt",
		strings.Repeat("长", 200) + ".tar": strings.Repeat("长", 116) + ".tar",
		"x." + strings.Repeat("y", 200):   "x." + strings.Repeat("y", 118),
		"\xff\xfe.txt":                    "_.txt",
		"foo%2f..%2fbar":                  "foo_2f.._2fbar",
	} {
		if got := forum.CleanFileName(in); got != want {
			t.Errorf("CleanFileName(%q): got %q, want %q", in, got, want)
		}
	}
}

func FuzzCleanFileName(f *testing.F) {
	for _, s := range []string{"", "..", "../x", "a\x00b", strings.Repeat("é", 300) + ".x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := forum.CleanFileName(s)
		if got == "" || got == "." || got == ".." || strings.ContainsAny(got, "/\\\"\r\n\x00") ||
			!utf8.ValidString(got) || utf8.RuneCountInString(got) > forum.MaxFileName {
			t.Errorf("CleanFileName(%q): got %q", s, got)
		}
	})
}

func TestCheckFilePath(t *testing.T) {
	t.Parallel()
	for p, want := range map[string]bool{
		"attachment/forum/201409/02/1012130123456789abcdef.png":       true,
		"attachment/forum/201409/02/1012130123456789abcdef.attach":    true,
		"attachment/forum/201409/02/1012130123456789abcdef.php":       false,
		"attachment/forum/201409/02/../../../../../etc/passwd":        false,
		"/attachment/forum/201409/02/1012130123456789abcdef.png":      false,
		"attachment/forum/201409/02/1012130123456789abcdef.png\n":     false,
		"attachment/forum/201409/02/1012130123456789abcdef.png/x.png": false,
		"": false,
	} {
		if got := forum.CheckFilePath(p); got != want {
			t.Errorf("CheckFilePath(%q): got %v, want %v", p, got, want)
		}
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		number, size, total int
		want                forum.Page
		last, offset        int
	}{
		{1, 10, 0, forum.Page{Number: 1, Size: 10}, 1, 0},
		{1, 10, 10, forum.Page{Number: 1, Size: 10, Total: 10}, 1, 0},
		{2, 10, 11, forum.Page{Number: 2, Size: 10, Total: 11}, 2, 10},
		{9, 10, 11, forum.Page{Number: 2, Size: 10, Total: 11}, 2, 10},
		{-1, 20, 50, forum.Page{Number: 1, Size: 20, Total: 50}, 3, 0},
	} {
		got := forum.NewPage(c.number, c.size, c.total)
		if got != c.want || got.Last() != c.last || got.Offset() != c.offset {
			t.Errorf("NewPage(%d, %d, %d): got %+v last %d offset %d, want %+v last %d offset %d",
				c.number, c.size, c.total, got, got.Last(), got.Offset(), c.want, c.last, c.offset)
		}
	}
	for s, want := range map[string]int{"": 1, "0": 1, "-3": 1, "x": 1, "7": 7, "99999999999999999999": 1, "999999999": forum.MaxPage} {
		if got := forum.ParsePage(s); got != want {
			t.Errorf("ParsePage(%q): got %d, want %d", s, got, want)
		}
	}
	for n, want := range map[int]int{0: 1, 1: 1, 10: 1, 11: 2, 20: 2, 21: 3} {
		if got := forum.PageOf(n, 10); got != want {
			t.Errorf("PageOf(%d, 10): got %d, want %d", n, got, want)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 255 << 10, 256 << 10, 256<<10 + 1, 512 << 10, 1<<20 + 7} {
		content := bytes.Repeat([]byte{0xab, 1, 2}, size/3+1)[:size]
		want := forum.File{Path: "p", Size: int64(size), SHA256: sha256.Sum256(content)}
		read := func(b []byte) ([]byte, error) {
			r, err := forum.Verify(bytes.NewReader(b), want)
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		}
		if got, err := read(content); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: got %d bytes, error %v", size, len(got), err)
		}
		bad := map[string][]byte{"longer": append(bytes.Clone(content), 1)}
		if size > 0 {
			flipped := bytes.Clone(content)
			flipped[size-1] ^= 1
			bad["flipped"] = flipped
			bad["shorter"] = content[:size-1]
		}
		for name, b := range bad {
			got, err := read(b)
			if !errors.Is(err, forum.ErrTampered) || (size > 0 && len(got) >= size) {
				t.Errorf("%d bytes, %s: got %d bytes, error %v, want ErrTampered before the end", size, name, len(got), err)
			}
			if size <= 256<<10-1 && got != nil {
				t.Errorf("%d bytes, %s: something was given out", size, name)
			}
		}
	}
}
