package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestThreshold(t *testing.T) {
	for _, test := range []struct {
		name         string
		rise, fall   int
		up           bool
		firstDecides bool
		results      string // + good, - bad
		want         string // the state after each: U up, D down; lower case when it changed
	}{
		{"falls after three", 2, 3, true, false, "--+---+", "UUUUUdD"},
		{"rises after two", 2, 3, false, false, "+-++--", "DDDuUU"},
		{"first bad decides", 2, 3, true, true, "-+-++", "dDDDu"},
		{"first good decides", 2, 3, false, true, "+---", "uUUd"},
		{"first that agrees uses the first up", 2, 3, true, true, "+---", "UUUd"},
		{"below one counts as one", 0, -1, false, false, "+-+", "udu"},
	} {
		t.Run(test.name, func(t *testing.T) {
			threshold := NewThreshold(test.rise, test.fall, test.up, test.firstDecides)
			var got strings.Builder
			for _, result := range test.results {
				up, changed := threshold.Observe(result == '+')
				letter := map[bool]string{true: "U", false: "D"}[up]
				if changed {
					letter = strings.ToLower(letter)
				}
				got.WriteString(letter)
			}
			if got.String() != test.want {
				t.Errorf("%s: got %s, want %s", test.results, got.String(), test.want)
			}
		})
	}
}

// script is a prober that does one thing after the other, and then hangs until it is cut off.
type script []func() error

func (s *script) Probe(ctx context.Context) error {
	if len(*s) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return next()
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := func() error { return nil }
		bad := func() error { return errors.New("refused") }
		s := script{good, bad, good, good, func() error { panic("boom") }}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		begin := time.Now()
		err := Run(ctx, Config{Interval: 10 * time.Second, Timeout: time.Second, Rise: 2, Fall: 2}, &s, func(r Result) {
			line := fmt.Sprintf("up=%v changed=%v", r.Up, r.Changed)
			if r.Err != nil {
				line += " " + strings.SplitN(r.Err.Error(), "\n", 2)[0]
			}
			if r.Duration > 0 {
				line += " " + r.Duration.String()
			}
			if got = append(got, line); len(got) == 6 {
				cancel()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		want := `up=false changed=false
up=false changed=false refused
up=false changed=false
up=true changed=true
up=true changed=false probe panicked: boom
up=false changed=true context deadline exceeded 1s`
		if strings.Join(got, "\n") != want {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
		}
		// Five pauses, one second of hanging, and a stagger of a second at most.
		if took := time.Since(begin); took < 51*time.Second || took > 52*time.Second {
			t.Errorf("six probes took %v", took)
		}
	})
}

// A process without descriptors learns nothing about others, and takes nobody for dead.
func TestOwnFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := func() error { return nil }
		want := func() error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)} }
		s := script{want, good, want, want, func() error { return errors.New("refused") }}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		err := Run(ctx, Config{FirstDecides: true}, &s, func(r Result) {
			if got = append(got, fmt.Sprint(r.Up, r.OwnFault)); len(got) == 5 {
				cancel()
			}
		})
		if want := "false true, true false, true true, true true, false false"; err != nil || strings.Join(got, ", ") != want {
			t.Errorf("got %s, %v; want %s", strings.Join(got, ", "), err, want)
		}
	})
}

