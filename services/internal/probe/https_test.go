package probe

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestHTTPS: who may answer, under which name, and what the answer has to be.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.TLS.ServerName)
		w.Header().Add("X-Ready", "no")
		w.Header().Add("X-Ready", "yes, since Monday")
		if r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
		_, _ = w.Write([]byte(strings.Repeat(" ", MaxBody-8) + "all well, and more"))
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS() // with a certificate for example.com and 127.0.0.1
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	address := server.Listener.Addr().String()
	ours := &TLS{ServerName: "example.com", CAFile: ca}
	for _, c := range []struct {
		name string
		p    HTTP
		bad  string // empty: good
		sni  string
	}{
		{"the right name", HTTP{TLS: ours}, "", "example.com"},
		{"an address", HTTP{TLS: &TLS{ServerName: "127.0.0.1", CAFile: ca}}, "", ""},
		{"another name", HTTP{TLS: &TLS{ServerName: "9527du.org", CAFile: ca}}, "not 9527du.org", ""},
		{"another authority", HTTP{TLS: &TLS{ServerName: "example.com"}}, "unknown authority", ""},
		{"any certificate", HTTP{TLS: &TLS{ServerName: "9527du.org", AnyCertificate: true}}, "", "9527du.org"},
		{"no authorities", HTTP{TLS: &TLS{ServerName: "example.com", CAFile: empty}}, "no certificate in PEM", ""},
		{"no file", HTTP{TLS: &TLS{ServerName: "example.com", CAFile: ca + "x"}}, "no such file", ""},
		{"in the clear", HTTP{}, "status 400", ""},
		{"bad status", HTTP{TLS: ours, Path: "/gone"}, "status 410", "example.com"},
		{"that status is wanted", HTTP{TLS: ours, Path: "/gone", Statuses: []int{404, 410}}, "", "example.com"},
		{"another is wanted", HTTP{TLS: ours, Statuses: []int{404, 410}}, "status 200", "example.com"},
		{"body", HTTP{TLS: ours, Body: "all well"}, "", "example.com"},
		{"body further on", HTTP{TLS: ours, Body: "and more"}, `the first 65536 bytes of the body do not contain "and more"`, "example.com"},
		{"header", HTTP{TLS: ours, Header: "x-ready", Value: "yes"}, "", "example.com"},
		{"any header", HTTP{TLS: ours, Header: "x-ready"}, "", "example.com"},
		{"header with another value", HTTP{TLS: ours, Header: "x-ready", Value: "Tuesday"}, `the field x-ready does not contain "Tuesday"`, "example.com"},
		{"no header", HTTP{TLS: ours, Header: "x-steady"}, "no field x-steady", "example.com"},
	} {
		asked.Store("")
		c.p.Address = address
		err := c.p.Probe(t.Context())
		if (err == nil) != (c.bad == "") || err != nil && !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.bad)
		}
		if got := asked.Load(); got != c.sni {
			t.Errorf("%s: the server was asked for %q, want %q", c.name, got, c.sni)
		}
	}
}

// TestHTTPBodyWithoutEnd: a body that goes on and on is looked at up to its limit, one that stops is given up in time.
func TestHTTPBodyWithoutEnd(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.URL.Path == "/endless" {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush() // the probe says whether it came
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	p := HTTP{Address: server.Listener.Addr().String(), Path: "/endless", Body: "half"}
	if err := p.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "do not contain") {
		t.Errorf("endless: %v", err)
	}
	p.Path, p.Body = "/silent", "whole"
	if err := once(t.Context(), 300*time.Millisecond, p); err == nil || !strings.Contains(err.Error(), "read the body") {
		t.Errorf("silent: %v", err)
	}
}
