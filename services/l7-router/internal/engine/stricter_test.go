package engine_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// TestStricterClientAuth: when clients have to show a certificate from now on, those that have shown none are let go, with the
// answer to the request under way; so are they when the address goes to another frontend. A change that is no stricter keeps them.
func TestStricterClientAuth(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *world){
		"by a change of the frontend": func(w *world) { w.main().TLS.ClientAuth = spec.ClientAuthRequired },
		"by another frontend": func(w *world) {
			other := *w.main()
			other.Name = "other"
			other.TLS.ClientAuth = spec.ClientAuthRequired
			w.main().BindTLS, w.main().TLS = nil, spec.TLS{}
			w.main().Bind = []netip.AddrPort{clear}
			w.want.Frontends = append(w.want.Frontends, other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			w := newWorld(t, held(t, release))
			ca := certtest.New(t)
			w.speak(ca, "localhost")
			w.main().TLS.ClientCAFile, w.main().TLS.ClientAuth = ca.File, spec.ClientAuthOptional
			w.apply()
			none := trust(t, ca, "localhost")
			idle, busy := dialTLS(t, w.bound(secure), none), dialTLS(t, w.bound(secure), none)
			two := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: none.Clone(), ForceAttemptHTTP2: true}}
			idle.get("/", "")
			r, err := two.Get("https://" + w.bound(secure))
			if err != nil || r.ProtoMajor != 2 {
				t.Fatalf("HTTP/2: %+v %v", r, err)
			}
			_ = r.Body.Close()
			w.main().TimeoutClient += time.Second
			w.apply()
			idle.get("/", "") // as before
			busy.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
			<-release // it is at the server

			change(w)
			w.apply()
			if n, err := idle.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("an idle connection: read %d bytes: %v; want its end", n, err)
			}
			<-release
			if r, body := busy.response(); r.StatusCode != 200 || body != "held" || !r.Close {
				t.Errorf("the request under way: %d %q close %t, want the answer and close", r.StatusCode, body, r.Close)
			}
			for give := time.Now().Add(patience); ; { // until the client has heard of it
				r, err := two.Get("https://" + w.bound(secure))
				if err == nil && time.Now().Before(give) {
					_ = r.Body.Close()
					continue
				}
				if err == nil { // which error it is depends on whether it reads or writes first
					t.Error("over HTTP/2 requests are still served")
				}
				break
			}
			c, err := tls.Dial("tcp", w.bound(secure), none)
			if err != nil {
				t.Fatal(err) // with TLS 1.3 the refusal comes after
			}
			defer c.Close()
			if _, err := io.ReadAll(c); !alerted(err, certificateRequired) {
				t.Errorf("a new connection: %v, want the alert", err)
			}
		})
	}
}

// held is a server that has /held wait: it tells when such a request is there, and answers when it is told to.
func held(t *testing.T, release chan struct{}) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/held" {
			return
		}
		for range 2 { // it is here; go on
			select {
			case release <- struct{}{}:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "held")
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