// What gRPC says of an error is a text; the cause is not lost all the same.
func TestOwnFaultOfGRPC(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{os.NewSyscallError("socket", syscall.EMFILE), syscall.ECONNREFUSED} {
		p := NewGRPCHealth("127.0.0.1:1", "", nil)
		p.dial = func(context.Context, string, string) (net.Conn, error) { return nil, cause }
		if err := p.Probe(t.Context()); err == nil || OwnFault(err) != OwnFault(cause) {
			t.Errorf("%v: got %v", cause, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// While the results have turned and the state has not, the pauses are short.
func TestFastInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := func() error { return nil }, func() error { return errors.New("refused") }
		s := script{good, bad, bad, bad, bad, good, good}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pauses []time.Duration
		last := time.Now()
		err := Run(ctx, Config{Interval: 10 * time.Second, FastInterval: time.Second, Rise: 2, Fall: 3, Up: true}, &s, func(Result) {
			pauses = append(pauses, time.Since(last))
			last = time.Now()
			if len(pauses) == 7 {
				cancel()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		const slow, fast = 10 * time.Second, time.Second
		if want := []time.Duration{slow, fast, fast, slow, slow, fast}; !slices.Equal(pauses[1:], want) {
			t.Errorf("got %v, want %v", pauses[1:], want)
		}
	})
}

func TestRunDoesNotReportAProbeThatWasCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := Run(ctx, Config{Interval: time.Second, Timeout: time.Minute}, &script{}, func(r Result) { t.Errorf("reported %+v", r) })
		if err != nil {
			t.Error(err)
		}
	})
}

func TestTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := TCP{Address: listener.Addr().String()}
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("listening: %v", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Probe(t.Context()); err == nil {
		t.Error("nobody listens, and the probe is good")
	}
}

func TestHTTP(t *testing.T) {
	var seen string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Method + " " + r.RequestURI + " " + r.Host
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/gone", http.StatusFound)
		case "/gone":
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	for _, test := range []struct {
		name  string
		probe HTTP
		seen  string
		bad   string // part of the error; empty: good
	}{
		{"defaults", HTTP{Address: address}, "GET / " + address, ""},
		{"all set", HTTP{Address: address, Method: "OPTIONS", Path: "/check?a=b", Host: "www.9527du.com"}, "OPTIONS /check?a=b www.9527du.com", ""},
		{"redirect is good and not followed", HTTP{Address: address, Path: "/moved"}, "GET /moved " + address, ""},
		{"404", HTTP{Address: address, Path: "/gone"}, "GET /gone " + address, "404"},
		{"path without slash", HTTP{Address: address, Path: "gone"}, "", "starts with /"},
		{"no address", HTTP{}, "", "no Host"},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen = ""
			err := test.probe.Probe(t.Context())
			if (err == nil) != (test.bad == "") || err != nil && !strings.Contains(err.Error(), test.bad) {
				t.Errorf("got error %v, want one with %q", err, test.bad)
			}
			if seen != test.seen {
				t.Errorf("the server saw %q, want %q", seen, test.seen)
			}
		})
	}
}

func TestGRPCHealth(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	states := health.NewServer()
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, states)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()

	p := NewGRPCHealth(listener.Addr().String(), "router", nil)
	defer func() { _ = p.Close() }()
	if err := p.Probe(t.Context()); err == nil {
		t.Error("unknown service: the probe is good")
	}
	states.SetServingStatus("router", grpc_health_v1.HealthCheckResponse_SERVING)
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("serving: %v", err)
	}
	states.SetServingStatus("router", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := p.Probe(t.Context()); err == nil {
		t.Error("not serving: the probe is good")
	}
	server.Stop()
	<-ended
	if err := p.Probe(t.Context()); err == nil {
		t.Error("nobody listens: the probe is good")
	}
}

// TestHTTPStatusIsText: what a server says of its status is told as text, whatever bytes it is.
func TestHTTPStatusIsText(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, out, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = out.WriteString("HTTP/1.1 503 Indispon\xedvel " + strings.Repeat("x", 10000) + "\r\n\r\n") // the test says whether it came
		_ = out.Flush()
		_ = conn.Close()
	}))
	defer server.Close()
	err := HTTP{Address: server.Listener.Addr().String()}.Probe(t.Context())
	if err == nil || !strings.Contains(err.Error(), "status 503 Indispon\uFFFDvel xxx") || len(err.Error()) > 200 {
		t.Errorf("got %.300v", err)
	}
}
