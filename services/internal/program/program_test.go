package program

import (
	"context"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestScript runs programs as the user of the test, in a folder that only that user can write.
func TestScript(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("/var/tmp", "track") // below it all is root's, but for the sticky folder itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// /var/tmp is writable for all, so that nothing below it is to be trusted.
	err = Run(ctx, []string{write("good", "#!/bin/sh\nexit 0\n", 0o755)}, me.Username)
	if err == nil || !strings.Contains(err.Error(), "/var/tmp can be written by its group or by others") {
		t.Errorf("below /var/tmp: %v", err)
	}
	for name, tt := range map[string]struct {
		argv []string
		want string // "": good
	}{
		"good":           {[]string{"/bin/true"}, ""},
		"bad":            {[]string{"/bin/false"}, "/bin/false: exit status 1"},
		"a shell":        {[]string{"/bin/sh", "-c", "echo it is broken >&2; exit 3"}, "/bin/sh: exit status 3: it is broken"},
		"no shell":       {[]string{"/bin/echo", "$(exit 1)"}, ""},
		"nothing":        {[]string{"/bin/nothing-here"}, "no such file"},
		"a folder":       {[]string{"/bin"}, "is no ordinary file"},
		"an environment": {[]string{"/bin/sh", "-c", "test \"$(env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | wc -l)\" = 1"}, ""},
	} {
		err := Run(ctx, tt.argv, me.Username)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if err := Run(ctx, []string{"/bin/true"}, "nobody-of-that-name"); err == nil {
		t.Error("an unknown user is accepted")
	}
	if err := Run(t.Context(), []string{"/bin/sh", "-c", "sleep 1000 & exit 0"}, me.Username); err != nil {
		t.Errorf("what it has left running holds its output open: %v", err)
	}
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := Run(short, []string{"/bin/sh", "-c", "sleep 1000 & sleep 1000"}, me.Username); err == nil || !strings.Contains(err.Error(), "not ended in time") {
		t.Errorf("a program without end: %v", err)
	}
	if os.Getuid() == 0 { // the default user can be taken
		if err := Run(ctx, []string{"/bin/sh", "-c", "test $(id -u) = 65534 && ! test -w /"}, "nobody"); err != nil {
			t.Errorf("as nobody: %v", err)
		}
	}
}
