package engine_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/l7-router/internal/proxytest"
)

// TestHTTP2OverTLS holds that HTTP/2 is offered unless it is disabled, that clients without it are served, and that the
// cipher suites of RFC 9113 appendix A end it.
func TestHTTP2OverTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.apply()
	negotiated := func(protocols ...string) string {
		config := trust(t, ca, "localhost")
		config.NextProtos = protocols
		c, err := tls.Dial("tcp", w.bound(secure), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().NegotiatedProtocol
	}
	ask := func() string {
		transport := &http.Transport{TLSClientConfig: trust(t, ca, "localhost"), ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		r, err := (&http.Client{Transport: transport}).Post("https://"+w.bound(secure)+"/echo", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		_, _ = io.Copy(io.Discard, r.Body)
		return r.Proto
	}
	for _, disabled := range []bool{false, true, false} {
		w.main().HTTP2.Disabled = disabled
		w.apply()
		both, proto := "h2", "HTTP/2.0"
		if disabled {
			both, proto = "http/1.1", "HTTP/1.1"
		}
		if got := negotiated("h2", "http/1.1"); got != both {
			t.Errorf("disabled %t: %q is spoken", disabled, got)
		}
		if got := negotiated("http/1.1"); got != "http/1.1" {
			t.Errorf("disabled %t: HTTP/1.1 alone: %q is spoken", disabled, got)
		}
		if got := ask(); got != proto {
			t.Errorf("disabled %t: answered in %s", disabled, got)
		}
	}

	config := trust(t, ca, "localhost")
	config.NextProtos, config.MaxVersion = []string{"h2"}, tls.VersionTLS12
	config.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	c, err := tls.Dial("tcp", w.bound(secure), config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for frames := xhttp2.NewFramer(c, c); ; {
		f, err := frames.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if away, ok := f.(*xhttp2.GoAwayFrame); ok {
			if away.ErrCode != xhttp2.ErrCodeInadequateSecurity {
				t.Errorf("got %v", away)
			}
			break
		}
	}
}

func TestH2SpecOverTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.apply()
	passed, failed := proxytest.H2Spec(t, w.bound(secure), "-t", "-k")
	t.Logf("h2spec over TLS: %d passed, failed %q", passed, failed)
	if passed < 145 || len(failed) > 0 {
		t.Errorf("%d tests passed, want 145; failed: %q", passed, failed)
	}
}
