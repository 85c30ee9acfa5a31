package importing_test

import (
	"errors"
	"strings"
	"testing"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/importingtest"
)

func TestReport(t *testing.T) {
	t.Parallel()
	var r importing.Report
	lines, err := r.Read("lvs", []byte("  one\r\ntwo \xff\n\nfour secret\nfive\nsix\n"))
	if err != nil || len(lines) != 6 {
		t.Fatalf("read %d lines, %v", len(lines), err)
	}
	lines[0].Assumed("more")
	lines[0].Taken("first of %d", 6)
	lines[0].Taken("first of 6")
	lines[1].Assumed("a")
	lines[1].Ignored("b")
	lines[3].Show("four ***")
	lines[3].Ignored("hidden")
	lines[4].Taken("as five")
	lines[4].LeftOut("nothing left")
	lines[4].Taken("as five again")
	lines[5].Taken("%s", strings.Repeat("x", importing.MaxMessage))
	lines[5].Taken("too much")
	lines[5].Taken("too much again")
	r.Warn("once")
	r.Warn("once")
	got := importingtest.Print(t, []*commonv1.GetStatusRequest{{}}, r.Message())
	want := "GetStatusRequest {}\nwarning: once\n" +
		"lvs:1 assumed | one\n    first of 6; assumed: more\n" +
		"lvs:2 assumed | two \uFFFD\n    b; assumed: a\n" +
		"lvs:3 unsupported | \n    unsupported: this line means nothing to the importer\n" +
		"lvs:4 ignored | four ***\n    hidden\n" +
		"lvs:5 unsupported | five\n    unsupported: nothing left\n" +
		"lvs:6 taken | six\n    " + strings.Repeat("x", importing.MaxMessage) + "; ...\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		texts []string
		want  bool
	}{
		"bytes":            {[]string{strings.Repeat("x", importing.MaxBytes)}, true},
		"too many bytes":   {[]string{strings.Repeat("x", importing.MaxBytes+1)}, false},
		"bytes of two":     {[]string{strings.Repeat("x", importing.MaxBytes), "x"}, false},
		"lines":            {[]string{strings.Repeat("\n", importing.MaxLines)}, true},
		"too many lines":   {[]string{strings.Repeat("\n", importing.MaxLines+1)}, false},
		"lines of several": {[]string{strings.Repeat("\n", importing.MaxLines/2), strings.Repeat("\n", importing.MaxLines/2), "x"}, false},
		"nothing":          {[]string{""}, true},
	} {
		var r importing.Report
		var err error
		for _, text := range c.texts {
			if _, err = r.Read("", []byte(text)); err != nil {
				break
			}
		}
		if (err == nil) != c.want || err != nil && !errors.Is(err, importing.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "abc": "abc", "abcd": "abc...", "äöü": "äöü", "äöüß": "äöü..."} {
		if got := importing.Short(text, 3); got != want {
			t.Errorf("Short(%q) = %q, want %q", text, got, want)
		}
	}
}
