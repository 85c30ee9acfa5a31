package daemon

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/internal/grpcserver"
)

// called runs start with arguments and an environment, and tells what came of it.
func called(args []string, env map[string]string, extra func(*flag.FlagSet), run func(context.Context, *Process) error) (code int, out, errs string) {
	var o, e strings.Builder
	if run == nil {
		run = func(context.Context, *Process) error { return errors.New("run was called") }
	}
	code = start("l7-router", surroundings{
		args:   args,
		env:    func(name string) (string, bool) { value, ok := env[name]; return value, ok },
		out:    &o,
		errors: &e,
	}, extra, run)
	return code, o.String(), e.String()
}

func TestFlagsRuleOverTheEnvironment(t *testing.T) {
	var got Config
	var own string
	code, _, errs := called(
		[]string{"--grpc-listen=127.0.0.1:1", "--etcd", "http://a:2379, http://b:2379"},
		map[string]string{"TWOTIER_GRPC_LISTEN": "127.0.0.1:2", "TWOTIER_NODE": "haproxy2", "TWOTIER_STATE_DIR": "/s", "TWOTIER_OWN": "x"},
		func(fs *flag.FlagSet) { fs.StringVar(&own, "own", "", "") },
		func(_ context.Context, p *Process) error { got = p.Config; return nil },
	)
	if code != exitDone {
		t.Fatalf("code %d: %s", code, errs)
	}
	if got.GRPCListen != "127.0.0.1:1" || got.Node != "haproxy2" || got.StateDir != "/s" || own != "x" || got.LogLevel != "info" ||
		!slices.Equal(got.Etcd, []string{"http://a:2379", "http://b:2379"}) {
		t.Errorf("got %+v, own %q", got, own)
	}
}

func TestDefaults(t *testing.T) {
	var got Config
	called([]string{"--desired=x"}, nil, nil, func(_ context.Context, p *Process) error { got = p.Config; return nil })
	if got.GRPCListen != "127.0.0.1:7402" || got.StateDir != "/var/lib/twotier/l7-router" || got.MetricsListen != "" || got.Node == "" {
		t.Errorf("got %+v", got)
	}
}

// Where the default folder for the last good state cannot be made, a service does without; a folder that somebody named
// has to work.
func TestStateDirThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config := Config{StateDir: filepath.Join(file, "below"), stateDirFree: true}
	if got := config.DesiredConfig(nil, zap.NewNop()).StateDir; got != "" {
		t.Errorf("default: got %q, want none", got)
	}
	config.stateDirFree = false
	if got := config.DesiredConfig(nil, zap.NewNop()).StateDir; got != config.StateDir {
		t.Errorf("named: got %q, want %q", got, config.StateDir)
	}
}

func TestExitCodes(t *testing.T) {
	fail := func(context.Context, *Process) error { return errors.New("no luck") }
	done := func(context.Context, *Process) error { return nil }
	for _, test := range []struct {
		name      string
		args      []string
		env       map[string]string
		run       func(context.Context, *Process) error
		code      int
		out, errs string // parts
	}{
		{"version", []string{"--version"}, nil, nil, 0, "l7-router devel\n", ""},
		{"help", []string{"--help"}, nil, nil, 0, "TWOTIER_GRPC_LISTEN", ""},
		{"ends well", []string{"--desired=x"}, nil, done, 0, "", `"service":"l7-router"`},
		{"ends with an error", []string{"--desired=x"}, nil, fail, 1, "", `"error":"no luck"`},
		{"no source", nil, nil, nil, 2, "", "--etcd or --desired"},
		{"two sources", []string{"--desired=x", "--etcd=y"}, nil, nil, 2, "", "only one"},
		{"unknown flag", []string{"--colour=red"}, nil, nil, 2, "", "colour"},
		{"stray word", []string{"--desired=x", "go"}, nil, nil, 2, "", `unexpected argument "go"`},
		{"bad level", []string{"--desired=x", "--log-level=loud"}, nil, nil, 2, "", "loud"},
		{"bad node", []string{"--desired=x", "--node=a/b"}, nil, nil, 2, "", "--node"},
		{"bad environment", []string{"--desired=x"}, map[string]string{"TWOTIER_VERSION": "maybe"}, nil, 2, "", "TWOTIER_VERSION"},
		{"half of TLS", []string{"--desired=x", "--tls-cert=a"}, nil, nil, 2, "", "all three"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, out, errs := called(test.args, test.env, nil, test.run)
			if code != test.code || !strings.Contains(out, test.out) || !strings.Contains(errs, test.errs) {
				t.Errorf("code %d, out %q, errors %q; want %d, %q, %q", code, out, errs, test.code, test.out, test.errs)
			}
		})
	}
}

