package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/twotier/twotier/e2e/bench/figure"
)

// secure is the TLS that both rivals speak in a case: version 1.3, a certificate with a P-256 key, tickets as they come.
type secure struct{ cert, key, both string }

// newSecure makes the certificate.
func newSecure(folder string) (*secure, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	s := &secure{filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"), filepath.Join(folder, "both.pem")}
	return s, errors.Join(
		os.WriteFile(s.cert, certText, 0o600),
		os.WriteFile(s.key, keyText, 0o600),
		os.WriteFile(s.both, append(certText, keyText...), 0o600))
}

// bind is how our frontend listens; without TLS s is nil.
func (s *secure) bind(address string) string {
	if s == nil {
		return fmt.Sprintf("bind: [%q]\n", address)
	}
	return fmt.Sprintf("bind_tls: [%q]\ntls: {min_version: \"1.3\", certificates: [{cert_file: %q, key_file: %q}]}\n", address, s.cert, s.key)
}

// haproxyBind is how HAProxy's frontend listens.
func (s *secure) haproxyBind(address string) string {
	if s == nil {
		return address
	}
	return address + " ssl crt " + s.both + " ssl-min-ver TLSv1.3 alpn h2,http/1.1"
}

// newTLS asks for 100 bytes over a new TLS connection each time, with a whole handshake: wrk resumes no session.
func (b *bench) newTLS(name string) error {
	return b.overTLS(name, 0.7, func(address string, burst time.Duration) (result, error) {
		return b.load("https://"+address, 32, burst, "Connection: close")
	})
}

// keptTLS asks for 100 bytes over TLS connections that are kept, in HTTP/1.1.
func (b *bench) keptTLS(name string) error {
	return b.overTLS(name, 0.8, func(address string, burst time.Duration) (result, error) {
		return b.load("https://"+address, 32, burst, "")
	})
}

// http2 asks for 100 bytes over 8 TLS connections, 32 requests at a time on each.
func (b *bench) http2(name string) error {
	return b.overTLS(name, 0.8, b.loadHTTP2)
}

// overTLS loads both; goal is that of requests a second.
func (b *bench) overTLS(name string, goal float64, load func(address string, burst time.Duration) (result, error)) (err error) {
	if b.secure, err = newSecure(b.folder); err != nil {
		return err
	}
	defer func() { b.secure = nil }()
	server, err := b.startSmallOrigin()
	if err != nil {
		return err
	}
	defer server.stop()
	rivals, stop, err := b.startRivals(server.address)
	if err != nil {
		return err
	}
	defer stop()
	for _, r := range rivals { // until everything is warm
		if _, err := load(r.address, 500*time.Millisecond); err != nil {
			return err
		}
	}
	m := measures{}
	err = b.inTurns(rivals, func(who int, r *rival) error {
		before, err := r.cpu()
		if err != nil {
			return err
		}
		got, err := load(r.address, b.burst)
		if err != nil {
			return err
		}
		after, err := r.cpu()
		if err != nil {
			return err
		}
		m.add("rps", who, got.rate)
		m.add("cpu_per_request", who, float64((after-before).Nanoseconds())/1000/got.requests)
		return nil
	})
	return errors.Join(err,
		b.compare(m, name, "rps", "1/s", figure.Higher, goal),
		b.compare(m, name, "cpu_per_request", "us", figure.Lower, 1/goal))
}

var (
	h2loadRate = regexp.MustCompile(`(?m)^finished in .*, ([0-9.]+) req/s`)
	h2loadDone = regexp.MustCompile(`(?m)^requests: .* ([0-9]+) succeeded, ([0-9]+) failed, ([0-9]+) errored`)
)

// loadHTTP2 sends requests with h2load, whole seconds long.
func (b *bench) loadHTTP2(address string, burst time.Duration) (result, error) {
	seconds := max(1, int(burst.Round(time.Second)/time.Second))
	out, err := exec.Command("taskset", "-c", loadCore, "h2load", "-t", "1", "-c", "8", "-m", "32", "-D", strconv.Itoa(seconds), "https://"+address+"/").CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("h2load: %w (scripts/preflight bench): %s", err, out)
	}
	rate, done := h2loadRate.FindSubmatch(out), h2loadDone.FindSubmatch(out)
	if rate == nil || done == nil {
		return result{}, fmt.Errorf("h2load: no result in %q", out)
	}
	var r result
	var failed, errored float64
	for text, to := range map[string]*float64{string(rate[1]): &r.rate, string(done[1]): &r.requests} {
		if *to, err = strconv.ParseFloat(text, 64); err != nil {
			return result{}, err
		}
	}
	if _, err := fmt.Sscan(string(done[2])+" "+string(done[3]), &failed, &errored); err != nil || r.requests == 0 {
		return result{}, fmt.Errorf("h2load: no request succeeded: %s", out)
	}
	if failed+errored > 0 {
		fmt.Fprintf(os.Stderr, "bench-router: %g requests to %s failed\n", failed+errored, address)
	}
	return r, nil
}
