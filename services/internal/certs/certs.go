// Package certs turns a certificate, its key and a CA into TLS settings that follow the files when they are renewed.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
)

// Files is one certificate with its key, and the CA that others are judged by, all PEM. Any goroutine may call.
type Files struct {
	cert, key, ca string

	mu     sync.Mutex
	text   [3][]byte // what the present pair was made of
	pair   *tls.Certificate
	issuer *x509.CertPool
}

// Open reads the files once, so that a mistake shows at start.
func Open(cert, key, ca string) (*Files, error) {
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("TLS: want all three of certificate, key and CA")
	}
	f := &Files{cert: cert, key: key, ca: ca}
	if _, _, err := f.load(); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return f, nil
}

// Client is for connecting: TLS 1.3, the own certificate as it is on disk at the time of each handshake. The CA is the
// one of this moment: a new CA needs a restart, or both in one file while they change.
func (f *Files) Client() *tls.Config {
	_, issuer := f.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    issuer,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, _ := f.current()
			return pair, nil
		},
	}
}

// Server is for listening: TLS 1.3, a client certificate of the CA is required; certificate and CA are as they are on
// disk at the time of each handshake.
func (f *Files) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, issuer := f.current()
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{*pair},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    issuer,
				// Resumption would let a client in by the CA of its first visit.
				SessionTicketsDisabled: true,
			}, nil
		},
	}
}

// Leaf is the own certificate.
func (f *Files) Leaf() *x509.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pair.Leaf
}

// current is what is on disk now, or, while that is half written, what was there before.
func (f *Files) current() (*tls.Certificate, *x509.CertPool) {
	if pair, issuer, err := f.load(); err == nil {
		return pair, issuer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pair, f.issuer
}

// load reads the files; they are small, and handshakes are rare. It parses them only when they have changed.
func (f *Files) load() (*tls.Certificate, *x509.CertPool, error) {
	var text [3][]byte
	for i, name := range []string{f.cert, f.key, f.ca} {
		var err error
		if text[i], err = os.ReadFile(name); err != nil {
			return nil, nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	same := f.pair != nil
	for i := range text {
		same = same && bytes.Equal(text[i], f.text[i])
	}
	if same {
		return f.pair, f.issuer, nil
	}
	pair, err := tls.X509KeyPair(text[0], text[1])
	if err != nil {
		return nil, nil, fmt.Errorf("%s, %s: %w", f.cert, f.key, err)
	}
	issuer := x509.NewCertPool()
	if !issuer.AppendCertsFromPEM(text[2]) {
		return nil, nil, fmt.Errorf("%s: no PEM certificate in it", f.ca)
	}
	f.text, f.pair, f.issuer = text, &pair, issuer
	return f.pair, f.issuer, nil
}