func TestSignalEndsRun(t *testing.T) {
	code, _, errs := called([]string{"--desired=x"}, nil, nil, func(ctx context.Context, _ *Process) error {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	if code != exitDone || !strings.Contains(errs, "service ends") {
		t.Errorf("code %d: %s", code, errs)
	}
}

func TestHealth(t *testing.T) {
	ca := certtest.New(t)
	cert, key := ca.Issue(t, "haproxy", "service")
	secured := []string{"--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.File}
	socket := "unix:" + filepath.Join(t.TempDir(), "api.sock")
	for name, flags := range map[string][]string{
		"plain":  {"--grpc-listen", socket},
		"secure": secured,
	} {
		t.Run(name, func(t *testing.T) {
			config, _, err := parse("l7-router", flags, surroundings{env: func(string) (string, bool) { return "", false }}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if name == "secure" {
				config.GRPCListen = "0.0.0.0:0" // asked on the loopback
			}
			server, err := grpcserver.New(config.GRPCConfig(zap.NewNop()))
			if err != nil {
				t.Fatal(err)
			}
			args := append([]string{"health"}, flags...)
			if name == "secure" {
				_, port, _ := strings.Cut(server.Addr().String(), "]:")
				args = append(args, "--grpc-listen", "0.0.0.0:"+port)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- server.Run(ctx) }()
			for serving, want := range map[bool]int{true: exitDone, false: exitError} {
				server.SetServing("", serving)
				if code, _, errs := called(args, nil, nil, nil); code != want {
					t.Errorf("serving %v: code %d, want %d: %s", serving, code, want, errs)
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if code, _, _ := called(args, nil, nil, nil); code != exitError {
				t.Errorf("nobody listens: code %d", code)
			}
		})
	}
}

func TestGroup(t *testing.T) {
	patient := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, test := range []struct {
		name    string
		members map[string]func(context.Context) error
		want    string
	}{
		{"asked to end", map[string]func(context.Context) error{"a": patient, "b": patient}, ""},
		{"one fails", map[string]func(context.Context) error{"a": patient, "b": func(context.Context) error { return errors.New("no luck") }}, "b: no luck"},
		{"one hangs", map[string]func(context.Context) error{"a": patient, "b": func(context.Context) error { time.Sleep(time.Hour); return nil }}, "did not end within 10s: [b]"}, // in the time of synctest
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewGroup(zap.NewNop())
				for name, run := range test.members {
					g.Add(name, run)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				got := ""
				if err := g.Run(ctx); err != nil {
					got = err.Error()
				}
				if got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				time.Sleep(2 * time.Hour) // in the time of synctest: the one that hung is done
			})
		})
	}
}

// A process that comes before Main goes by the same name, whatever else is wrong.
func TestNodeOf(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		env  string
		want string
	}{
		{[]string{"--desired", "x.yaml", "--node", "lvs"}, "", "lvs"},
		{nil, "lvs2", "lvs2"},
		{nil, "", host},
		{[]string{"--colour", "red"}, "", host},
		{[]string{"--help"}, "", host},
	} {
		lookup := func(name string) (string, bool) { return c.env, c.env != "" && name == "TWOTIER_NODE" }
		if got := nodeOf("vrrp-agent", surroundings{args: c.args, env: lookup, out: io.Discard, errors: io.Discard}); got != c.want {
			t.Errorf("%q, %q: got %q, want %q", c.args, c.env, got, c.want)
		}
	}
}
